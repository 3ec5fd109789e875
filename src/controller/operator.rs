//! Carries out what operators ask for, one after the other: everything that needs the disk is done here, beside the task
//! that owns the state, which is told the result.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::disk::{History, SavedStore};
use super::handle::{Command, Query};
use super::hold::{Action, Hold, Mark, Reason, check};
use super::step::Input;
use waypost_model::lane::Lane;
use waypost_model::snapshot::Version;

/// The published config may change while it is written to the history; so often that is begun anew.
const TRIES: usize = 10;
const STOPPING: &str = "the controller is stopping";
/// Who did what is kept for so many actions.
const AUDITED: usize = 500;

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Who.
    pub by: String,
    /// What, in one sentence.
    pub what: String,
}

/// What is kept over a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Saved {
    /// What is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// Who did what, oldest first.
    #[serde(default)]
    pub audit: Vec<Audit>,
}

impl Saved {
    /// Reads it; nothing if there is none.
    ///
    /// # Errors
    /// There are files, but none can be used.
    pub fn load(folder: &Path) -> Result<Self, String> {
        let Some(content) = waypost_disk::read(&file(folder)).map_err(|error| error.to_string())? else { return Ok(Self::default()) };
        if let Some(note) = &content.fallback {
            tracing::warn!("{note}");
        }
        serde_json::from_slice(&content.bytes).map_err(|error| format!("{}: {error}", file(folder).display()))
    }

    fn save(&self, folder: &Path) -> std::io::Result<()> {
        waypost_disk::write(&file(folder), &serde_json::to_vec(self)?)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("operator.json")
}

/// What is published, for the history.
#[derive(Debug)]
pub struct Current {
    /// Its version.
    pub version: Version,
    /// The config.
    pub config: Lane,
    /// The entries it was compiled from.
    pub stores: Vec<SavedStore>,
}

/// An operator's request.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub action: Action,
    /// By whom.
    pub by: String,
    /// Gets one sentence about what was done, or why nothing was.
    pub to: oneshot::Sender<Result<String, String>>,
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
    /// What is kept.
    pub saved: Arc<Mutex<Saved>>,
}

impl Operator {
    /// Carries out requests until nobody can ask any more.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>) {
        while let Some(Request { action, by, to }) = requests.recv().await {
            let result = self.carry_out(&action, &by).await;
            // Whoever asked may have gone; it is done all the same.
            drop(to.send(result));
        }
    }

    async fn carry_out(&self, action: &Action, by: &str) -> Result<String, String> {
        let date = date();
        let mark = self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.clone().filter(|mark| !mark.is_over(date));
        check(action, mark.as_ref())?;
        let hold = match action {
            Action::Unfreeze | Action::Unpin => None,
            Action::Freeze => Some(self.hold_published(Reason::Frozen, None, by, date).await?),
            Action::Pin { config: None, seconds } => Some(self.hold_published(Reason::Pinned, *seconds, by, date).await?),
            Action::Pin { config: Some(number), seconds } => Some(self.hold_old(*number, *seconds, by, date).await?),
        };
        let told = match (&hold, &mark) {
            (Some(hold), _) => hold.mark.told(),
            (None, Some(mark)) => format!("the config goes on from C{}", mark.config),
            (None, None) => "the config goes on".to_owned(),
        };
        let kept = self.keep(hold.as_ref().map(|hold| hold.mark.clone()), Audit { at: date, by: by.to_owned(), what: told.clone() }).await;
        let held_already = matches!(action, Action::Freeze | Action::Pin { config: None, .. });
        match (kept, held_already) {
            // What does not survive a restart is not promised.
            (Err(error), true) => {
                self.tell(None, by).await?;
                return Err(error);
            }
            (Err(error), false) => return Err(error),
            (Ok(()), true) => {}
            (Ok(()), false) => self.tell(hold, by).await?,
        }
        Ok(told)
    }

    async fn tell(&self, hold: Option<Hold>, by: &str) -> Result<(), String> {
        let input = Input::Hold { hold: hold.map(Box::new), by: format!("as {by} asked for") };
        self.owner.send(Command::Input(input)).await.map_err(|_| STOPPING.to_owned())
    }

    /// Holds what is published: that very config, whatever is written meanwhile.
    async fn hold_published(&self, reason: Reason, seconds: Option<u64>, by: &str, date: u64) -> Result<Hold, String> {
        for _ in 0..TRIES {
            let now = self.current().await?;
            let (history, lane) = (self.history.clone(), now.config.clone());
            let add = move || {
                let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
                let number = history.add(now.version, &now.config, date, &now.stores)?;
                history.spare(Some(number));
                Ok::<_, std::io::Error>(number)
            };
            let number = tokio::task::spawn_blocking(add).await.map_err(|error| error.to_string())?.map_err(|error| unwritten(&error))?;
            let hold = Hold { mark: Mark { reason, config: number, by: by.to_owned(), at: date, until: until(date, seconds) }, lane };
            let (to, answer) = oneshot::channel();
            let input = Input::Hold { hold: Some(Box::new(hold.clone())), by: format!("as {by} asked for") };
            self.owner.send(Command::HoldIf(input, hold.lane.digest(), to)).await.map_err(|_| STOPPING.to_owned())?;
            if answer.await.map_err(|_| STOPPING.to_owned())? {
                return Ok(hold);
            }
        }
        Err("the config changes faster than it can be kept; stop the writer, or pin a config of `waypost history`".to_owned())
    }

    /// A hold of a config of the history.
    async fn hold_old(&self, number: u64, seconds: Option<u64>, by: &str, date: u64) -> Result<Hold, String> {
        let history = self.history.clone();
        let read = move || {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            let lane = history.lane(number)?;
            history.spare(Some(number));
            Ok::<_, String>(lane)
        };
        let lane = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
        Ok(Hold { mark: Mark { reason: Reason::Pinned, config: number, by: by.to_owned(), at: date, until: until(date, seconds) }, lane })
    }

    async fn current(&self) -> Result<Current, String> {
        let (to, answer) = oneshot::channel();
        self.owner.send(Command::Ask(Query::Current(to))).await.map_err(|_| STOPPING.to_owned())?;
        answer.await.map_err(|_| STOPPING.to_owned())?.ok_or_else(|| "nothing is published yet".to_owned())
    }

    /// Writes what is held before it is: what is promised to survive a restart does.
    async fn keep(&self, mark: Option<Mark>, audit: Audit) -> Result<(), String> {
        let (folder, saved, history) = (self.folder.clone(), self.saved.clone(), self.history.clone());
        let write = move || {
            let mut next = saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
            next.audit.push(audit);
            let surplus = next.audit.len().saturating_sub(AUDITED);
            next.audit.drain(..surplus);
            next.mark = mark;
            next.save(&folder)?;
            history.lock().unwrap_or_else(PoisonError::into_inner).spare(next.mark.as_ref().map(|mark| mark.config));
            *saved.lock().unwrap_or_else(PoisonError::into_inner) = next;
            Ok::<_, std::io::Error>(())
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?;
        written.map_err(|error| unwritten(&error))
    }
}

fn unwritten(error: &std::io::Error) -> String {
    format!("the state directory cannot be written: {error}; nothing was changed")
}

fn until(date: u64, seconds: Option<u64>) -> Option<u64> {
    seconds.map(|seconds| date.saturating_add(seconds.saturating_mul(1_000)))
}

/// Milliseconds since 1970.
fn date() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
