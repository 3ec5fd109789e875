//! The endpoint behind the proxies: it answers at once, with as little work as possible.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The response of an endpoint.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// This body, always.
    Fixed(&'static [u8]),
    /// Its name, the request's `x-config`, and the request's body.
    Echo(&'static str),
}

/// Starts an endpoint on `address`; port 0 selects a free one.
pub(crate) async fn start(address: SocketAddr, answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind(address).await.expect("an endpoint's port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, answer.clone()));
        }
    });
    address
}

async fn converse(mut stream: TcpStream, answer: Answer) {
    drop(stream.set_nodelay(true));
    let fixed = match &answer {
        Answer::Fixed(body) => [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat(),
        Answer::Echo(_) => Vec::new(),
    };
    let mut buffer = Vec::with_capacity(16_384);
    loop {
        let Some(end) = head_end(&buffer) else {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let length = header(&buffer[..end], b"content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while buffer.len() < end + length {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let sent = match &answer {
            Answer::Fixed(_) => stream.write_all(&fixed).await,
            Answer::Echo(name) => {
                let config = header(&buffer[..end], b"x-config").unwrap_or_default();
                let prefix = format!("{name} {config} ");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{prefix}", prefix.len() + length);
                stream.write_all(&[head.as_bytes(), &buffer[end..end + length]].concat()).await
            }
        };
        if sent.is_err() {
            return;
        }
        buffer.drain(..end + length);
    }
}

/// The offset of the end of the head; `None` if the head is incomplete.
pub(crate) fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// A header's value; `name` in lower case.
pub(crate) fn header(head: &[u8], name: &[u8]) -> Option<String> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        (line[..at].eq_ignore_ascii_case(name)).then(|| String::from_utf8_lossy(&line[at + 1..]).trim().to_owned())
    })
}
