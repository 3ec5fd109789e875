//! One release beside the next: programs of an earlier state of this repository, named by its commit, work with those of now,
//! on the wire and on disk, in both directions.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use waypost_testkit::Process;

use crate::harness::{checkout, get, loopback, text, until, verb, waypost, waypost_proxy};

/// The last state of the first milestone: one controller, the first formats of wire and disk.
const RELEASED: &str = "0fd101d97a3815e5389cb570741195d4d29c8db2";

/// The directory with the programs of that state.
fn released() -> PathBuf {
    let output = Command::new(checkout().join("scripts/released.sh")).arg(RELEASED).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    PathBuf::from(text(&output.stdout).trim())
}

struct Pair {
    folder: tempfile::TempDir,
    api: SocketAddr,
    web: SocketAddr,
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        Self { folder, api: loopback(), web: loopback() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn controller(&self, program: &Path) -> Process {
        let mut command = Command::new(program);
        command.args(["controller", "--store", &format!("file://{}", self.path("waypost")), "--state", &self.path("c")]);
        command.args(["--api", &self.api.to_string(), "--name", "c1"]);
        let mut process = Process::start(&mut command, Path::new(&self.path("c.log")));
        waypost_testkit::process::wait_for_port(self.api, &mut process);
        process
    }

    fn proxy(&self, program: &Path) -> Process {
        let mut command = Command::new(program);
        command.args(["--controller", &format!("http://{}", self.api), "--state", &self.path("p"), "--name", "p1"]);
        command.args(["--admin", &loopback().to_string(), "--drain-delay", "0s", "--version-header"]);
        Process::start(&mut command, Path::new(&self.path("p.log")))
    }

    fn verb(&self, arguments: &[&str]) -> Output {
        verb(self.api, arguments)
    }

    fn write(&self, key: &str, value: &str) {
        let path = self.folder.path().join("waypost").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
    }

    fn listener(&self) {
        self.write("listeners/web", &format!("{{\"address\":\"{}\"}}", self.web));
    }

    fn page(&self, body: &str) {
        let filter = format!(r#"{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{body}"}}}}"#);
        self.write("routes/page", &format!(r#"{{"rules":[{{"filters":[{filter}]}}]}}"#));
    }

    fn serves(&self, body: &str) {
        until(body, || std::net::TcpStream::connect(self.web).is_ok() && get(self.web, "any", "/").body == body);
    }

    /// One writes, one publishes, one serves: changes, deltas, a controller that is killed, a proxy that is.
    fn work_together(&self, controller: &Path, proxy: &Path) {
        let mut publishes = self.controller(controller);
        let mut serves = self.proxy(proxy);
        self.listener();
        self.page("one");
        self.serves("one");
        for number in 0..20 {
            self.page(&format!("two{number}"));
            self.serves(&format!("two{number}"));
        }
        publishes.kill();
        self.page("three");
        publishes = self.controller(controller);
        self.serves("three");
        serves.kill();
        serves = self.proxy(proxy);
        self.serves("three");
        self.page("four");
        self.serves("four");
        drop((publishes, serves));
    }
}

#[test]
fn a_proxy_of_the_first_milestone_works_with_this_controller() {
    Pair::new().work_together(&waypost(), &released().join("waypost-proxy"));
}

#[test]
fn this_proxy_works_with_a_controller_of_the_first_milestone() {
    Pair::new().work_together(&released().join("waypost"), &waypost_proxy());
}

#[test]
fn both_programs_go_on_from_the_disk_of_the_first_milestone() {
    let (pair, old) = (Pair::new(), released());
    let mut publishes = pair.controller(&old.join("waypost"));
    let mut serves = pair.proxy(&old.join("waypost-proxy"));
    pair.listener();
    pair.page("good");
    pair.serves("good");
    pair.write("routes/page", "garbage");
    until("the refusal", || text(&pair.verb(&["status"]).stdout).contains("Rejected: 1"));
    assert!(pair.verb(&["freeze", "--by", "alice"]).status.success());
    until("the proxy's disk", || {
        std::fs::read_dir(pair.folder.path().join("p")).unwrap().flatten().any(|file| file.file_name().to_string_lossy().starts_with("config-"))
    });
    assert_eq!((publishes.terminate(), serves.terminate()), (Some(0), Some(0)));
    serves = pair.proxy(&waypost_proxy());
    pair.serves("good");
    let before = get(pair.web, "any", "/").header("waypost-version").unwrap().to_owned();
    publishes = pair.controller(&waypost());
    until("a later version", || get(pair.web, "any", "/").header("waypost-version").unwrap() > before.as_str());
    assert_eq!(get(pair.web, "any", "/").body, "good", "the last good value");
    let output = text(&pair.verb(&["status"]).stdout);
    assert!(output.contains("is frozen at C") && output.contains("by alice"), "{output}");
    assert!(pair.verb(&["unfreeze"]).status.success());
    pair.page("next");
    pair.serves("next");
    drop((publishes, serves));
}
