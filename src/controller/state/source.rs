//! The state of one store.

use std::time::Duration;

use waypost_adapter::{AdapterError, Revision};

/// The state of one store.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// The store's revision.
    pub at: Revision,
    /// When it was last confirmed to be current.
    pub confirmed: Option<Duration>,
    /// Why it cannot be read, if so.
    pub error: Option<AdapterError>,
    /// Entries in which the watch had been wrong, ever.
    pub drift: u64,
    /// Whether it delivered its entries since the start.
    pub live: bool,
    /// Keys under the other spelling of the root.
    pub other_spelling: Option<(usize, String)>,
    /// Whether it was read, or could not be read, since we lead.
    pub settled: bool,
    /// The revision up to which the previous leader had read it.
    pub floor: Revision,
    /// Whether its revisions never go back, and are the same for every controller.
    pub counts_up: bool,
    /// Since when it cannot be read, if so and since we lead.
    pub failing: Option<Duration>,
}

/// A store went back or became empty while others led, so that a leader has to judge it.
#[derive(Debug, Clone)]
pub(super) struct StoreRegression {
    /// Why it is not believed.
    pub(super) why: String,
    /// Its number.
    pub(super) source: usize,
    /// Its revision before.
    pub(super) before: Revision,
    /// Its revision after that.
    pub(super) at: Revision,
}

impl StoreRegression {
    /// Whether a leader that has read the store up to this revision has noticed the regression as well, and judged it.
    pub(super) fn is_judged(&self, theirs: Revision) -> bool {
        if self.at < self.before { theirs < self.before } else { theirs >= self.at }
    }
}
