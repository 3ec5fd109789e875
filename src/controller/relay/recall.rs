//! Before a controller leads that knows nothing: the proxies are asked for what they hold, and the other controllers once more.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::elect::Signal;
use super::super::election::Role;
use super::super::handle::{Gone, Query};
use super::super::recall::{Next, Waiting};
use super::super::step::Input;
use super::Relay;
use super::recover::Recovery;

const PAUSE: Duration = Duration::from_millis(50);
/// Other controllers are asked again this often: one may have been late, or have got from a proxy what we lost.
const ASKED: Duration = Duration::from_secs(1);

impl Relay {
    /// Where somebody has led before and nothing is known of what was published, neither here nor by other controllers, proxies may
    /// still serve it: what they hold is fetched, and what the stores do not have of it is held.
    ///
    /// # Errors
    /// The controller has stopped.
    pub(super) async fn recall(&self) -> Result<(), Gone> {
        let Some(epoch) = self.roles.borrow().epoch().filter(|epoch| *epoch > 1) else { return Ok(()) };
        if self.handle.snapshots.borrow().version.sequence > 0 {
            return Ok(());
        }
        let _wanted = self.handle.recall.want();
        let (mut waiting, mut begun, mut asked, mut told) = (Waiting::default(), Instant::now(), Instant::now(), false);
        while self.roles.borrow().epoch() == Some(epoch) {
            sleep(PAUSE).await;
            if !matches!(*self.roles.borrow(), Role::Leading { .. }) {
                // Without the store nothing is taken, and nothing published.
                begun = Instant::now();
                continue;
            }
            if asked.elapsed() >= ASKED {
                self.ask_again(epoch).await;
                asked = Instant::now();
            }
            let seen = self.handle.ask(Query::Seen).await?;
            let own = self.handle.snapshots.borrow().version;
            match waiting.next(begun.elapsed(), &seen, own) {
                Next::Wait => {}
                Next::WaitOnEmpty if std::mem::replace(&mut told, true) => {}
                Next::WaitOnEmpty => {
                    self.say("what was published before is not known, and the stores are empty: nothing is published until a proxy or another controller tells what it has, or a store has something").await?;
                    // Proxies may have to join anew before they can tell.
                    self.handle.begin_operated(epoch).await?;
                }
                Next::Go if own.sequence > 0 => {
                    tracing::info!("goes on from version {own}, which others had");
                    return self.handle.tell(Input::Recalled).await;
                }
                Next::Go => {
                    if let Some(held) = waiting.held {
                        self.say(&format!("proxies have seen version {held}, and none has told it: what the stores say is published")).await?;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn ask_again(&self, epoch: u64) {
        if let Recovery::Contested(epoch) = self.recover_once(Some(epoch)).await {
            self.signal(Signal::Saw { epoch, living: false }).await;
        }
    }

    async fn say(&self, message: &str) -> Result<(), Gone> {
        self.handle.tell(Input::damaged("published", message.to_owned())).await
    }
}
