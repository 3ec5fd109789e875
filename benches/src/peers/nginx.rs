//! nginx with one worker and keep-alive connections to its upstream.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use waypost_testkit::Process;

use crate::product::loopback;

/// Starts it in front of `origin`; returns its process and address.
pub(crate) fn start(folder: &Path, origin: SocketAddr) -> (Process, SocketAddr) {
    let web = loopback();
    let dir = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream shop {{ server {origin}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {web};
    location / {{
      proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header Forwarded \"for=$remote_addr;host=$http_host;proto=$scheme\"; proxy_set_header Via \"1.1 nginx\";
      proxy_buffers 16 32k; proxy_buffer_size 32k; proxy_busy_buffers_size 64k;
    }}
  }}
}}
"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config).expect("nginx.conf");
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg(folder.join("nginx-error.log")).arg("-p").arg(folder).arg("-c").arg(&path);
    let mut process = Process::start(&mut command, &folder.join("nginx.log"));
    waypost_testkit::process::wait_for_port(web, &mut process);
    (process, web)
}
