//! Before a controller leads, it fetches the published snapshot and the record of operators' actions from the other controllers.

use std::time::Duration;

use futures_util::stream::StreamExt as _;
use tokio::time::{sleep, timeout};
use waypost_wire::{ControllerInfo, WATCH_PATH};

use crate::controller::jitter::jitter;
use crate::controller::message::Signal;
use crate::controller::peers::follow::{QUESTION_TIMEOUT, RETRY_PAUSE, Relay};
use crate::controller::peers::replicate::Fetch;
use crate::controller::peers::streams::{StreamError, join};
use crate::controller::rules::election::Role;

/// Time limit for the answers of the other controllers to a new leader.
const PEER_ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// Maximum number of times that a controller which has a snapshot itself asks a peer that has a newer one.
const MAX_SNAPSHOT_ATTEMPTS: u32 = 3;

/// The result of asking the peers before we lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// No peer that answers has a newer snapshot.
    Done,
    /// A peer has a newer snapshot, and it did not arrive.
    More,
    /// A peer that answers did not send its record of operators' actions.
    RecordsMissing,
    /// A peer leads under our epoch, or under this higher one.
    Contested(u64),
    /// A peer leads under a lower epoch and does not know of us yet. Its publications until it does must not be taken back.
    Unaware,
}

impl Relay {
    /// Before we publish, we fetch the newest snapshot and records of the other controllers. A controller that does not answer at once counts
    /// as stopped. One that answers and has a newer snapshot is asked again, without end by a controller that has none.
    pub(super) async fn recover(&self) {
        let epoch = self.roles.borrow().epoch();
        // A controller without the right to write leads only where there are no others.
        let alone = matches!(*self.roles.borrow(), Role::Leading { until: Duration::MAX, .. });
        if !alone && !self.handle.met(QUESTION_TIMEOUT).await {
            tracing::warn!("the store has not said which other controllers there are; those that are known already are asked");
        }
        let mut tries = MAX_SNAPSHOT_ATTEMPTS;
        while self.roles.borrow().epoch() == epoch {
            let knows_something = self.handle.snapshots.borrow().version.sequence > 0;
            match self.recover_once(epoch).await {
                Recovery::Done => return,
                Recovery::More => tries = tries.saturating_sub(u32::from(knows_something)),
                Recovery::RecordsMissing => tries = tries.saturating_sub(1),
                // Its lease ends soon, and it does not get another one while our record is in the store.
                Recovery::Unaware => {}
                // Two controllers have one epoch: ours has to become the higher one first.
                Recovery::Contested(epoch) => self.signal(Signal::Saw { epoch, living: false }).await,
            }
            if tries == 0 {
                return;
            }
            sleep(jitter(RETRY_PAUSE)).await;
        }
    }

    /// Asks all peers once, and fetches the state of the peer with the highest version.
    pub(super) async fn recover_once(&self, epoch: Option<u64>) -> Recovery {
        let own = self.handle.snapshots.borrow().version;
        let mut answers = self.ask_peers().await;
        let (mut best, mut met): (Option<ControllerInfo>, Vec<String>) = (None, Vec::new());
        let (mut contested, mut unaware) = (None, false);
        let asked = async {
            while let Some(info) = answers.next().await {
                met.push(info.url.clone());
                // The store was restored from a backup, with an older record of leading.
                contested = contested.max(info.epoch.filter(|_| info.epoch >= epoch));
                unaware |= info.leads;
                if info.version.is_some_and(|version| version > own) && best.as_ref().is_none_or(|best| info.version > best.version) {
                    best = Some(info);
                }
            }
        };
        let all_answered = timeout(PEER_ANSWER_TIMEOUT, asked).await.is_ok();
        drop(answers);
        if let Some(epoch) = contested {
            return Recovery::Contested(epoch);
        }
        if unaware {
            return Recovery::Unaware;
        }
        // The record of operators' actions has a rank of its own: any peer may have the newest one.
        let mut all_records = true;
        for url in &met {
            if best.as_ref().is_none_or(|best| best.url != *url) {
                all_records &= self.fetch(url, Fetch::Operator, PEER_ANSWER_TIMEOUT).await;
            }
        }
        let Some(best) = best else { return if all_records { Recovery::Done } else { Recovery::RecordsMissing } };
        tracing::info!(all_answered, "{} has version {} of what was published before, we {own}", best.name, best.version.unwrap_or_default());
        let fetched = self.fetch(&best.url, Fetch::All, PEER_ANSWER_TIMEOUT * if own.sequence == 0 { 10 } else { 2 }).await;
        match (fetched, all_records) {
            (true, true) => Recovery::Done,
            (true, false) => Recovery::RecordsMissing,
            (false, _) => Recovery::More,
        }
    }

    /// Fetches the state of another controller once; returns whether all of it arrived.
    async fn fetch(&self, url: &str, what: Fetch, patience: Duration) -> bool {
        let (Some(watch), Some(replica)) = (join(url, WATCH_PATH), join(url, "/v1/replica")) else { return true };
        let fetched = timeout(patience, async {
            self.replicate_once(replica, what).await?;
            if what == Fetch::All {
                let mut response = self.open(watch).await?;
                self.relay(&mut response, true).await?;
            }
            Ok::<_, StreamError>(())
        });
        let complete = matches!(fetched.await, Ok(Ok(())));
        if !complete {
            tracing::warn!(url, "what another controller has of what was published before could not be fetched");
        }
        complete
    }
}
