//! The steps of a new connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::http::answer::Answer;
use crate::http::connection::Accepting;
use crate::http::server1;
use crate::inbound::tls::Tls;
use crate::metrics::Handshake;
use crate::stream::Stream;
use crate::worker::Core;

/// A handshake may take so long from accept to its end.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Serves a connection until it ends.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream, accepting: Accepting) {
    match accepting.listener.tls.clone() {
        None => server1::serve(core, Stream::Clear(stream), accepting).await,
        // Rare and large: on the heap, so that connections in clear text do not carry its room along.
        Some(tls) => Box::pin(secured(core, stream, accepting, tls)).await,
    }
}

async fn secured(core: Arc<Core>, stream: TcpStream, accepting: Accepting, tls: Arc<Tls>) {
    let shared = core.shared.clone();
    let handshake = timeout(HANDSHAKE_TIME, greet(stream, &tls));
    let greeted = tokio::select! {
        greeted = handshake => greeted.unwrap_or(Greeted::Late),
        () = shared.abort.cancelled() => return,
        () = accepting.admission.activity.shed.cancelled() => return,
    };
    shared.metrics.handshake(greeted.outcome());
    match greeted {
        Greeted::Secured(stream) => server1::serve(core, Stream::Tls(stream), accepting).await,
        Greeted::Clear(stream) => {
            let answer = Answer::refusal(400, "a request in clear text on a port for HTTPS; ask with https://");
            server1::refuse(core, Stream::Clear(stream), accepting, &answer).await;
        }
        Greeted::Failed(error) => tracing::debug!(listener = &*accepting.listener.name, peer = %accepting.peer, %error, "a TLS handshake failed"),
        Greeted::Late => tracing::debug!(listener = &*accepting.listener.name, peer = %accepting.peer, "a TLS handshake was not done in time"),
    }
}

/// What a client did first.
enum Greeted {
    /// It shook hands.
    Secured(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// It began to speak HTTP in clear text.
    Clear(TcpStream),
    /// The handshake failed.
    Failed(std::io::Error),
    /// It was not done in time.
    Late,
}

impl Greeted {
    fn outcome(&self) -> Handshake {
        match self {
            Self::Secured(_) => Handshake::Done,
            Self::Clear(_) => Handshake::ClearText,
            Self::Failed(_) => Handshake::Failed,
            Self::Late => Handshake::Late,
        }
    }
}

async fn greet(stream: TcpStream, tls: &Tls) -> Greeted {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Greeted::Failed(std::io::ErrorKind::UnexpectedEof.into()),
        // A method begins with a letter, a record of TLS with its type.
        Ok(_) if first.iter().all(u8::is_ascii_alphabetic) => return Greeted::Clear(stream),
        Ok(_) => {}
        Err(error) => return Greeted::Failed(error),
    }
    match TlsAcceptor::from(tls.config().clone()).accept(stream).await {
        Ok(stream) => Greeted::Secured(Box::new(stream)),
        Err(error) => Greeted::Failed(error),
    }
}
