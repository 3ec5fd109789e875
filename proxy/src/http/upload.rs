//! The request's body on its way to an endpoint.

use std::io;
use std::task::Poll;

use waypost_http1::{Framing, Writer as Message};

use crate::http::body::{BodyError, Incoming};
use crate::http::fields::may_trail;
use crate::http::gate::Progress;
use crate::http::io::{Patience, Reader, Writer};
use crate::table::CompiledRule;

/// Why a body was not sent as a whole.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client's body did not come whole.
    Client(BodyError),
    /// The endpoint takes no more. It may have answered.
    Endpoint(io::Error),
}

/// A body to send.
pub(crate) struct Upload<'a> {
    pub(crate) body: &'a mut Incoming,
    pub(crate) framing: Framing,
    pub(crate) rule: &'a CompiledRule,
    pub(crate) patience: Patience,
    pub(crate) progress: &'a Progress,
}

impl Upload<'_> {
    /// Sends the head, which is pending, and then the body as it comes.
    pub(crate) async fn run(self, client: &mut Reader, endpoint: &mut Writer) -> Result<(), UploadError> {
        let is_chunked = self.framing == Framing::Chunked;
        if self.progress.waits() || self.body.available(client).map_err(|violation| UploadError::Client(BodyError::Broken(violation)))? == 0 {
            endpoint.send(&[], b"").await.map_err(UploadError::Endpoint)?;
        }
        // Who waits to be asked sends nothing before.
        std::future::poll_fn(|_| if self.progress.waits() { Poll::Pending } else { Poll::Ready(()) }).await;
        loop {
            let count = self.body.next(client, self.patience).await.map_err(UploadError::Client)?;
            if count == 0 {
                break;
            }
            if is_chunked {
                Message::new(endpoint.pending()).chunk_size(count);
            }
            let data = client.unread().get(..count).unwrap_or_default();
            endpoint.send(data, if is_chunked { b"\r\n" } else { b"" }).await.map_err(UploadError::Endpoint)?;
            self.body.took(client, count);
        }
        if is_chunked {
            let decided = |name: &[u8]| self.rule.request_headers.decides(name);
            let trailers = self.body.trailers().iter().filter(|(name, _)| may_trail(name, &decided));
            Message::new(endpoint.pending()).last_chunk(trailers.map(|(name, value)| (name.as_slice(), value.as_slice())));
            endpoint.send(&[], b"").await.map_err(UploadError::Endpoint)?;
        }
        self.progress.sent();
        Ok(())
    }
}
