//! `waypost echo`: an HTTP server that answers with its name and the request.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use clap::Args;
use tokio::net::TcpListener;

use super::outcome::{Failure, Outcome};
use super::text::say;

#[derive(Debug, Args)]
pub(super) struct EchoFlags {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// Name in the answers
    #[arg(long, default_value = "echo")]
    name: String,
}

pub(super) async fn run(flags: EchoFlags) -> Outcome {
    let listener = bind(flags.listen).await?;
    say!("{} listens on {}", flags.name, flags.listen);
    serve(listener, flags.name).await
}

/// Binds an echo server's address.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| Failure::failed(format!("{address} cannot be bound: {error}; name another address")))
}

/// Echoes until the process ends.
pub(super) async fn serve(listener: TcpListener, name: String) -> Outcome {
    let app = Router::new().fallback(move |request: Request| {
        let name = name.clone();
        async move { echo(&name, &request) }
    });
    axum::serve(listener, app).await.map_err(Failure::failed)
}

fn echo(name: &str, request: &Request) -> impl IntoResponse + use<> {
    let mut text = format!("I am {name}\n{} {}\n", request.method(), request.uri());
    for (header, value) in request.headers() {
        text += &format!("{header}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    ([("x-echo", name.to_owned())], text)
}
