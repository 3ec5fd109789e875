//! What the API shows of the state: shapes, and the views that fill them.

pub mod entries;
pub mod proxies;
pub mod shapes;
pub mod status;
pub mod verdicts;
