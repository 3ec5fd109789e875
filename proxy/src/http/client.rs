//! The other end of a client's connection, in the words of the fields that tell endpoints of it.

use std::net::{IpAddr, SocketAddr};

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address.
    pub(crate) address: IpAddr,
    /// The same as text.
    pub(crate) address_text: String,
    /// What it speaks: `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The port that it connected to.
    pub(crate) port: String,
    /// How its address is written in Forwarded (RFC 7239, 6).
    node: String,
}

impl Client {
    /// The client behind a connection that was accepted on `local`.
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, scheme: &'static str) -> Self {
        let address = peer.ip().to_canonical();
        let node = match address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Self { address, address_text: address.to_string(), scheme, port: local.port().to_string(), node }
    }

    /// This hop as an element of Forwarded (RFC 7239), in parts.
    pub(crate) fn forwarded<'a>(&'a self, host: &'a str) -> [&'a [u8]; 7] {
        let (before, after): (&[u8], &[u8]) = match host {
            "" => (b"", b""),
            host if host.contains(':') => (b";host=\"", b"\""),
            _ => (b";host=", b""),
        };
        [b"for=", self.node.as_bytes(), before, host.as_bytes(), after, b";proto=", self.scheme.as_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_written_as_rfc_7239_says() {
        let local = "10.0.0.2:8080".parse().unwrap();
        let of = |peer: &str, host: &str| String::from_utf8(Client::new(peer.parse().unwrap(), local, "http").forwarded(host).concat()).unwrap();
        assert_eq!(of("10.0.0.1:5", "a"), "for=10.0.0.1;host=a;proto=http");
        assert_eq!(of("[2001:db8::1]:5", "a:80"), "for=\"[2001:db8::1]\";host=\"a:80\";proto=http");
        assert_eq!(of("[::ffff:10.0.0.1]:5", ""), "for=10.0.0.1;proto=http");
    }
}
