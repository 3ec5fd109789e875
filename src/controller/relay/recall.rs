//! Before a controller leads that knows nothing: the proxies are asked for what they hold.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use waypost_model::snapshot::Version;

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

/// How long to wait for proxies: what those have seen that came, and whether any did and the stores have something.
const fn patience(seen: Option<Version>, settled: bool) -> Duration {
    match (seen, settled) {
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
        let mut begun = Instant::now();
        let mut knew = false;
        while self.roles.borrow().epoch() == epoch {
            let Ok(Seen { settled, highest: seen, .. }) = self.handle.ask(Query::Seen).await else { return };
            if settled && !std::mem::replace(&mut knew, true) {
                begun = Instant::now();
            }
            let best = self.handle.recall.best();
            let whole = best.as_ref().is_some_and(|best| Some(best.version) >= seen);
            let over = begun.elapsed() >= patience(seen, settled);
            if let Some(best) = best.filter(|_| whole || over) {
                tracing::info!("a proxy told version {} of what was published before", best.version);
                // Who has stopped needs it no more.
                self.handle.tell(Input::Relayed(best)).await.unwrap_or_default();
                return;
            }
            if over {
                self.say_lost(seen).await;
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn say_lost(&self, seen: Option<Version>) {
        let Some(seen) = seen else { return };
        let message = format!("proxies have seen version {seen}, and none has told it: what the stores say is published");
        self.handle.tell(Input::damaged("published", message)).await.unwrap_or_default();
    }
}
