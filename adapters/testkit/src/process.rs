//! Processes for tests: started, frozen, killed, and never left running.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A child process that is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The file with its output.
    pub log: PathBuf,
}

impl Process {
    /// Starts a command with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}; run `make servers`"));
        Self { child, log: log.to_owned() }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        #[allow(unsafe_code, reason = "the standard library only knows SIGKILL")]
        // SAFETY: kill only takes numbers, and the process is our own child.
        let sent = unsafe { libc::kill(id, signal) };
        assert_eq!(sent, 0, "signal {signal} to {id}");
    }

    /// Freezes the process, which it cannot notice.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets the process continue.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks the process to end, and waits; returns its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        self.child.wait().expect("wait").code()
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().expect("wait").map(|status| status.code().unwrap_or(-1))
    }

    /// Everything it printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Ports outside the range for outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A free port on loopback that no other caller gets: a process returns each port only once, and all are below those that the kernel uses
/// for outgoing connections.
pub fn free_port() -> u16 {
    let process = u16::try_from(std::process::id() % 200).expect("a small number") * 97;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    let mut candidates = PORTS.map(|_| PORTS.start + process.wrapping_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start));
    candidates.find(is_free).expect("a free port")
}

/// Waits until something accepts at `address`.
pub fn wait_for_port(address: SocketAddr, process: &mut Process) {
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
        assert!(process.ended().is_none(), "it ended: {}", process.output());
        assert!(Instant::now() < end, "nothing listens on {address}: {}", process.output());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The directory in which `make servers` puts the servers.
pub fn servers_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("SERVERS") {
        return dir.into();
    }
    let cache = std::env::var_os("WAYPOST_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = cache.unwrap_or_else(|| std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("waypost"));
    cache.join("servers")
}
