//! The pin: while there is one, the pinned config is published in place of the compiled one.

use std::time::Duration;

use waypost_model::compile::EntryId;
use waypost_model::key::{Place, ResourceKey, place};
use waypost_model::lane::Lane;

use super::State;
use crate::controller::message::{Now, Output};
use crate::controller::rules::objects::object_path;
use crate::controller::rules::pins::Pin;

impl State {
    /// The pin, if there is one.
    pub fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref().map(|(pin, _)| pin)
    }

    /// The time that is left of the pin, if it has an end.
    pub fn pin_left(&self, now: Now) -> Option<Duration> {
        let (_, until) = self.pin.as_ref()?;
        until.map(|until| until.saturating_sub(now.since_start))
    }

    /// Whether a resource waits behind a pin: the published config has another form of it, or none.
    pub fn is_behind_pin(&self, resource: &ResourceKey) -> bool {
        let path = object_path(resource);
        let digest = |lane: &Lane| lane.get(&path).map(|object| object.digest());
        !resource.kind.is_membership() && self.pin.as_ref().is_some_and(|(pin, _)| digest(&pin.lane) != digest(&self.lanes.0))
    }

    /// Whether a written change waits behind a pin.
    pub fn waits(&self) -> bool {
        self.pin.as_ref().is_some_and(|(pin, _)| pin.lane != self.lanes.0)
    }

    pub(super) fn set_pin(&mut self, pin: Option<Pin>, by: &str, now: Now) -> Output {
        if let (Some(Pin { mark, left, .. }), Some((current, until))) = (&pin, &mut self.pin)
            && current.mark == *mark
        {
            // The same pin; only the time that is left is new.
            *until = left.map(|left| now.since_start + left);
            return Output::default();
        }
        let (reason, message) = match (&pin, self.pin.take()) {
            (Some(pin), _) => (pin.mark.reason.word(), pin.mark.describe()),
            (None, Some((before, _))) => ("Released", format!("the config goes on from C{}, {by}", before.mark.config)),
            (None, None) => return Output::default(),
        };
        self.events.add(now.date, reason, "config", message);
        self.pin = pin.map(|pin| {
            let until = pin.left.map(|left| now.since_start + left);
            (pin, until)
        });
        let entries = self.compiler.config_entries();
        for id in &entries {
            self.track(id, now);
        }
        self.unpublished.extend(entries.iter().cloned());
        // A pin from before a restart, or of the previous leader, is not a new request of an operator.
        self.operated |= self.role.epoch().is_some();
        // Marks of held routes are part of membership, and do not apply to a pinned config.
        let mut output = self.publish(true, true, now);
        output.changed = true;
        output.verdicts = entries;
        output
    }

    /// Whether an entry, or its removal, waits behind a pin.
    pub(super) fn waits_behind_pin(&self, id: &EntryId) -> bool {
        let Some((pin, _)) = &self.pin else { return false };
        match place(&id.key, false) {
            Place::Resource { resource, .. } => self.is_behind_pin(&resource),
            Place::Current => self.lanes.0 != pin.lane,
            Place::Folder | Place::Unknown(_) => false,
        }
    }
}
