//! etcd, one or three members.

use std::path::PathBuf;
use std::process::Command;

use super::{Server, output, wait};
use crate::process::{Process, free_port, servers_dir};
use crate::tls::Certificates;

/// A cluster of etcd.
#[derive(Debug)]
pub struct Etcd {
    folder: tempfile::TempDir,
    binary: PathBuf,
    members: Vec<Member>,
    tls: Option<(u16, Vec<String>)>,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    process: Option<Process>,
}

impl Etcd {
    /// Starts this number of members of the current release.
    pub fn new(members: usize) -> Self {
        Self::of(servers_dir().join("etcd/etcd"), members, None)
    }

    /// Starts one member that also listens with TLS, on [`Etcd::tls_endpoint`], and requires a client certificate.
    pub fn with_tls(certificates: &Certificates) -> Self {
        let path = |name: &str| certificates.path(name);
        let flags = ["--cert-file", &path("server.pem"), "--key-file", &path("server-key.pem"), "--trusted-ca-file", &path("ca.pem"), "--client-cert-auth"];
        Self::of(servers_dir().join("etcd/etcd"), 1, Some((free_port(), flags.map(str::to_owned).to_vec())))
    }

    /// The TLS endpoint of the member of [`Etcd::with_tls`].
    pub fn tls_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.tls.as_ref().expect("a server with TLS").0)
    }

    /// Starts one member of the oldest release that is supported.
    pub fn old() -> Self {
        Self::of(servers_dir().join("etcd-old/usr/bin/etcd"), 1, None)
    }

    fn of(binary: PathBuf, members: usize, tls: Option<(u16, Vec<String>)>) -> Self {
        let member = |_| Member { client: free_port(), peer: free_port(), process: None };
        let mut etcd = Self { folder: tempfile::tempdir().expect("a folder"), binary, members: (0..members).map(member).collect(), tls };
        etcd.launch_all();
        etcd
    }

    fn launch_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.launch(member));
        wait("etcd to have a leader", || self.healthy());
    }

    fn launch(&mut self, number: usize) {
        let name = |number: usize| format!("m{number}");
        let cluster: Vec<String> =
            self.members.iter().enumerate().map(|(number, member)| format!("{}=http://127.0.0.1:{}", name(number), member.peer)).collect();
        let member = &self.members[number];
        let (mut client, peer) = (format!("http://127.0.0.1:{}", member.client), format!("http://127.0.0.1:{}", member.peer));
        if let Some((port, _)) = &self.tls {
            client += &format!(",https://127.0.0.1:{port}");
        }
        let mut command = Command::new(&self.binary);
        command.args(["--name", &name(number), "--data-dir", &self.folder.path().join(name(number)).display().to_string()]);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new", "--unsafe-no-fsync", "--auth-token-ttl", "3"]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        if self.binary.to_string_lossy().contains("old") {
            command = Command::new(&self.binary);
            command.args(["--name", &name(number), "--data-dir", &self.folder.path().join(name(number)).display().to_string()]);
            command.args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
            command.args(["--initial-cluster", &cluster.join(",")]);
        }
        command.args(self.tls.iter().flat_map(|(_, flags)| flags));
        let log = self.folder.path().join(format!("{}.log", name(number)));
        self.members[number].process = Some(Process::start(&mut command, &log));
    }

    /// Runs etcdctl.
    pub fn ctl(&self, arguments: &[&str]) -> Option<String> {
        let endpoints = self.endpoints().join(",");
        output(
            Command::new(servers_dir().join("etcd/etcdctl"))
                .args(["--endpoints", &endpoints, "--dial-timeout", "1s", "--command-timeout", "3s"])
                .args(arguments),
        )
    }

    fn healthy(&self) -> bool {
        let alive: Vec<String> = self.members.iter().filter(|member| member.process.is_some()).map(|member| format!("127.0.0.1:{}", member.client)).collect();
        alive.iter().all(|endpoint| {
            output(Command::new(servers_dir().join("etcd/etcdctl")).args([
                "--endpoints",
                endpoint,
                "--dial-timeout",
                "1s",
                "--command-timeout",
                "2s",
                "get",
                "health",
            ]))
            .is_some()
        })
    }

    /// Writes a backup of the first member to a file.
    pub fn backup(&self) -> PathBuf {
        let path = self.folder.path().join("backup.db");
        let first = &self.endpoints()[0];
        let saved = output(Command::new(servers_dir().join("etcd/etcdctl")).args(["--endpoints", first, "snapshot", "save", &path.display().to_string()]));
        assert!(saved.is_some(), "etcdctl snapshot save");
        path
    }

    /// Restores the only member from a backup.
    pub fn restore(&mut self, backup: &std::path::Path) {
        assert_eq!(self.members.len(), 1, "a restore of one member");
        self.kill(0);
        let data = self.folder.path().join("m0");
        std::fs::remove_dir_all(&data).expect("the old data");
        let peer = format!("http://127.0.0.1:{}", self.members[0].peer);
        let mut command = Command::new(servers_dir().join("etcd/etcdutl"));
        command.args(["snapshot", "restore", &backup.display().to_string(), "--data-dir", &data.display().to_string(), "--name", "m0"]);
        command.args(["--initial-cluster", &format!("m0={peer}"), "--initial-advertise-peer-urls", &peer]);
        assert!(output(&mut command).is_some(), "etcdutl snapshot restore");
        self.launch_all();
    }
}

impl Server for Etcd {
    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect()
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill();
        }
    }

    fn start(&mut self, member: usize) {
        self.launch(member);
        wait("etcd to answer again", || self.healthy());
    }

    fn freeze(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").freeze();
    }

    fn thaw(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").thaw();
    }

    fn leader(&self) -> usize {
        let leads = |endpoint: &String| {
            let status = output(Command::new(servers_dir().join("etcd/etcdctl")).args(["--endpoints", endpoint, "endpoint", "status", "-w", "fields"]))
                .unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim_matches([' ', ':', '"']).to_owned());
            field("\"MemberID\"").is_some_and(|id| field("\"Leader\"") == Some(id))
        };
        self.endpoints().iter().position(leads).expect("a leader")
    }

    fn wipe(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
            std::fs::remove_dir_all(self.folder.path().join(format!("m{member}"))).expect("the old data");
        }
        self.launch_all();
    }
}
