//! One HTTP/2 connection to a controller, in clear text or over TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use waypost_trust::cause;
use waypost_wire::{HEARTBEAT_SECONDS, SILENCE_SECONDS};

/// Time without a line after which the controller counts as lost.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);
/// Time limit of connecting.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The sending side of a connection to a controller, with the controller's URL.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// The controller.
    pub(crate) url: url::Url,
    /// Sends requests.
    pub(crate) sender: http2::SendRequest<Full<Bytes>>,
}

impl Link {
    /// Connects, over TLS if `tls` has settings for it.
    pub(crate) async fn open(url: &url::Url, tls: Option<Arc<ClientConfig>>) -> Result<Self, String> {
        let host = url.host_str().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(7400);
        let in_time = |_| "no connection in time".to_owned();
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.clone(), port))).await.map_err(in_time)?.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(tls) = tls else { return Self::over(url, stream).await };
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let shaken = timeout(CONNECT_TIMEOUT, TlsConnector::from(tls).connect(name, stream)).await.map_err(in_time)?;
        Self::over(url, shaken.map_err(|error| error.to_string())?).await
    }

    async fn over(url: &url::Url, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, String> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(Some(Duration::from_secs(HEARTBEAT_SECONDS))).keep_alive_timeout(MAX_SILENCE);
        builder.initial_stream_window_size(4 * 1024 * 1024).initial_connection_window_size(8 * 1024 * 1024);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the connection to a controller ended");
            }
        });
        Ok(Self { url: url.clone(), sender })
    }

    /// Posts JSON; returns the body of a successful answer.
    pub(crate) async fn ask(&mut self, path: &str, body: Vec<u8>, patience: Duration) -> Result<Bytes, String> {
        let request = post(&self.url, path, body).map_err(|error| error.to_string())?;
        let asked = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = timeout(patience, asked).await.map_err(|_| "no answer in time".to_owned())?.map_err(|error| cause(&error))?;
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }
}

/// The lines of an endless answer, with a time limit for each.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Whether any data was received.
    pub(crate) received_data: bool,
}

/// Why a stream of lines ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// No data for too long.
    #[error("it went silent")]
    Silent,
    /// The peer closed the stream, or the connection broke.
    #[error("it closed the stream")]
    Closed,
    /// A line is longer than the limit.
    #[error("a line has more than {0} bytes")]
    TooLong(usize),
}

impl Lines {
    /// The lines of a response body.
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), received_data: false }
    }

    /// The next line, of at most `longest` bytes.
    pub(crate) async fn next(&mut self, longest: usize) -> Result<BytesMut, Ended> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.split_to(end + 1));
            }
            if self.buffer.len() > longest {
                return Err(Ended::TooLong(longest));
            }
            let data = match timeout(MAX_SILENCE, self.body.frame()).await {
                Err(_) => return Err(Ended::Silent),
                Ok(None | Some(Err(_))) => return Err(Ended::Closed),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            self.received_data = true;
            self.buffer.extend_from_slice(&data);
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    format!("{status}: {}", String::from_utf8_lossy(body).trim())
}

/// A POST request with JSON for a controller.
pub(crate) fn post(url: &url::Url, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = format!("{}://{}{path}", url.scheme(), url.authority());
    Request::builder().method(Method::POST).uri(uri).header("content-type", "application/json").body(Full::from(body))
}
