//! One probe: the request, and the evaluation of the response.

use std::io::ErrorKind;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use waypost_model::resource::CheckType;

use crate::table::Check;

/// Probes an endpoint once.
///
/// # Errors
/// The reason why the probe failed, in a few words that are the same each time.
pub(super) async fn ask(check: &Check) -> Result<(), String> {
    let patience = check.how.timeout.get();
    timeout(patience, answered(check)).await.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}

async fn answered(check: &Check) -> Result<(), String> {
    let stream = TcpStream::connect(address(check).await?).await.map_err(|error| connect_failed(&error))?;
    match check.how.r#type {
        CheckType::Tcp => Ok(()),
        CheckType::Http => http(check, stream).await,
    }
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
