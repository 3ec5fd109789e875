//! A gate in front of a server that can cut a connection at the worst moment: between a write and its answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The fault of the connection that carries the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The write arrives, its answer is lost.
    AnswerLost,
    /// The write is delayed until [`Gate::release`], and its answer is lost.
    WriteHeld,
}

/// The armed fault: the bytes whose connection it hits, and the fault.
type Armed = Arc<Mutex<Option<(Vec<u8>, Fate)>>>;

/// A relay between client and server. It forwards connections unchanged, until one carries the bytes that the gate is armed for.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    armed: Armed,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Gate {
    /// A gate in front of `target`, which is `host:port`.
    ///
    /// # Panics
    /// No port is free.
    pub async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let armed = Arc::new(Mutex::new(None));
        let (held, release) = watch::channel(false);
        let (shared, target) = (armed.clone(), target.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                tokio::spawn(pass(client, server, shared.clone(), release.clone()));
            }
        });
        Self { address, armed, held, task }
    }

    /// The address for clients.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Arms the gate: the next connection that carries `bytes` gets this fault.
    ///
    /// # Panics
    /// A connection's task panicked.
    pub fn arm(&self, bytes: impl Into<Vec<u8>>, fate: Fate) {
        self.held.send_replace(true);
        *self.armed.lock().expect("not poisoned") = Some((bytes.into(), fate));
    }

    /// Lets the delayed write through.
    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: TcpStream, armed: Armed, held: watch::Receiver<bool>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (cut, is_cut) = watch::channel(false);
    tokio::join!(requests(from_client, to_server, armed, held, cut), answers(from_server, to_client, is_cut));
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, armed: Armed, mut held: watch::Receiver<bool>, cut: watch::Sender<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let piece = &buffer[..count];
        let hit = armed.lock().expect("not poisoned").take_if(|(bytes, _)| piece.windows(bytes.len()).any(|window| window == bytes.as_slice()));
        if let Some((_, fate)) = hit {
            cut.send_replace(true);
            if fate == Fate::WriteHeld && held.wait_for(|held| !held).await.is_err() {
                return;
            }
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !*cut.borrow() && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
