//! The JSON body of a request.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::context::{Api, refuse};

/// The decoded body. A body that cannot be decoded is refused with the decoder's message.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Response> {
        let body = Json::<T>::from_request(request, api).await;
        body.map(|Json(asked)| Self(asked)).map_err(|error| refuse(StatusCode::BAD_REQUEST, error.body_text()))
    }
}
