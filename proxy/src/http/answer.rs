//! Answers that the proxy makes itself: `server: waypost` and a short reason in plain text.

use http::{HeaderValue, Response, StatusCode, header};

use crate::http::body::ResponseBody;

/// A request that goes no further, with the answer that says why. Boxed, because it is rare and large.
pub(crate) type Refusal = Box<Response<ResponseBody>>;

/// A refusal with a reason.
pub(crate) fn refuse(status: StatusCode, reason: impl Into<String>) -> Refusal {
    Box::new(plain(status, reason))
}

/// An answer with a reason.
pub(crate) fn plain(status: StatusCode, reason: impl Into<String>) -> Response<ResponseBody> {
    let mut text: String = reason.into();
    text.push('\n');
    with_body(status, HeaderValue::from_static("text/plain; charset=utf-8"), text.into())
}

/// An answer with a body of any type.
pub(crate) fn with_body(status: StatusCode, content_type: HeaderValue, body: bytes::Bytes) -> Response<ResponseBody> {
    let empty = body.is_empty();
    let mut response = Response::new(ResponseBody::own(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("waypost"));
    if !empty {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}
