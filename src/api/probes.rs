//! Endpoints for liveness and readiness probes and for metrics.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::context::Api;
use crate::controller::message::{Query, Stopped};

pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Readiness: a complete snapshot is published. Old stores are reported and do not make the controller unready.
pub(super) async fn ready(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Stopped> {
    let status = api.handle.ask(Query::Ready).await?;
    let mut text = String::new();
    if query.is_some_and(|query| query.contains("verbose")) {
        for source in &status.sources {
            let age = source.age_seconds.map_or("never read".to_owned(), |age| format!("confirmed {age:.1} s ago"));
            text += &format!(
                "[{}] {}: {age}{}\n",
                if source.current { '+' } else { '-' },
                source.url,
                source.error.as_ref().map(|error| format!("; {error}")).unwrap_or_default()
            );
        }
    }
    Ok(match status.version {
        Some(version) => (StatusCode::OK, format!("{text}ready: version {version}\n")),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{text}not ready: nothing is published yet; the stores are read first, and who has lost what was published asks for it\n"),
        ),
    }
    .into_response())
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<String, Stopped> {
    api.handle.ask(Query::Metrics).await
}

pub(super) async fn version() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "release": env!("CARGO_PKG_VERSION") }))
}
