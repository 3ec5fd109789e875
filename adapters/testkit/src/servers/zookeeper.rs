//! ZooKeeper, one or three servers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Server, wait};
use crate::process::{Process, free_port, servers_dir};
use crate::tls::Certificates;

/// An ensemble of ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeper {
    folder: tempfile::TempDir,
    classes: String,
    members: Vec<Member>,
    tls: Option<(u16, String)>,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    election: u16,
    process: Option<Process>,
}

impl ZooKeeper {
    /// Starts this number of members of the current release.
    pub fn new(members: usize) -> Self {
        Self::of(format!("{}/*", servers_dir().join("zookeeper/lib").display()), members, None)
    }

    /// Starts one member that also listens with TLS, on [`ZooKeeper::tls_endpoint`], and requires a client certificate.
    pub fn with_tls(certificates: &Certificates) -> Self {
        let port = free_port();
        let settings = format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nsecureClientPort={port}\nsecureClientPortAddress=127.0.0.1\nssl.clientAuth=need\nssl.keyStore.type=PEM\nssl.keyStore.location={}\nssl.trustStore.type=PEM\nssl.trustStore.location={}\n",
            certificates.path("server-both.pem"),
            certificates.path("ca.pem")
        );
        Self::of(format!("{}/*", servers_dir().join("zookeeper/lib").display()), 1, Some((port, settings)))
    }

    /// The TLS endpoint of the member of [`ZooKeeper::with_tls`].
    pub fn tls_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.tls.as_ref().expect("a server with TLS").0)
    }

    /// Starts one member of the oldest release that is supported.
    pub fn old() -> Self {
        Self::of("/usr/share/java/*".to_owned(), 1, None)
    }

    fn of(classes: String, members: usize, tls: Option<(u16, String)>) -> Self {
        let member = |_| Member { client: free_port(), peer: free_port(), election: free_port(), process: None };
        let mut zookeeper = Self { folder: tempfile::tempdir().expect("a folder"), classes, members: (0..members).map(member).collect(), tls };
        zookeeper.launch_all();
        zookeeper
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }

    fn launch_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.launch(member));
        wait("ZooKeeper to serve", || self.healthy());
    }

    fn launch(&mut self, number: usize) {
        let data = self.data(number);
        std::fs::create_dir_all(&data).expect("a folder");
        std::fs::write(data.join("myid"), (number + 1).to_string()).expect("a file");
        let mut config = format!(
            "tickTime=500\ninitLimit=20\nsyncLimit=10\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\nmaxSessionTimeout=20000\nforceSync=no\n",
            data.display(),
            self.members[number].client
        );
        if let Some((_, settings)) = &self.tls {
            config += settings;
        }
        if self.members.len() > 1 {
            for (other, member) in self.members.iter().enumerate() {
                config += &format!("server.{}=127.0.0.1:{}:{}\n", other + 1, member.peer, member.election);
            }
        }
        let file = self.folder.path().join(format!("m{number}.cfg"));
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new("java");
        command.args([
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            &self.classes,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            &file.display().to_string(),
        ]);
        let log = self.folder.path().join(format!("m{number}.log"));
        self.members[number].process = Some(Process::start(&mut command, &log));
    }

    /// A copy of the data of the only member, which is stopped during the copy.
    pub fn backup(&mut self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        self.kill(0);
        copy_folder(&self.data(0), &copy.path().join("data"));
        self.start(0);
        copy
    }

    /// Replaces the data with a backup.
    pub fn restore(&mut self, backup: &tempfile::TempDir) {
        self.kill(0);
        std::fs::remove_dir_all(self.data(0)).expect("the old data");
        copy_folder(&backup.path().join("data"), &self.data(0));
        self.start(0);
    }

    /// Sends a four-letter command to a member; returns its answer.
    pub fn ask(&self, member: usize, word: &str) -> Option<String> {
        let address = ([127, 0, 0, 1], self.members[member].client).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn healthy(&self) -> bool {
        let alive = (0..self.members.len()).filter(|member| self.members[*member].process.is_some());
        alive.into_iter().all(|member| self.ask(member, "srvr").is_some_and(|text| text.contains("Mode: ")))
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status().expect("cp");
    assert!(copied.success(), "{} could not be copied", from.display());
}

impl Server for ZooKeeper {
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
        wait("ZooKeeper to serve again", || self.healthy());
    }

    fn freeze(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").freeze();
    }

    fn thaw(&self, member: usize) {
        self.members[member].process.as_ref().expect("it runs").thaw();
    }

    fn leader(&self) -> usize {
        let leads = |member: &usize| self.ask(*member, "srvr").is_some_and(|text| text.contains("Mode: leader") || text.contains("Mode: standalone"));
        (0..self.members.len()).find(leads).expect("a leader")
    }

    fn wipe(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
            std::fs::remove_dir_all(self.data(member)).expect("the old data");
        }
        self.launch_all();
    }
}
