//! The rest of a body that nobody wants: read for a while, because a connection that is closed over unread bytes is
//! reset, and the reset would overtake the answer that says why.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Body;

/// No more than this is read.
const BYTES: usize = 1024 * 1024;
/// And for no longer.
const TIME: Duration = Duration::from_secs(2);

/// Reads what is left, beside the answer.
pub(crate) fn discard<B>(mut body: B)
where
    B: Body<Data = bytes::Bytes> + Unpin + Send + 'static,
{
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let reading = async {
            let mut left = BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) else { return };
                left = rest;
            }
        };
        // What comes later is cut off.
        tokio::time::timeout(TIME, reading).await.unwrap_or_default();
    });
}
