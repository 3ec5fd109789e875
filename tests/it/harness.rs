//! Starting the programs as a user would, and talking to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use waypost_testkit::{Process, free_port};

/// The program under test.
pub(crate) fn waypost() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_waypost"))
}

/// The proxy's program, which stands beside it.
pub(crate) fn waypost_proxy() -> PathBuf {
    let path = waypost().with_file_name("waypost-proxy");
    assert!(path.exists(), "{} is missing: build the whole workspace", path.display());
    path
}

/// A `waypost run` with its ports and directories.
#[derive(Debug)]
pub(crate) struct Box1 {
    pub(crate) folder: TempDir,
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    arguments: Vec<String>,
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

impl Box1 {
    /// Runs with a store; `{dir}` in its URL is a directory of its own.
    pub(crate) fn start(store: &str, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("waypost");
        std::fs::create_dir(&dir).unwrap();
        let store = store.replace("{dir}", &dir.display().to_string());
        let (api, admin) = (loopback(), loopback());
        let state = folder.path().join("state").display().to_string();
        let mut arguments: Vec<String> =
            ["run", "--store", &store, "--state", &state, "--api", &api.to_string(), "--admin", &admin.to_string(), "--name", "p1", "--drain-delay", "0s"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(extra.iter().map(|&flag| flag.to_owned()));
        let process = Process::start(Command::new(waypost()).args(&arguments), &folder.path().join("run.log"));
        let mut this = Self { folder, process, api, admin, arguments };
        this.wait_up();
        this
    }

    /// Runs over a directory.
    pub(crate) fn on_files() -> Self {
        Self::start("file://{dir}", &[])
    }

    /// Starts it again with everything it had.
    pub(crate) fn restart(&mut self) {
        self.process = Process::start(Command::new(waypost()).args(&self.arguments), &self.folder.path().join("run.log"));
        self.wait_up();
    }

    fn wait_up(&mut self) {
        for address in [self.api, self.admin] {
            waypost_testkit::process::wait_for_port(address, &mut self.process);
        }
    }

    /// The directory of a file store.
    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("waypost")
    }

    /// Writes a file of the store.
    pub(crate) fn write(&self, key: &str, value: &str) {
        let path = self.dir().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
    }

    /// Runs a verb; `--controller` is given.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Output {
        verb(self.api, arguments)
    }

    /// Runs a verb that must succeed; returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        ok(self.api, arguments)
    }

    /// Runs a verb that must fail with this code; returns everything it printed.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.verb(arguments);
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        printed
    }

    /// Writes a listener on a free port and waits until it is live.
    pub(crate) fn listener(&self) -> SocketAddr {
        let address = loopback();
        self.ok(&["put", "listeners/web", &format!("{{\"address\":\"{address}\"}}"), "--wait"]);
        address
    }
}

/// A route for the host `page` that answers with this.
pub(crate) fn page(body: &str) -> String {
    page_at("page", body)
}

/// The same for another host.
pub(crate) fn page_at(host: &str, body: &str) -> String {
    format!(r#"{{"hostnames":["{host}"],"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{body}"}}}}]}}]}}"#)
}

/// A proxy of its own that follows the controller at `api`; its log is beside its state directory.
pub(crate) fn start_proxy(api: SocketAddr, state: &Path, name: &str, bind: &str) -> Process {
    start_proxy_of(&[api], state, name, bind)
}

/// The same of several controllers.
pub(crate) fn start_proxy_of(apis: &[SocketAddr], state: &Path, name: &str, bind: &str) -> Process {
    start_proxy_with(apis, state, name, bind, &[])
}

/// The same with flags of its own.
pub(crate) fn start_proxy_with(apis: &[SocketAddr], state: &Path, name: &str, bind: &str, extra: &[&str]) -> Process {
    let mut command = Command::new(waypost_proxy());
    let admin = loopback().to_string();
    for api in apis {
        command.args(["--controller", &format!("http://{api}")]);
    }
    command.args(["--state", &state.display().to_string(), "--admin", &admin, "--name", name, "--bind", bind, "--drain-delay", "0s"]).args(extra);
    Process::start(&mut command, &state.with_extension("log"))
}

/// Runs a verb against the controller at `api`.
pub(crate) fn verb(api: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(waypost()).args(arguments).env("WAYPOST_CONTROLLER", format!("http://{api}")).output().unwrap()
}

/// Runs a verb that must succeed; returns what it printed.
pub(crate) fn ok(api: SocketAddr, arguments: &[&str]) -> String {
    let output = verb(api, arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The description of the controller at `api`; nothing if it does not answer.
pub(crate) fn info(api: SocketAddr) -> serde_json::Value {
    if TcpStream::connect_timeout(&api, Duration::from_millis(300)).is_err() {
        return serde_json::Value::Null;
    }
    let answer = raw(api, b"GET /v1/controller HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n");
    answer.ok().and_then(|answer| serde_json::from_str(&answer.body).ok()).unwrap_or_default()
}

/// The place among these of the one controller that leads, once there is exactly one and all others follow it.
pub(crate) fn leader_of(controllers: &[(String, SocketAddr)]) -> usize {
    let mut found = 0;
    until("one leader whom all others follow", || {
        let all: Vec<serde_json::Value> = controllers.iter().map(|(_, api)| info(*api)).collect();
        let leads: Vec<usize> = (0..all.len()).filter(|number| all[*number]["epoch"].is_u64()).collect();
        found = leads.first().copied().unwrap_or_default();
        let name = controllers[found].0.as_str();
        let follows = |number: usize| all[number]["upstream"].as_array().is_some_and(|chain| chain.last().is_some_and(|last| last == name));
        leads.len() == 1 && (0..all.len()).all(|number| number == found || follows(number))
    });
    found
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A response as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()))
    }
}

/// Sends bytes on a new connection and reads to its end.
pub(crate) fn raw(address: SocketAddr, request: &[u8]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    raw_on(&mut stream, request)
}

/// Sends bytes on a connection and reads to its end.
pub(crate) fn raw_on(stream: &mut (impl Read + Write), request: &[u8]) -> std::io::Result<Response> {
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let all = text(&bytes);
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}

/// One GET on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    raw(address, format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}: in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An endpoint that answers every request with its own name and the request.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// Starts one; `answer` makes a response from a request's head and body.
    pub(crate) fn start(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (requests.clone(), stop.clone());
        let connections = Arc::new(AtomicU64::new(0));
        let accepted = connections.clone();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), answer, counter) = (stream, answer.clone(), counter.clone()) else { continue };
                accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || converse(stream, answer.as_ref(), &counter));
            }
        });
        Self { address, requests, connections, stop }
    }

    /// One that says its name.
    pub(crate) fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |_, _| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-backend: {name}\r\n\r\n{name}", name.len()).into_bytes())
    }

    /// One that gives back the head it got, and its body.
    pub(crate) fn echo() -> Self {
        Self::start(|head, body| {
            let content = [head.as_bytes(), b"\n", body].concat();
            [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len()).as_bytes(), &content].concat()
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn converse(mut stream: TcpStream, answer: &(dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync), counter: &AtomicU64) {
    drop(stream.set_nodelay(true));
    let mut buffer = Vec::new();
    loop {
        let Some(end) = find(&buffer, b"\r\n\r\n") else {
            let mut chunk = [0; 65_536];
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            }
            continue;
        };
        let head = text(&buffer[..end]);
        let Some((body, used)) = body_of(&mut stream, &head, &mut buffer, end + 4) else { return };
        buffer.drain(..used);
        counter.fetch_add(1, Ordering::Relaxed);
        if stream.write_all(&answer(&head, &body)).is_err() {
            return;
        }
    }
}

fn find(buffer: &[u8], wanted: &[u8]) -> Option<usize> {
    buffer.windows(wanted.len()).position(|window| window == wanted)
}

/// The body behind a head, read to its end; and how many bytes of the buffer it and the head take.
fn body_of(stream: &mut TcpStream, head: &str, buffer: &mut Vec<u8>, start: usize) -> Option<(Vec<u8>, usize)> {
    let header = |name: &str| {
        head.lines().find_map(|line| line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()))
    };
    let more = |stream: &mut TcpStream, buffer: &mut Vec<u8>| {
        let mut chunk = [0; 65_536];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                buffer.extend_from_slice(&chunk[..count]);
                true
            }
        }
    };
    if let Some(length) = header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        if header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        while buffer.len() < start + length {
            if !more(stream, buffer) {
                return None;
            }
        }
        return Some((buffer[start..start + length].to_vec(), start + length));
    }
    if header("transfer-encoding").is_some() {
        loop {
            if let Some(end) = find(&buffer[start..], b"0\r\n").and_then(|at| find(&buffer[start + at..], b"\r\n\r\n").map(|tail| start + at + tail + 4)) {
                return Some((buffer[start..end].to_vec(), end));
            }
            if !more(stream, buffer) {
                return None;
            }
        }
    }
    Some((Vec::new(), start))
}

/// Requests in a loop on keep-alive connections, counted.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) sent: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Load {
    /// So many connections, each asking again as soon as it has an answer.
    pub(crate) fn start(address: SocketAddr, host: &str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let request = format!("GET /load HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let threads = (0..connections).map(|_| {
            let (stop, sent, failures, request) = (stop.clone(), sent.clone(), failures.clone(), request.clone());
            std::thread::spawn(move || {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(why) = ask(&mut connection, address, request.as_bytes()) {
                        failures.lock().unwrap().push(why);
                        connection = None;
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(500));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads, sent, failures }
    }

    /// Ends it; panics if a request failed. Returns how many were sent.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {} requests failed, such as {:?}",
            failures.len(),
            self.sent.load(Ordering::Relaxed),
            &failures[..failures.len().min(5)]
        );
        self.sent.load(Ordering::Relaxed)
    }
}

/// One request on a kept connection. The response has a content-length.
fn ask(connection: &mut Option<TcpStream>, address: SocketAddr, request: &[u8]) -> Result<(), String> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            connection.insert(stream)
        }
    };
    stream.write_all(request).map_err(|error| format!("write: {error}"))?;
    let mut buffer = Vec::new();
    loop {
        let mut chunk = [0; 16_384];
        let count = stream.read(&mut chunk).map_err(|error| format!("read: {error}"))?;
        if count == 0 {
            return Err(format!("closed after {} bytes", buffer.len()));
        }
        buffer.extend_from_slice(&chunk[..count]);
        let Some(end) = find(&buffer, b"\r\n\r\n") else { continue };
        let head = text(&buffer[..end]);
        let lower = head.to_ascii_lowercase();
        let length: usize = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse().ok())
            .ok_or_else(|| format!("no length: {head}"))?;
        if buffer.len() < end + 4 + length {
            continue;
        }
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{head}\n{}", text(&buffer[end + 4..])));
        }
        if lower.contains("connection: close") {
            *connection = None;
        }
        return Ok(());
    }
}

/// The checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
