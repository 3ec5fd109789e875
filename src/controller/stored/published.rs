//! The published snapshot, as it is on disk.

use serde::{Deserialize, Serialize};
use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;
use waypost_model::snapshot::Version;

/// The published snapshot in its stored form.
#[derive(Debug, Serialize, Deserialize)]
pub struct Published {
    /// The cluster's id.
    pub cluster: String,
    /// Its version.
    pub version: Version,
    /// The objects of the config.
    pub config: Vec<String>,
    /// The objects of membership.
    pub membership: Vec<String>,
}

/// The objects of a lane, as they are written.
pub fn objects_of(lane: &Lane) -> Vec<String> {
    lane.objects().map(|object| object.bytes().to_owned()).collect()
}

/// The lane of objects as they are written.
pub fn lane_of(objects: &[String]) -> Result<Lane, String> {
    let objects = objects.iter().map(|bytes| Object::read(bytes).map(Change::Put)).collect::<Result<Vec<_>, _>>()?;
    Ok(Lane::default().with(objects))
}
