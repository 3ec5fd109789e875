//! Carries out operators' requests one after the other. Everything that needs the disk is done here, beside the task that owns the state, which gets
//! the result.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use waypost_model::lane::Lane;

use crate::controller::clock::now_millis;
use crate::controller::disk::files::{save_operator, save_programs};
use crate::controller::disk::history::History;
use crate::controller::message::{Command, Current, Input, Query, Stopped};
use crate::controller::rules::election::Role;
use crate::controller::rules::pins::{Action, Pin, PinRecord, Reason, check};
use crate::controller::stored::operator::{Audit, MAX_AUDIT_ENTRIES, OperatorState};
use crate::controller::stored::programs::{Joining, Program, Programs};

/// Maximum number of attempts to pin the published config: it may change while it is written to the history.
const MAX_PIN_ATTEMPTS: usize = 10;
/// Interval in which the leader looks for names of programs that have not connected for long.
const TIDY_INTERVAL: Duration = Duration::from_secs(6 * 3_600);
/// Time until the first such look. Programs have connected by then, so that a leader that does not live long still notes the date of their last
/// connection.
const FIRST_TIDY_AFTER: Duration = Duration::from_secs(300);
/// Pause before the record is written again that the disk refused when we began to lead.
const WRITE_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Why an operator's request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// Another controller leads, or none.
    #[error("this controller does not lead any more; nothing was changed, try again")]
    NotLeading,
    /// This controller was elected and has not yet recovered the others' records of operators' actions.
    #[error("this controller was elected just now and asks the others first, and proxies if it has lost what was published; nothing was changed, try again")]
    Recovering,
    /// The controller is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The state directory cannot be written.
    #[error("the state directory cannot be written: {0}; nothing was changed")]
    Disk(#[from] std::io::Error),
    /// The request cannot be carried out as things are; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<tokio::task::JoinError> for OperateError {
    /// A task that was cancelled or has panicked: the controller is going down.
    fn from(_: tokio::task::JoinError) -> Self {
        Self::Stopped(Stopped)
    }
}

type Done<T = ()> = Result<T, OperateError>;

/// A request to the operator's task.
#[derive(Debug)]
pub enum Request {
    /// An operator asks for something.
    Do {
        /// The action.
        action: Action,
        /// By whom.
        by: String,
        /// Gets one sentence about the result, or the reason why nothing was done.
        to: oneshot::Sender<Done<String>>,
    },
    /// Records what an operator did elsewhere; answers why that cannot be written.
    Record(Audit, oneshot::Sender<Done>),
    /// A program joins; answers whether its name is new, or why that cannot be written.
    Joined(Joining, oneshot::Sender<Done<bool>>),
    /// Take over the leader's record.
    Adopt {
        /// The leader's record.
        saved: OperatorState,
        /// The time that is left of its pin, if that has an end.
        left: Option<Duration>,
        /// Gets the reason if the record cannot be written here.
        to: oneshot::Sender<Done>,
    },
    /// Take over another controller's record of the programs that have joined; answers why that cannot be written.
    AdoptPrograms(BTreeMap<String, Program>, oneshot::Sender<Done>),
    /// The time of this pin is over.
    Over(PinRecord),
    /// We lead under this epoch, and have the records of all controllers that could be asked.
    Begin(u64),
    /// We lead under this epoch, but our record counts no more than before.
    Open(u64),
}

/// Carries out requests.
#[derive(Debug)]
pub struct Operator {
    /// The state directory.
    pub folder: PathBuf,
    /// The configs there were.
    pub history: Arc<Mutex<History>>,
    /// The task that owns the state.
    pub owner: mpsc::Sender<Command>,
    /// The record of operators' actions.
    pub saved: Arc<Mutex<OperatorState>>,
    /// The programs that have joined.
    pub programs: Arc<Mutex<Programs>>,
    /// This controller's role: only a leader carries out requests.
    pub roles: watch::Receiver<Role>,
    /// When the clock of leading began.
    pub started: Instant,
    /// The last epoch under which others were asked.
    pub begun: AtomicU64,
}

impl Operator {
    /// Carries out requests until all senders are dropped.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut again = None;
        let mut tidy = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_TIDY_AFTER, TIDY_INTERVAL);
        loop {
            let due = async {
                match again {
                    Some(epoch) => {
                        sleep(WRITE_RETRY_PAUSE).await;
                        epoch
                    }
                    None => pending().await,
                }
            };
            let request = tokio::select! {
                request = requests.recv() => request,
                epoch = due => Some(Request::Begin(epoch)),
                _ = tidy.tick() => {
                    self.tidy_programs().await;
                    continue;
                }
            };
            let Some(request) = request else { return };
            // The caller may have left; the request is carried out all the same.
            match request {
                Request::Do { action, by, to } => drop(to.send(self.carry_out(&action, &by).await)),
                Request::Record(audit, to) => drop(to.send(self.record(audit).await)),
                Request::Joined(joining, to) => drop(to.send(self.joined(joining).await)),
                Request::AdoptPrograms(joined, to) => drop(to.send(self.save_programs(|programs| programs.merge(joined)).await.map(drop))),
                Request::Adopt { saved, left, to } => drop(to.send(self.adopt(saved, left).await)),
                Request::Over(mark) => self.over(&mark).await,
                Request::Begin(epoch) => again = self.begin(epoch).await.err(),
                Request::Open(epoch) => self.begun.store(epoch, Ordering::Relaxed),
            }
        }
    }

    /// The epoch under which this controller leads, once it has recovered the record of operators' actions.
    fn epoch(&self) -> Done<u64> {
        let role = self.roles.borrow();
        let epoch = role.epoch().filter(|_| role.leads(self.started.elapsed())).ok_or(OperateError::NotLeading)?;
        let begun = matches!(*role, Role::Caretaking { named: true, .. }) || self.begun.load(Ordering::Relaxed) == epoch;
        if begun { Ok(epoch) } else { Err(OperateError::Recovering) }
    }

    async fn joined(&self, Joining { program, key, bound }: Joining) -> Done<bool> {
        self.epoch()?;
        let fits = self.programs.lock().unwrap_or_else(PoisonError::into_inner).has_room(&program, key);
        if !bound && !fits {
            return Ok(false);
        }
        let date = now_millis();
        let join = move |programs: &mut Programs| {
            programs.join(program, key, date);
            true
        };
        self.save_programs(join).await?;
        Ok(true)
    }

    /// The leader forgets the names of programs that have not connected for long.
    async fn tidy_programs(&self) {
        if self.epoch().is_err() {
            return;
        }
        let (to, proxies) = oneshot::channel();
        let (to_peers, peers) = oneshot::channel();
        let asked = [Command::Ask(Query::Connected(to)), Command::Ask(Query::Peers(to_peers))];
        for command in asked {
            if self.owner.send(command).await.is_err() {
                return;
            }
        }
        let (Ok(proxies), Ok(peers)) = (proxies.await, peers.await) else { return };
        let proxies = proxies.into_iter().map(|name| format!("proxy {name}"));
        let present: Vec<String> = proxies.chain(peers.into_keys().map(|name| format!("controller {name}"))).collect();
        let tidy = move |programs: &mut Programs| programs.tidy(present.iter().map(String::as_str), now_millis());
        if let Err(error) = self.save_programs(tidy).await {
            tracing::warn!("which programs were seen was not kept: {error}");
        }
    }

    /// Changes which programs have joined, on disk first; `change` returns whether there is anything to write.
    async fn save_programs(&self, change: impl FnOnce(&mut Programs) -> bool + Send + 'static) -> Done {
        let (folder, programs) = (self.folder.clone(), self.programs.clone());
        let write = move || {
            let mut next = programs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !change(&mut next) {
                return Ok(false);
            }
            next.shrink();
            save_programs(&folder, &next)?;
            *programs.lock().unwrap_or_else(PoisonError::into_inner) = next;
            Ok::<_, std::io::Error>(true)
        };
        if tokio::task::spawn_blocking(write).await?? { self.touch().await } else { Ok(()) }
    }

    /// Our record counts from now on. A controller that comes back with a record that nobody else had, such as a freeze of long ago, does not bring
    /// that back: content never goes back unasked.
    ///
    /// # Errors
    /// The epoch for which this is still to be done.
    async fn begin(&self, epoch: u64) -> Result<(), u64> {
        self.begun.store(epoch, Ordering::Relaxed);
        let dated = self.save(|_| {}, None).await;
        let touched = self.touch().await;
        if let Some(error) = dated.as_ref().err().or(touched.as_ref().err()) {
            tracing::warn!("what operators did counts as before this controller led: {error}");
        }
        self.end_what_is_over().await;
        // A controller that does not lead any more has no record to date.
        if dated.is_err() && self.epoch().is_ok_and(|current| current == epoch) { Err(epoch) } else { Ok(()) }
    }

    /// Ends a pin whose time ran out while nobody led, or whose end could not be written: the present leader records that. A pin that is in force has
    /// its time, whatever the clock says by now.
    async fn end_what_is_over(&self) {
        let mark = self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.clone();
        let Some(mark) = mark.filter(|mark| mark.is_over(now_millis())) else { return };
        let (to, answer) = oneshot::channel();
        if self.owner.send(Command::Ask(Query::Pinned(to))).await.is_ok() && answer.await == Ok(false) {
            self.over(&mark).await;
        }
    }

    /// The time of a pin is over; the leader records that.
    async fn over(&self, mark: &PinRecord) {
        if self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.as_ref() != Some(mark) {
            return;
        }
        let what = format!("the config goes on from C{}, its time being over", mark.config);
        let saved = self.save_pin(None, Audit { at: now_millis(), by: "waypost".to_owned(), what }).await;
        if let Err(error) = saved.and(self.touch().await) {
            tracing::debug!("the end of a pin is not kept here: {error}");
        }
    }

    async fn record(&self, audit: Audit) -> Done {
        self.save(|_| {}, Some(audit)).await?;
        self.touch().await
    }

    /// Followers get the new record.
    async fn touch(&self) -> Done {
        self.owner.send(Command::Touch).await.map_err(|_| OperateError::Stopped(Stopped))
    }

    /// Takes over the leader's record.
    async fn adopt(&self, next: OperatorState, left: Option<Duration>) -> Done {
        let own = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if own.rank() > next.rank() {
            return Ok(());
        }
        let pin = match next.mark.clone() {
            Some(mark) => Some(Pin { lane: self.lane_of_leader(&mark).await?, mark, left }),
            None => None,
        };
        if own.rank() == next.rank() {
            // Its clock may differ from ours: only the leader knows how much time is left of the pin.
            return if left.is_some() { self.send_pin(pin, "the leader").await } else { Ok(()) };
        }
        let lost = own.unknown_to(&next).map(|mark| {
            let message = format!("{}: whoever leads now did not know that when it began, and goes on without it", mark.describe());
            Input::Event { reason: "HoldLost", about: "config".to_owned(), message }
        });
        let (folder, saved, history) = (self.folder.clone(), self.saved.clone(), self.history.clone());
        let write = move || {
            history.lock().unwrap_or_else(PoisonError::into_inner).spare(next.mark.as_ref().map(|mark| mark.config));
            save_operator(&folder, &next)?;
            *saved.lock().unwrap_or_else(PoisonError::into_inner) = next;
            Ok::<_, std::io::Error>(())
        };
        tokio::task::spawn_blocking(write).await??;
        if let Some(lost) = lost {
            self.owner.send(Command::Input(lost)).await.map_err(|_| Stopped)?;
        }
        self.send_pin(pin, "the leader").await?;
        // The leader waits to hear that we have it.
        self.touch().await
    }

    /// The config that the leader pinned. If its file cannot be used, it is the config that the leader publishes.
    async fn lane_of_leader(&self, mark: &PinRecord) -> Done<Lane> {
        match self.lane(mark.clone()).await {
            Ok(lane) => Ok(lane),
            Err(error) => self.current().await.map(|now| now.config).map_err(|_| error),
        }
    }

    /// A config of the history, which is spared from now on.
    async fn lane(&self, mark: PinRecord) -> Done<Lane> {
        let history = self.history.clone();
        let read = move || {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            let lane = history.pinned_lane(&mark).map_err(OperateError::Refused)?;
            history.spare(Some(mark.config));
            Ok(lane)
        };
        tokio::task::spawn_blocking(read).await?
    }

    async fn carry_out(&self, action: &Action, by: &str) -> Done<String> {
        self.epoch()?;
        let date = now_millis();
        let mark = self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.clone();
        check(action, mark.as_ref()).map_err(OperateError::Refused)?;
        let pin = match action {
            Action::Adopt { cluster } => return self.adopt_cluster(cluster, by, date).await,
            Action::Unfreeze | Action::Unpin => None,
            Action::Freeze => Some(self.pin_published(Reason::Frozen, None, by, date).await?),
            Action::Pin { config: None, seconds } => Some(self.pin_published(Reason::Pinned, *seconds, by, date).await?),
            Action::Pin { config: Some(number), seconds } => Some(self.pin_from_history(*number, *seconds, by, date).await?),
        };
        let message = match (&pin, &mark) {
            (Some(pin), Some(before)) if before.reason != pin.mark.reason => {
                format!("{}; the pin that {} set is over with it", pin.mark.describe(), before.by)
            }
            (Some(pin), _) => pin.mark.describe(),
            (None, Some(mark)) => format!("the config goes on from C{}", mark.config),
            (None, None) => "the config goes on".to_owned(),
        };
        let saved = self.save_pin(pin.as_ref().map(|pin| pin.mark.clone()), Audit { at: date, by: by.to_owned(), what: message.clone() }).await;
        let already_pinned = matches!(action, Action::Freeze | Action::Pin { config: None, .. });
        match (saved, already_pinned) {
            // A pin that would not survive a restart is not promised: the pin before it goes on.
            (Err(error), true) => {
                self.send_pin(self.pin_before(mark), by).await?;
                return Err(error);
            }
            (Err(error), false) => return Err(error),
            (Ok(()), true) => {}
            (Ok(()), false) => self.send_pin(pin, by).await?,
        }
        self.touch().await?;
        Ok(message)
    }

    fn pin_before(&self, mark: Option<PinRecord>) -> Option<Pin> {
        let mark = mark?;
        let lane = self.history.lock().unwrap_or_else(PoisonError::into_inner).pinned_lane(&mark);
        let lane = lane.inspect_err(|error| tracing::error!("{}, and its config cannot be read: {error}", mark.describe()));
        lane.ok().map(|lane| Pin::new(mark, lane, now_millis()))
    }

    async fn send_pin(&self, pin: Option<Pin>, by: &str) -> Done {
        let input = Input::Pin { pin: pin.map(Box::new), by: format!("as {by} asked for") };
        self.owner.send(Command::Input(input)).await.map_err(|_| OperateError::Stopped(Stopped))
    }

    /// Pins the published config: exactly that one, even if more is written meanwhile.
    async fn pin_published(&self, reason: Reason, seconds: Option<u64>, by: &str, date: u64) -> Done<Pin> {
        for _ in 0..MAX_PIN_ATTEMPTS {
            let now = self.current().await?;
            let (history, lane) = (self.history.clone(), now.config.clone());
            let add = move || {
                let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
                let number = history.add(now.version, &now.config, date, &now.stores)?;
                history.spare(Some(number));
                Ok::<_, std::io::Error>(number)
            };
            let number = tokio::task::spawn_blocking(add).await??;
            let digest = Some(lane.digest());
            let pin = Pin::new(PinRecord { reason, config: number, by: by.to_owned(), at: date, until: until(date, seconds), digest }, lane, date);
            let (to, answer) = oneshot::channel();
            let input = Input::Pin { pin: Some(Box::new(pin.clone())), by: format!("as {by} asked for") };
            self.owner.send(Command::PinIf(input, pin.lane.digest(), to)).await.map_err(|_| Stopped)?;
            if answer.await.map_err(|_| Stopped)? {
                return Ok(pin);
            }
        }
        Err(OperateError::Refused("the config changes faster than it can be kept; stop the writer, or pin a config of `waypost history`".to_owned()))
    }

    /// A pin of a config of the history.
    async fn pin_from_history(&self, number: u64, seconds: Option<u64>, by: &str, date: u64) -> Done<Pin> {
        let mark = PinRecord { reason: Reason::Pinned, config: number, by: by.to_owned(), at: date, until: until(date, seconds), digest: None };
        let lane = self.lane(mark.clone()).await?;
        Ok(Pin::new(PinRecord { digest: Some(lane.digest()), ..mark }, lane, date))
    }

    async fn current(&self) -> Done<Current> {
        let (to, answer) = oneshot::channel();
        self.owner.send(Command::Ask(Query::Current(to))).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)?.ok_or_else(|| OperateError::Refused("nothing is published yet".to_owned()))
    }

    /// Proxies of that cluster may follow us from now on.
    async fn adopt_cluster(&self, cluster: &str, by: &str, date: u64) -> Done<String> {
        let is_adopted = self.saved.lock().unwrap_or_else(PoisonError::into_inner).adopted.iter().any(|adopted| adopted == cluster);
        let message = format!("proxies of cluster {cluster} may follow this one; they come by themselves");
        if !is_adopted {
            let name = cluster.to_owned();
            let audit = Audit { at: date, by: by.to_owned(), what: message.clone() };
            self.save(move |next| next.adopted.push(name), Some(audit)).await?;
            self.touch().await?;
        }
        Ok(message)
    }

    /// Writes a pin before it takes effect: a promise to survive a restart is kept.
    async fn save_pin(&self, mark: Option<PinRecord>, audit: Audit) -> Done {
        self.save(move |next| next.mark = mark, Some(audit)).await
    }

    async fn save(&self, change: impl FnOnce(&mut OperatorState) + Send + 'static, audit: Option<Audit>) -> Done {
        let epoch = self.epoch()?;
        let (folder, saved, history) = (self.folder.clone(), self.saved.clone(), self.history.clone());
        let write = move || {
            let mut next = saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
            next.audit.extend(audit);
            let surplus = next.audit.len().saturating_sub(MAX_AUDIT_ENTRIES);
            next.audit.drain(..surplus);
            (next.epoch, next.count) = (epoch, next.count + 1);
            change(&mut next);
            save_operator(&folder, &next)?;
            history.lock().unwrap_or_else(PoisonError::into_inner).spare(next.mark.as_ref().map(|mark| mark.config));
            *saved.lock().unwrap_or_else(PoisonError::into_inner) = next;
            Ok::<_, std::io::Error>(())
        };
        Ok(tokio::task::spawn_blocking(write).await??)
    }
}

fn until(date: u64, seconds: Option<u64>) -> Option<u64> {
    seconds.map(|seconds| date.saturating_add(seconds.saturating_mul(1_000)))
}
