//! Recovery from proxies, before a controller leads that has lost what was published: they are asked for their snapshots, and the peers once more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use waypost_model::snapshot::Snapshot;

use crate::controller::message::{Input, Query, Signal, Stopped};
use crate::controller::peers::follow::Relay;
use crate::controller::peers::recover::Recovery;
use crate::controller::rules::election::Role;
use crate::controller::rules::recovery::{Next, Waiting};

const PAUSE: Duration = Duration::from_millis(50);
/// Other controllers are asked again this often: one may have been late.
const ASKED: Duration = Duration::from_secs(1);
/// An offer is taken up within this time, unless the store was lost in that moment.
const TAKEN: Duration = Duration::from_secs(1);

impl Relay {
    /// Where somebody has led before and nothing is known of what was published, neither here nor by other controllers, proxies may
    /// still serve it: what they hold is fetched, and what the stores do not have of it is held.
    ///
    /// # Errors
    /// The controller has stopped.
    pub(super) async fn recover_from_proxies(&self) -> Result<(), Stopped> {
        let Some(epoch) = self.roles.borrow().epoch().filter(|epoch| *epoch > 1) else { return Ok(()) };
        let knows_something = || self.handle.snapshots.borrow().version.sequence > 0;
        let _wanted = self.handle.offers.want();
        let (mut waiting, mut begun, mut asked, mut others_have_more, mut said) = (Waiting::default(), Instant::now(), Instant::now(), false, false);
        while self.roles.borrow().epoch() == Some(epoch) && !knows_something() {
            sleep(PAUSE).await;
            if !matches!(*self.roles.borrow(), Role::Leading { .. }) {
                // Without the store nothing is taken, and nothing published.
                self.look_for_successor(epoch).await;
                waiting.begin_anew();
                begun = Instant::now();
                continue;
            }
            if asked.elapsed() >= ASKED {
                others_have_more = self.have_others_more(epoch).await;
                asked = Instant::now();
                continue;
            }
            let seen = self.handle.ask(Query::RecoveryState).await?;
            let best = self.handle.offers.best();
            let next = waiting.next(begun.elapsed(), &seen, best.as_ref().map(|best| best.version).unwrap_or_default());
            match (next, best) {
                _ if others_have_more => {}
                (Next::Go, Some(best)) => self.take(best).await?,
                (Next::Go, None) => {
                    if let Some(held) = waiting.held {
                        self.say(format!("proxies have seen version {held}, and none has told it: what the stores say is published")).await?;
                    }
                    return Ok(());
                }
                (Next::WaitLong, _) if !std::mem::replace(&mut said, true) => {
                    let why = if seen.complete { "a store is empty" } else { "a store was not read yet" };
                    let told =
                        "what was published before is not known: nothing is published before a proxy or another controller tells it, or that has changed";
                    self.say(format!("{why}, and {told}")).await?;
                    self.handle.open_operated(epoch).await?;
                }
                (Next::Wait | Next::WaitLong, _) => {}
            }
        }
        Ok(())
    }

    /// Asks the other controllers once more, and fetches what they have; whether there is more that did not come.
    async fn have_others_more(&self, epoch: u64) -> bool {
        match self.recover_once(Some(epoch)).await {
            Recovery::More | Recovery::Unaware => true,
            Recovery::Done | Recovery::Untold => false,
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
        // If the store was lost in that moment, it is tried again.
        timeout(TAKEN, snapshots.wait_for(|snapshot| snapshot.version.sequence > 0)).await.map(drop).unwrap_or_default();
        Ok(())
    }

    async fn say(&self, message: String) -> Result<(), Stopped> {
        self.handle.send(Input::damaged("published", message)).await
    }
}
