//! What happens to the simulation from outside: somebody writes, an operator acts, and things go wrong.

use std::time::Duration;

use super::node::Node;
use super::{CONTROLLERS, FAULTS_END, Happening, STORE, World};
use crate::controller::message::Input;

impl World {
    pub(super) fn write(&mut self) {
        let pause = self.random.u64(20..1_500);
        if self.now + pause < FAULTS_END + 2_000 {
            self.after(pause, Happening::Write);
        }
        let mut random = self.random.clone();
        self.store.write(&mut random);
        self.random = random;
        // Now and then an operator lets go whatever is held.
        let now = Duration::from_millis(self.now);
        let leads = |node: &Node| !node.crashed && node.paused_until.is_none() && node.state.role().leads(now);
        let Some(node) = (0..CONTROLLERS).find(|node| leads(&self.nodes[*node])) else { return };
        let Some(epoch) = self.nodes[node].state.role().epoch() else { return };
        match self.random.u8(0..30) {
            0 => {
                self.checks.let_go(self.nodes[node].state.guard.removals());
                self.input(node, Input::Approve { keys: Vec::new(), later: false, by: "alice".to_owned() });
            }
            1 => self.freeze_or_not(node, epoch),
            _ => {}
        }
    }

    /// An operator freezes the config as it is published, or lets it go on.
    fn freeze_or_not(&mut self, node: usize, epoch: u64) {
        let published = self.nodes[node].state.snapshot.clone();
        if published.version.sequence == 0 {
            return;
        }
        let frozen = self.nodes[node].operated().frozen.is_none().then(|| published.config.clone());
        frozen.iter().for_each(|lane| self.checks.froze(lane.digest()));
        let input = self.nodes[node].operate(frozen, epoch);
        self.input(node, input);
    }

    /// The store is restored from its backup while all controllers watch it: who was away then could not tell.
    pub(super) fn restore(&mut self) {
        let away = |node: &Node| node.crashed || node.paused_until.is_some();
        if self.nodes.iter().any(away) || !self.cut.is_empty() {
            return self.after(200, Happening::Restore);
        }
        self.calm_until = self.now + 4_000;
        let nodes = &self.nodes;
        let back = self.store.restore(&|path| nodes.iter().any(|node| node.state.compiler.config().get(path).is_none()));
        self.checks.restored(back);
    }

    pub(super) fn fault(&mut self) {
        if self.calm() {
            return;
        }
        if self.now < self.calm_until {
            return self.after(self.calm_until - self.now, Happening::Fault);
        }
        let (pause, length, node) = (self.random.u64(500..6_000), self.random.u64(200..12_000), self.random.usize(0..CONTROLLERS));
        self.after(pause, Happening::Fault);
        let length = length.min(FAULTS_END - self.now);
        match self.random.u8(0..4) {
            0 if !self.nodes[node].crashed && self.nodes[node].paused_until.is_none() => {
                self.nodes[node].paused_until = Some(self.now + length);
                self.after(length, Happening::Resume(node));
            }
            1 if !self.nodes[node].crashed => {
                let files = self.random.usize(0..5);
                self.nodes[node].save(files);
                self.nodes[node].crashed = true;
                self.proxies.iter_mut().filter(|proxy| proxy.controller == Some(node)).for_each(|proxy| proxy.controller = None);
                self.after(length, Happening::Start(node));
            }
            _ => {
                let other = self.random.usize(0..=STORE);
                if other != node {
                    self.cut.push((node, other));
                    self.after(length, Happening::Heal(node, other));
                }
            }
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        let (run, jitter) = (self.nodes[node].run + 1, Duration::from_millis(self.random.u64(0..150)));
        let old = std::mem::replace(&mut self.nodes[node], Node::new(node, 0, None, jitter, Duration::ZERO));
        self.nodes[node] = Node::new(node, run, Some(old), jitter, Duration::from_millis(self.now));
        self.after(1, Happening::Feed { node, run, link: 1 });
    }
}
