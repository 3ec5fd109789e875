//! When removals of a backend's endpoints are held, if different from the controller's own settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When removals of a backend's endpoints are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "WrittenGuard")]
#[schemars(with = "WrittenGuard")]
pub struct BackendGuard {
    /// Whether they are held at all. A store that is distrusted as a whole is held in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// A removal of more than this percentage of the endpoints is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<usize>,
    /// A removal of fewer endpoints than this is not held, unless they are the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<usize>,
}

/// Maximum of `least`: no backend has more endpoints.
const MAX_LEAST: usize = 1_000_000;

/// The written form.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "settings of the guard, such as {\"percent\":80}")]
struct WrittenGuard {
    /// Whether removals of this backend's endpoints are held at all; a store that became empty as a whole is never followed
    /// blindly. Default true.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<bool>")]
    enabled: Option<bool>,
    /// More than this part of the endpoints, in percent, is held; 0 to 100. Default: `backendPercent` of the controller.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<usize>")]
    percent: Option<usize>,
    /// Fewer endpoints than this never are, unless they are the last; 1 or more. Default: `backendLeast` of the controller.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<usize>")]
    least: Option<usize>,
}

impl TryFrom<WrittenGuard> for BackendGuard {
    type Error = String;

    fn try_from(written: WrittenGuard) -> Result<Self, String> {
        let WrittenGuard { enabled, percent, least } = written;
        if let Some(percent) = percent.filter(|percent| *percent > 100) {
            return Err(format!("percent is {percent}; it is 0 to 100"));
        }
        if least == Some(0) {
            return Err("least is 0; it is 1 or more, and \"enabled\":false switches the guard off".to_owned());
        }
        if let Some(least) = least.filter(|least| *least > MAX_LEAST) {
            return Err(format!("least is {least}; it is at most {MAX_LEAST}, and \"enabled\":false switches the guard off"));
        }
        Ok(Self { enabled, percent, least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_and_absent_settings_stay_absent() {
        let read = |json: &str| serde_json::from_str::<BackendGuard>(json).map_err(|error| error.to_string());
        assert_eq!(read("{}").unwrap(), BackendGuard::default());
        assert_eq!(serde_json::to_string(&read(r#"{"percent":80}"#).unwrap()).unwrap(), r#"{"percent":80}"#);
        assert!(read(r#"{"percent":101}"#).unwrap_err().contains("0 to 100"));
        assert!(read(r#"{"least":0}"#).unwrap_err().contains("\"enabled\":false"));
        assert!(read(r#"{"least":null}"#).is_err());
        assert!(read(r#"{"least":18446744073709551615}"#).unwrap_err().contains("at most 1000000"));
    }
}
