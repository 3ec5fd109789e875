//! One probe: the request, and the evaluation of the response.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use waypost_model::resource::CheckType;

use crate::descriptors::{Descriptors, is_local};
use crate::table::Check;

/// What a probe found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The endpoint is healthy.
    Healthy,
    /// The reason why the probe failed, in a few words that are the same each time.
    Failed(String),
    /// Nothing: this machine or process ran short of something.
    Nothing,
}

/// Probes an endpoint once.
pub(super) async fn ask(check: &Check, descriptors: &Arc<Descriptors>) -> Found {
    if descriptors.are_exhausted() {
        return Found::Nothing;
    }
    let _descriptor = descriptors.take();
    let patience = check.how.timeout.get();
    timeout(patience, answered(check)).await.unwrap_or_else(|_| Found::Failed(format!("no answer within {patience:?}")))
}

async fn answered(check: &Check) -> Found {
    let socket = match address(check).await {
        Ok(socket) => socket,
        Err(why) => return Found::Failed(why),
    };
    let stream = match TcpStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if is_local(&error) => return Found::Nothing,
        Err(error) => return Found::Failed(connect_failed(&error)),
    };
    let found = match check.how.r#type {
        CheckType::Tcp => Ok(()),
        CheckType::Http => http(check, stream).await,
    };
    found.map_or_else(Found::Failed, |()| Found::Healthy)
}

/// The address of a probe.
async fn address(check: &Check) -> Result<SocketAddr, String> {
    let resolved = check.peer.as_ref().map(|peer| peer.socket).or_else(|| Some(check.state.peers()?.first()?.socket));
    let mut socket = match resolved {
        Some(socket) => socket,
        None => {
            let mut found = tokio::net::lookup_host(&*check.address).await.map_err(|_| "the name cannot be resolved".to_owned())?;
            found.next().ok_or("the name has no address")?
        }
    };
    if let Some(port) = check.how.port {
        socket.set_port(port);
    }
    Ok(socket)
}

fn connect_failed(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut => "no connection".to_owned(),
        kind => format!("no connection: {kind}"),
    }
}

async fn http(check: &Check, stream: TcpStream) -> Result<(), String> {
    let broken = |_| "the connection broke off".to_owned();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let host = check.how.host.as_deref().unwrap_or(&check.address);
    let request = Request::get(check.how.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("waypost-probe/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| "the request cannot be made".to_owned())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        // The connection may end together with the response.
        _ = connection => answer.await,
    };
    let status = response.map_err(broken)?.status().as_u16();
    if check.how.expects(status) { Ok(()) } else { Err(format!("status {status}")) }
}
