//! Before a controller leads that knows nothing: the proxies are asked for what they hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use waypost_model::snapshot::{Snapshot, Version};

use super::super::election::Role;
use super::super::handle::Query;
use super::super::recall::Seen;
use super::super::step::Input;
use super::Relay;

/// Proxies look for a controller at least this often.
const COMING: Duration = Duration::from_secs(7);
/// Where the stores have something, proxies that came and have nothing are waited with for so long.
const SAYING: Duration = Duration::from_secs(1);
/// And has told it within this time.
const TELLING: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);
/// What was told is taken within this time, unless the store was lost in that moment.
const TAKEN: Duration = Duration::from_secs(1);

/// How long to wait for proxies: what those may hold that came, and whether any did and the stores have something.
const fn patience(held: Option<Version>, settled: bool) -> Duration {
    match (held, settled) {
        (Some(_), _) => TELLING,
        (None, true) => SAYING,
        (None, false) => COMING,
    }
}

impl Relay {
    /// Where somebody has led before and nothing is known of what was published, neither here nor by other controllers, proxies may
    /// still serve it: what they hold is fetched, and what the stores do not have of it is judged before it goes.
    pub(super) async fn recall(&self) {
        let epoch = self.roles.borrow().epoch();
        if self.handle.snapshots.borrow().version.sequence > 0 || epoch.is_none_or(|epoch| epoch <= 1) {
            return;
        }
        let _wanted = self.handle.recall.want();
        let (mut begun, mut knew, mut told) = (Instant::now(), false, false);
        while self.roles.borrow().epoch() == epoch {
            sleep(PAUSE).await;
            if !matches!(*self.roles.borrow(), Role::Leading { .. }) {
                // Without the store nothing is taken, and nothing published.
                begun = Instant::now();
                continue;
            }
            let Ok(Seen { came, empty, highest, held, .. }) = self.handle.ask(Query::Seen).await else { return };
            let settled = came && !empty;
            if settled && !std::mem::replace(&mut knew, true) {
                begun = Instant::now();
            }
            let best = self.handle.recall.best();
            // One that comes later may have seen more.
            let whole = best.as_ref().is_some_and(|best| Some(best.version) >= held) && begun.elapsed() >= COMING;
            let over = begun.elapsed() >= patience(held, settled);
            if let Some(best) = best.filter(|_| whole || over) {
                if self.takes(best).await {
                    return;
                }
            } else if over {
                let waits = empty && highest.is_some();
                if !std::mem::replace(&mut told, true) {
                    self.say_lost(highest, waits).await;
                }
                if !waits {
                    return;
                }
            }
        }
    }

    /// Goes on with what a proxy told; returns whether that is what is published by now.
    async fn takes(&self, best: Arc<Snapshot>) -> bool {
        tracing::info!("a proxy told version {} of what was published before", best.version);
        let mut snapshots = self.handle.snapshots.clone();
        if self.handle.tell(Input::Relayed(best)).await.is_err() {
            return true;
        }
        matches!(timeout(TAKEN, snapshots.wait_for(|snapshot| snapshot.version.sequence > 0)).await, Ok(Ok(_)))
    }

    async fn say_lost(&self, seen: Option<Version>, waits: bool) {
        let Some(seen) = seen else { return };
        let then = if waits { "a store is empty, so nothing is published until one does or that has something" } else { "what the stores say is published" };
        let message = format!("proxies have seen version {seen}, and none has told it: {then}");
        self.handle.tell(Input::damaged("published", message)).await.unwrap_or_default();
    }
}
