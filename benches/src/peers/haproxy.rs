//! HAProxy with one thread and keep-alive connections to its server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use waypost_testkit::Process;

use crate::product::loopback;

/// Starts it in front of `origin`; returns its process and address.
pub(crate) fn start(folder: &Path, origin: SocketAddr) -> (Process, SocketAddr) {
    let web = loopback();
    let config = format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend web
  bind {web}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header Forwarded for=%[src];host=%[req.hdr(host)];proto=http
  http-request set-header Via \"1.1 haproxy\"
  default_backend shop
backend shop
  server a {origin}
"
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, config).expect("haproxy.cfg");
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(&path);
    let mut process = Process::start(&mut command, &folder.join("haproxy.log"));
    waypost_testkit::process::wait_for_port(web, &mut process);
    (process, web)
}
