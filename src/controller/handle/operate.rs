//! Requests of operators, and the record of their actions.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use waypost_model::object::Digest;

use crate::controller::clock::now_millis;
use crate::controller::handle::Handle;
use crate::controller::message::{Command, Input, Query, Signal, Stopped};
use crate::controller::operator::{OperateError, Request};
use crate::controller::rules::pins::Action;
use crate::controller::stored::operator::{Audit, OperatorState};
use crate::controller::stored::programs::Joining;

/// An operator's action is on disk within this time.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// An operator's action is at another controller within this time.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// A controller that was elected has asked the others within this time.
const ELECTION_PATIENCE: Duration = Duration::from_secs(3);

const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Handle {
    /// Lets go of leading; returns whether we led.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn step_down(&self) -> Result<bool, Stopped> {
        let (to, answer) = oneshot::channel();
        self.signals.send(Signal::StepDown(to)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Clusters whose proxies may follow us.
    pub fn adopted(&self) -> Vec<String> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).adopted.clone()
    }

    /// Does what an operator asks for; returns one sentence about it.
    ///
    /// # Errors
    /// Why nothing was done.
    pub async fn operate(&self, action: Action, by: String) -> Result<String, OperateError> {
        self.patiently(|to| Request::Do { action: action.clone(), by: by.clone(), to }).await
    }

    /// Adds an action of somebody to the audit.
    ///
    /// # Errors
    /// The disk refused, or the controller has stopped.
    pub async fn record(&self, by: String, what: String) -> Result<(), OperateError> {
        let audit = Audit { at: now_millis(), by, what };
        self.patiently(|to| Request::Record(audit.clone(), to)).await
    }

    /// Whether a program, such as `proxy edge-1`, has joined; and if so, whether that was with this key.
    pub fn has_joined(&self, program: &str, key: Option<Digest>) -> Option<bool> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(program).map(|_| programs.has_room(program, key))
    }

    /// Records that a program joins; returns whether it may: its name is new, or its token is bound to that name, or it asked before with the same
    /// key.
    ///
    /// # Errors
    /// The disk refused, or the controller has stopped.
    pub async fn joined(&self, joining: Joining) -> Result<bool, OperateError> {
        self.request(|to| Request::Joined(joining, to)).await?
    }

    /// Sends the operator's task a request and waits for the answer.
    pub(super) async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopped> {
        let (to, answer) = oneshot::channel();
        self.operator.send(request(to)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The same, repeated for a moment if this controller was only just elected and still asks the others.
    async fn patiently<T>(&self, request: impl Fn(oneshot::Sender<Result<T, OperateError>>) -> Request) -> Result<T, OperateError> {
        let begun = Instant::now();
        loop {
            let answer = self.request(&request).await?;
            if begun.elapsed() >= ELECTION_PATIENCE || !matches!(answer, Err(OperateError::Recovering)) {
                return answer;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Approves removals: the held ones of these keys below the root, or all held ones if there are no keys; with `later` also removals of these keys
    /// that are still to come. The approval is in the audit before it takes effect. Returns the paths of the removals that it released, and a warning
    /// if that is not on disk.
    ///
    /// # Errors
    /// Why nothing was done; or the controller has stopped.
    pub async fn approve(&self, keys: Vec<String>, later: bool, by: String) -> Result<(Vec<String>, Option<&'static str>), OperateError> {
        let would = self.ask(|to| Query::Approvable(keys.clone(), later, to)).await?;
        let (would, exactly): (Vec<String>, Vec<String>) = would.into_iter().unzip();
        if would.is_empty() && !later {
            return Ok((would, None));
        }
        let what = if later { format!("let go now or later: {}", keys.join(", ")) } else { format!("let go: {}", would.join(", ")) };
        self.record(by.clone(), what).await?;
        // Removals since then are in no audit, and are not approved.
        let keys = if later { keys } else { exactly };
        let (to, answer) = oneshot::channel();
        self.commands.send(Command::Approve(Input::Approve { keys, later, by }, to)).await.map_err(|_| Stopped)?;
        let (went, number) = answer.await.map_err(|_| Stopped)?.ok_or(OperateError::NotLeading)?;
        let mut written = self.written.clone();
        match timeout(DISK_TIMEOUT, written.wait_for(|written| *written >= number)).await {
            Ok(Ok(_)) => Ok((went, None)),
            Ok(Err(_)) => Err(Stopped.into()),
            Err(_) => Ok((went, Some("that could not be written to the state directory: free some space, or it may come back with a restart"))),
        }
    }

    /// Waits until another controller has the present record of operators' actions, if one follows; returns whether it has.
    pub async fn is_confirmed(&self) -> bool {
        if !self.ask(Query::Followed).await.unwrap_or_default() {
            return true;
        }
        let (wanted, mut confirmed) = (self.operated().rank(), self.confirmed.subscribe());
        timeout(CONFIRM_TIMEOUT, confirmed.wait_for(|rank| *rank >= wanted)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// The record of operators' actions, and the pin.
    pub fn operated(&self) -> OperatorState {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
