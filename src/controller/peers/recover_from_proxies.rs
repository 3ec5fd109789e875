//! Recovery from proxies, before a controller leads that has lost the published snapshot: it asks the proxies for their snapshots, and its peers once
//! more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use waypost_model::snapshot::Snapshot;

use crate::controller::message::{Input, Query, Signal, Stopped};
use crate::controller::peers::follow::Relay;
use crate::controller::peers::recover::Recovery;
use crate::controller::rules::election::Role;
use crate::controller::rules::recovery::{Next, Waiting};

const STEP_PAUSE: Duration = Duration::from_millis(50);
/// Interval in which the other controllers are asked again: one may have been late.
const PEER_QUESTION_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for the publication of an offer; it is exceeded if the store was lost at that moment.
const OFFER_TIMEOUT: Duration = Duration::from_secs(1);

impl Relay {
    /// If there has been a leader before, but neither this controller nor another one has the published snapshot, proxies may still serve it. Their
    /// snapshot is fetched, and its objects that the stores do not have are held.
    ///
    /// # Errors
    /// The controller has stopped.
    pub(super) async fn recover_from_proxies(&self) -> Result<(), Stopped> {
        let Some(epoch) = self.roles.borrow().epoch().filter(|epoch| *epoch > 1) else { return Ok(()) };
        let knows_something = || self.handle.snapshots.borrow().version.sequence > 0;
        let _wanted = self.handle.offers.want();
        let (mut waiting, mut begun, mut asked, mut others_have_more, mut said) = (Waiting::default(), Instant::now(), Instant::now(), false, false);
        while self.roles.borrow().epoch() == Some(epoch) && !knows_something() {
            sleep(STEP_PAUSE).await;
            if !matches!(*self.roles.borrow(), Role::Leading { .. }) {
                // Without the store no offer is taken up, and nothing is published.
                self.look_for_successor(epoch).await;
                waiting.begin_anew();
                begun = Instant::now();
                continue;
            }
            if asked.elapsed() >= PEER_QUESTION_INTERVAL {
                others_have_more = self.have_others_more(epoch).await;
                asked = Instant::now();
                continue;
            }
            let facts = self.handle.ask(Query::RecoveryState).await?;
            let best = self.handle.offers.best();
            let next = waiting.next(begun.elapsed(), &facts, best.as_ref().map(|best| best.version).unwrap_or_default());
            match (next, best) {
                _ if others_have_more => {}
                (Next::Go, Some(best)) => self.take(best).await?,
                (Next::Go, None) => {
                    if let Some(highest) = waiting.held {
                        self.say(format!("proxies have seen version {highest}, and none has told it: what the stores say is published")).await?;
                    }
                    return Ok(());
                }
                (Next::WaitLong, _) if !std::mem::replace(&mut said, true) => {
                    let why = if facts.complete { "a store is empty" } else { "a store was not read yet" };
                    let explanation =
                        "what was published before is not known: nothing is published before a proxy or another controller tells it, or that has changed";
                    self.say(format!("{why}, and {explanation}")).await?;
                    self.handle.open_operated(epoch).await?;
                }
                (Next::Wait | Next::WaitLong, _) => {}
            }
        }
        Ok(())
    }

    /// Asks the other controllers once more and fetches the newest state. Returns whether one has more that did not arrive.
    async fn have_others_more(&self, epoch: u64) -> bool {
        match self.recover_once(Some(epoch)).await {
            Recovery::More | Recovery::Unaware => true,
            Recovery::Done | Recovery::RecordsMissing => false,
            Recovery::Contested(epoch) => {
                self.signal(Signal::Saw { epoch, living: false }).await;
                true
            }
        }
    }

    /// Takes up the snapshot that a proxy offered.
    async fn take(&self, best: Arc<Snapshot>) -> Result<(), Stopped> {
        tracing::info!("goes on from version {}, which a proxy told", best.version);
        let mut snapshots = self.handle.snapshots.clone();
        self.handle.send(Input::RecoveredFromProxy(best)).await?;
        // If the store was lost at that moment, the offer is taken up again later.
        timeout(OFFER_TIMEOUT, snapshots.wait_for(|snapshot| snapshot.version.sequence > 0)).await.map(drop).unwrap_or_default();
        Ok(())
    }

    async fn say(&self, message: String) -> Result<(), Stopped> {
        self.handle.send(Input::damaged("published", message)).await
    }
}
