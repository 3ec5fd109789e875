//! Consul, one or three servers.

use std::path::PathBuf;
use std::process::Command;

use super::{Server, output, wait};
use crate::process::{Process, free_port, servers_dir};
use crate::tls::Certificates;

/// A cluster of Consul servers.
#[derive(Debug)]
pub struct Consul {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    extra: Option<PathBuf>,
    tls: u16,
}

#[derive(Debug)]
struct Member {
    http: u16,
    server: u16,
    lan: u16,
    wan: u16,
    process: Option<Process>,
}

impl Consul {
    /// Starts this number of servers, which keep their data over a restart.
    pub fn new(members: usize) -> Self {
        Self::with(members, None)
    }

    /// One server that requires tokens; the management token is [`Consul::MASTER`].
    pub fn with_acls() -> Self {
        let config = format!("acl {{ enabled = true, default_policy = \"deny\", tokens {{ initial_management = \"{}\" }} }}", Self::MASTER);
        Self::with(1, Some(config))
    }

    /// One server that also listens with TLS, on [`Consul::tls_endpoint`], and requires a client certificate.
    pub fn with_tls(certificates: &Certificates) -> Self {
        let port = free_port();
        let files = format!(
            "ca_file = {:?}, cert_file = {:?}, key_file = {:?}",
            certificates.path("ca.pem"),
            certificates.path("server.pem"),
            certificates.path("server-key.pem")
        );
        let mut consul = Self::with(1, Some(format!("ports {{ https = {port} }} tls {{ https {{ {files}, verify_incoming = true }} }}")));
        consul.tls = port;
        consul
    }

    /// The TLS endpoint of the server of [`Consul::with_tls`].
    pub fn tls_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.tls)
    }

    /// The management token of [`Consul::with_acls`].
    pub const MASTER: &str = "00000000-0000-0000-0000-00000000000a";

    fn with(members: usize, config: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let extra = config.map(|text| {
            let path = folder.path().join("extra.hcl");
            std::fs::write(&path, text).expect("a file");
            path
        });
        let member = |_| Member { http: free_port(), server: free_port(), lan: free_port(), wan: free_port(), process: None };
        let mut consul = Self { folder, members: (0..members).map(member).collect(), extra, tls: 0 };
        consul.launch_all();
        consul
    }

    fn launch_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.launch(member));
        wait("Consul to have a leader", || self.healthy());
    }

    fn launch(&mut self, number: usize) {
        let member = &self.members[number];
        let data = self.folder.path().join(format!("m{number}"));
        let mut command = Command::new(servers_dir().join("consul/consul"));
        command.args(["agent", "-server", "-node", &format!("m{number}"), "-data-dir", &data.display().to_string(), "-bind", "127.0.0.1"]);
        command.args([
            "-bootstrap-expect",
            &self.members.len().to_string(),
            "-http-port",
            &member.http.to_string(),
            "-server-port",
            &member.server.to_string(),
        ]);
        command.args([
            "-serf-lan-port",
            &member.lan.to_string(),
            "-serf-wan-port",
            &member.wan.to_string(),
            "-grpc-port",
            "-1",
            "-grpc-tls-port",
            "-1",
            "-dns-port",
            "-1",
        ]);
        command.args([
            "-hcl",
            "performance { raft_multiplier = 1 }",
            "-hcl",
            "disable_update_check = true",
            "-hcl",
            "limits { http_max_conns_per_client = -1 }",
            "-hcl",
            "connect { enabled = false }",
        ]);
        for other in self.members.iter().filter(|other| other.lan != member.lan) {
            command.args(["-retry-join", &format!("127.0.0.1:{}", other.lan), "-retry-interval", "1s"]);
        }
        if let Some(extra) = &self.extra {
            command.args(["-config-file", &extra.display().to_string()]);
        }
        let log = self.folder.path().join(format!("m{number}.log"));
        self.members[number].process = Some(Process::start(&mut command, &log));
    }

    /// Runs `consul` against the first running member.
    pub fn run(&self, arguments: &[&str]) -> Option<String> {
        let alive = self.members.iter().find(|member| member.process.is_some())?;
        self.run_at(alive.http, arguments)
    }

    fn run_at(&self, port: u16, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(servers_dir().join("consul/consul"));
        command.args(arguments).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{port}"));
        if self.extra.is_some() {
            command.env("CONSUL_HTTP_TOKEN", Self::MASTER);
        }
        output(&mut command)
    }

    fn healthy(&self) -> bool {
        let alive = self.members.iter().filter(|member| member.process.is_some());
        alive.into_iter().all(|member| self.run_at(member.http, &["kv", "put", "health", "1"]).is_some())
    }

    /// The program, for transcripts that write with `consul kv`.
    pub fn binary() -> PathBuf {
        servers_dir().join("consul/consul")
    }
}

impl Server for Consul {
    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.http)).collect()
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill();
        }
    }

    fn start(&mut self, member: usize) {
        self.launch(member);
        wait("Consul to answer again", || self.healthy());
    }

    fn freeze(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").freeze();
    }

    fn thaw(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").thaw();
    }

    fn leader(&self) -> usize {
        let peers = self.run(&["operator", "raft", "list-peers"]).unwrap_or_default();
        let line = peers.lines().find(|line| line.contains("leader")).expect("a leader").to_owned();
        self.members.iter().position(|member| line.contains(&format!("127.0.0.1:{}", member.server))).expect("a leader of ours")
    }

    fn wipe(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
            std::fs::remove_dir_all(self.folder.path().join(format!("m{member}"))).expect("the old data");
        }
        self.launch_all();
    }
}
