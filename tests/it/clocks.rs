//! Clocks that jump by an hour, each way, on every program: nothing that serves changes, and every refusal says why.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Backend, Load, get, text, until};
use crate::trust::{Guarded, page};

const HOUR: i64 = 3_600;

/// A clock for each program, which can be set wrong while that runs.
pub(crate) struct Clocks {
    folder: PathBuf,
}

impl Clocks {
    /// In this folder.
    fn new(folder: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clocks.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("clocks.so")).arg(source).output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        Self { folder: folder.to_owned() }
    }

    fn file(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.clock"))
    }

    /// Has a program that is about to start use its own clock.
    pub(crate) fn give(&self, program: &str, command: &mut Command) {
        if !self.file(program).exists() {
            std::fs::write(self.file(program), 0_i64.to_ne_bytes()).unwrap();
        }
        command.env("LD_PRELOAD", self.folder.join("clocks.so")).env("WAYPOST_TEST_CLOCK", self.file(program));
    }

    /// Sets it wrong by so many seconds.
    fn set(&self, program: &str, seconds: i64) {
        std::fs::OpenOptions::new().write(true).open(self.file(program)).unwrap().write_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[test]
fn clocks_that_jump_by_an_hour_change_nothing_that_serves() {
    let mut cluster = Guarded::start(&[]);
    cluster.clocks = Some(Clocks::new(cluster.folder.path()));
    cluster.running[0].take().unwrap().kill();
    cluster.controller(0, &[], None);
    let joining = cluster.local(&["--join", "controller"]);
    let peer = cluster.url(0);
    cluster.controller(1, &["--peer", &peer], Some(&joining));
    let _first = cluster.proxy("p1", Some(&cluster.local(&["--join", "proxy"])));
    let (web, backend) = (cluster.listener(), Backend::named("a"));
    cluster.ok(0, &["put", "endpoints/shop/a", &backend.address.to_string()]);
    cluster.ok(0, &["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    until("the endpoint", || get(web, "any", "/").status == 200);
    let leader = |cluster: &Guarded| {
        let output = text(&cluster.asks(1, &cluster.operator, &["status"]).stdout);
        output.lines().find(|line| line.starts_with("Leader:")).unwrap_or_default().to_owned()
    };
    let (led, load) = (leader(&cluster), Load::start(web, "any", 4));
    assert!(led.contains("c0"), "{led}");
    let short = cluster.local(&["--role", "read", "--name", "ann", "--ttl", "30m"]);
    let set = |cluster: &Guarded, program: &str, hours: i64| cluster.clocks.as_ref().unwrap().set(program, hours * HOUR);
    let mut count = 0;
    for program in ["c0", "c1", "p1"] {
        for hours in [1, -1, 0] {
            set(&cluster, program, hours);
            let asked = text(&cluster.asks(0, &short, &["status"]).stderr);
            assert_eq!(asked.contains("its time is over"), (program, hours) == ("c0", 1), "{program} {hours}: {asked}");
            count += 1;
            let body = format!("page {count}");
            cluster.ok(0, &["put", "routes/page", &format!("{{\"hostnames\":[\"page\"],{}", &page(&body)[1..]), "--wait"]);
            assert_eq!(get(web, "page", "/").body, body, "{program} {hours}");
            assert_eq!(leader(&cluster), led, "{program} {hours}");
        }
    }
    let output = cluster.ok(0, &["events"]);
    assert!(output.lines().any(|line| line.contains("Refused") && line.contains("its time is over")), "{output}");
    // A pin lasts for its time even if the clock jumps meanwhile.
    cluster.ok(0, &["pin", "--for", "30m"]);
    set(&cluster, "c0", 1);
    std::thread::sleep(Duration::from_secs(1));
    assert!(text(&cluster.asks(0, &cluster.operator, &["status"]).stdout).contains("is pinned"));
    cluster.ok(0, &["unpin"]);
    // A program that joins while clocks differ follows either controller, and goes on when they are right again.
    let _second = cluster.proxy("p2", Some(&cluster.local(&["--join", "proxy", "--ttl", "2h"])));
    until("the second proxy", || text(&cluster.asks(1, &cluster.operator, &["status"]).stdout).contains("p2: connected"));
    set(&cluster, "c0", 0);
    // A follower whose clock is ahead does not end a pin, now or when it leads.
    set(&cluster, "c1", 1);
    let pinned = cluster.ok(0, &["pin", "--for", "30m"]);
    assert!(!pinned.contains("no other controller has said yet"), "{pinned}");
    cluster.running[0].take().unwrap().kill();
    until("the other one leads, and both follow it", || {
        let output = text(&cluster.asks(1, &cluster.operator, &["status"]).stdout);
        output.contains("Leader:   c1") && output.contains("p1: connected") && output.contains("p2: connected")
    });
    set(&cluster, "c1", 0);
    assert!(text(&cluster.asks(1, &cluster.operator, &["status"]).stdout).contains("is pinned"));
    cluster.ok(1, &["unpin"]);
    cluster.ok(1, &["put", "routes/page", &format!("{{\"hostnames\":[\"page\"],{}", &page("last")[1..]), "--wait"]);
    assert_eq!(get(web, "page", "/").body, "last");
    println!("{} requests, 0 failed", load.finish());
}

#[test]
fn a_clock_that_jumps_beyond_the_life_of_certificates_costs_no_request_and_is_got_over() {
    let mut cluster = Guarded::start(&["--cert-ttl", "30m"]);
    cluster.clocks = Some(Clocks::new(cluster.folder.path()));
    cluster.running[0].take().unwrap().kill();
    cluster.controller(0, &[], None);
    let _proxy = cluster.proxy("p1", Some(&cluster.local(&["--join", "proxy"])));
    let web = cluster.listener();
    cluster.ok(0, &["put", "routes/page", &page("page 0"), "--wait"]);
    let load = Load::start(web, "any", 4);
    let clocks = |cluster: &Guarded, program: &str, hours: i64| cluster.clocks.as_ref().unwrap().set(program, hours * HOUR);
    for (count, (program, hours)) in [("c0", 1), ("c0", -1), ("p1", 1), ("p1", -1)].into_iter().enumerate() {
        clocks(&cluster, program, hours);
        let body = format!("page {count}");
        cluster.ok(0, &["put", "routes/page", &page(&body), "--wait"]);
        assert_eq!(get(web, "any", "/").body, body, "{program} {hours}: who is connected stays so");
        clocks(&cluster, program, 0);
        let body = format!("page {count}, and the clock is right again");
        cluster.ok(0, &["put", "routes/page", &page(&body), "--wait"]);
        assert_eq!(get(web, "any", "/").body, body, "{program} {hours}");
    }
    // A program that connects anew is refused as long as the clock is wrong, and serves on.
    cluster.running[0].take().unwrap().kill();
    clocks(&cluster, "c0", 1);
    cluster.controller(0, &[], None);
    until("the refusal", || cluster.ok(0, &["events"]).lines().any(|line| line.contains("Refused") && line.contains("Expired")));
    clocks(&cluster, "c0", 0);
    cluster.ok(0, &["put", "routes/page", &page("at last"), "--wait"]);
    until("the last page", || get(web, "any", "/").body == "at last");
    println!("{} requests, 0 failed", load.finish());
}
