//! What a request asks for, as JSON in its body.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::context::{Api, refuse};

/// The body; one that is not understood is refused with what is wrong with it.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Response> {
        let body = Json::<T>::from_request(request, api).await;
        body.map(|Json(asked)| Self(asked)).map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))
    }
}
