//! Access: programs join with tokens and prove their names with certificates, people show tokens. Forged, expired or foreign ones are refused,
//! reported, and change nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use waypost_testkit::Process;
use waypost_trust::{Authority, Files, Identity, KeyPair, Keyring, Material};
use waypost_wire::KeyRing;

use crate::clocks::Clocks;
use crate::harness::{Backend, Load, get, loopback, text, until, waypost, waypost_proxy};

/// A cluster whose controllers use TLS.
pub(crate) struct Guarded {
    pub(crate) folder: tempfile::TempDir,
    apis: [SocketAddr; 2],
    pub(crate) running: [Option<Process>; 2],
    extra: Vec<String>,
    pub(crate) operator: String,
    /// Clocks of their own, for the programs that start from now on.
    pub(crate) clocks: Option<Clocks>,
}

impl Guarded {
    /// One controller, the first.
    pub(crate) fn start(extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        let extra = extra.iter().map(|&flag| flag.to_owned()).collect();
        let mut cluster = Self { folder, apis: [loopback(), loopback()], running: [None, None], extra, operator: String::new(), clocks: None };
        cluster.controller(0, &[], None);
        until("the secret on disk", || cluster.path("c0/trust/secret").exists());
        cluster.operator = cluster.local(&["--role", "operate", "--name", "root"]);
        cluster
    }

    /// One more controller.
    pub(crate) fn controller(&mut self, number: usize, flags: &[&str], join: Option<&str>) {
        let api = self.apis[number];
        let state = self.path(&format!("c{number}"));
        let mut command = Command::new(waypost());
        command.args(["controller", "--store", &format!("file://{}/waypost", self.folder.path().display()), "--state", &state.display().to_string()]);
        command.args(["--api", &api.to_string(), "--name", &format!("c{number}"), "--leader-ttl", "3s", "--tls"]).args(&self.extra).args(flags);
        command.envs(join.map(|token| ("WAYPOST_JOIN", token)));
        if let Some(clocks) = &self.clocks {
            clocks.give(&format!("c{number}"), &mut command);
        }
        let mut process = Process::start(&mut command, &state.with_extension("log"));
        waypost_testkit::process::wait_for_port(api, &mut process);
        self.running[number] = Some(process);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self, number: usize) -> String {
        format!("https://{}", self.apis[number])
    }

    /// A token that is made on the first controller's machine.
    pub(crate) fn local(&self, flags: &[&str]) -> String {
        let state = self.path("c0").display().to_string();
        let output = Command::new(waypost()).args(["token", "--state", &state]).args(flags).output().unwrap();
        assert!(output.status.success(), "{flags:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    pub(crate) fn asks(&self, number: usize, token: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(waypost());
        command.args(arguments).env("WAYPOST_CONTROLLER", self.url(number)).env("WAYPOST_TOKEN", token).env("USER", "nobody").output().unwrap()
    }

    pub(crate) fn ok(&self, number: usize, arguments: &[&str]) -> String {
        let output = self.asks(number, &self.operator, arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The reason for which a verb is refused.
    fn refused(&self, token: &str, arguments: &[&str]) -> String {
        let output = self.asks(0, token, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stderr)
    }

    pub(crate) fn proxy(&self, name: &str, token: Option<&str>) -> Process {
        let mut command = Command::new(waypost_proxy());
        for api in &self.apis {
            command.args(["--controller", &format!("https://{api}")]);
        }
        let state = self.path(name);
        // Each has an address of its own, so that all bind the same listeners.
        let bind = format!("127.0.0.{}", name.chars().last().and_then(|last| last.to_digit(10)).unwrap_or(1).max(1));
        command.args(["--state", &state.display().to_string(), "--admin", &loopback().to_string(), "--name", name, "--drain-delay", "0s"]);
        command.args(["--bind", &bind]);
        command.envs(token.map(|token| ("WAYPOST_JOIN", token)));
        if let Some(clocks) = &self.clocks {
            clocks.give(name, &mut command);
        }
        Process::start(&mut command, &state.with_extension("log"))
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name).with_extension("log")).unwrap_or_default()
    }

    /// The shared keys that a program holds.
    fn ring(&self, name: &str) -> KeyRing {
        let file = std::fs::read(self.path(name).join("trust/ring.json")).unwrap_or_default();
        serde_json::from_slice(&file).unwrap_or_default()
    }

    /// The authority, as it is on the first controller's disk.
    fn authority(&self) -> Authority {
        Authority::load(&self.path("c0/trust")).unwrap().unwrap()
    }

    pub(crate) fn listener(&self) -> SocketAddr {
        let web = loopback();
        self.ok(0, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
        web
    }

    /// The published version and its content, in short.
    fn version(&self) -> String {
        self.ok(0, &["status"]).lines().find(|line| line.starts_with("Serving:")).unwrap().to_owned()
    }
}

pub(crate) fn page(body: &str) -> String {
    format!(r#"{{"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{body}"}}}}]}}]}}"#)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A proxy's certificate by `issuer` that was made at `made` and is good for a minute; it believes `trusted`.
fn p1_of(issuer: &Authority, trusted: &Authority, made: Duration) -> Keyring {
    let key = KeyPair::generate().unwrap();
    let issued = issuer.issue(&Identity::Proxy("p1".to_owned()), &key.public(), &[], made, Duration::from_secs(60)).unwrap();
    Keyring::new(Material::read(issued.chain.as_bytes(), key.private_pem().as_bytes(), trusted.cert().as_bytes()).unwrap())
}

/// Posts JSON over TLS with this certificate; the status and the answer, or why the connection failed.
fn post(url: &str, path: &str, keyring: &Keyring, body: &str) -> Result<(u16, String), String> {
    let tls = keyring.client().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
        let sent = client.post(format!("{url}{path}")).header("content-type", "application/json").body(body.to_owned()).send().await;
        let mut response = sent.map_err(|error| waypost_trust::cause(&error))?;
        let status = response.status().as_u16();
        // A stream that was opened does not end.
        let piece = response.chunk().await.map_err(|error| waypost_trust::cause(&error))?.unwrap_or_default();
        Ok((status, text(&piece)))
    })
}

#[test]
fn programs_join_and_their_certificates_rotate_under_load_without_a_restart() {
    let mut cluster = Guarded::start(&["--cert-ttl", "6s"]);
    let printed = cluster.log("c0");
    let first = printed.split("WAYPOST_JOIN=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let _proxy = cluster.proxy("p1", Some(&first));
    let joining = cluster.ok(0, &["token", "--join", "controller"]);
    let peer = cluster.url(0);
    cluster.controller(1, &["--peer", &peer], Some(joining.trim()));
    let (web, backend) = (cluster.listener(), Backend::named("a"));
    cluster.ok(1, &["put", "endpoints/shop/a", &backend.address.to_string()]);
    cluster.ok(1, &["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    until("the endpoint", || get(web, "any", "/").status == 200);
    let load = Load::start(web, "any", 4);
    let renewals = |name: &str| cluster.log(name).matches("certificate was renewed").count();
    assert!(!cluster.path("p1/trust/joining-key.pem").exists() && !cluster.path("c1/trust/joining-key.pem").exists());
    until("three certificates of each program", || ["p1", "c0", "c1"].iter().all(|name| renewals(name) >= 2));
    // The token was made by one controller and shown to the other: they share the secret. The leader records who asked.
    let ann = cluster.ok(1, &["token", "--role", "operate", "--name", "ann"]);
    let frozen = cluster.asks(1, ann.trim(), &["freeze", "--by", "mallory"]);
    assert!(frozen.status.success() && text(&frozen.stdout).contains("by ann"), "{}{}", text(&frozen.stdout), text(&frozen.stderr));
    cluster.ok(1, &["unfreeze"]);
    let record = || std::fs::read_to_string(cluster.path("c1/operator.json")).unwrap_or_default();
    until("the audit on the other's disk", || record().contains("the config goes on"));
    let audit = cluster.ok(1, &["history", "--audit"]);
    assert!(audit.contains("made a token for ann with the role operate") && !audit.contains("mallory"), "{audit}");
    // A program that lost its controller finds the other one, with its renewed certificate.
    cluster.running[0].take().unwrap().kill();
    until("the follower leads and the proxy is there", || {
        let output = text(&cluster.asks(1, &cluster.operator, &["status"]).stdout);
        output.contains("Leader:   c1") && output.contains("p1: connected")
    });
    cluster.ok(1, &["put", "routes/page", &format!("{{\"hostnames\":[\"page\"],{}", &page("later")[1..]), "--wait"]);
    assert_eq!(get(web, "page", "/").body, "later");
    println!("{} requests, 0 failed; {} certificates of the proxy", load.finish(), cluster.log("p1").matches("certificate was renewed").count() + 1);
    nothing_secret_is_told(&cluster, &[first, joining.trim().to_owned(), ann.trim().to_owned()]);
}

/// Neither logs nor answers for people contain keys, tokens or the secret, except the first token, which is printed once.
fn nothing_secret_is_told(cluster: &Guarded, tokens: &[String]) {
    let authority = serde_json::to_value(Authority::load(&cluster.path("c1/trust")).unwrap().unwrap()).unwrap();
    let line = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
    let mut secrets = vec![line(authority["key"].as_str().unwrap()), authority["secret"].as_str().unwrap().to_owned(), "PRIVATE".to_owned()];
    secrets.extend(tokens.iter().skip(1).cloned());
    secrets.extend(cluster.ring("c1").keys.into_iter().map(|key| key.key));
    let mut outputs: Vec<(String, String)> = ["p1", "c0", "c1"].map(|name| (name.to_owned(), cluster.log(name))).into();
    for verb in ["status", "events", "history", "proxies", "get"] {
        outputs.push((verb.to_owned(), cluster.ok(1, &[verb, "-o", "json"])));
    }
    cluster.ok(1, &["export", "--to", &cluster.path("exported").display().to_string()]);
    outputs.push(("the export".to_owned(), read_all(&cluster.path("exported"))));
    outputs.push(("the audit".to_owned(), cluster.ok(1, &["history", "--audit"])));
    for folder in ["c1/history", "waypost", "waypost-status"] {
        outputs.push((folder.to_owned(), read_all(&cluster.path(folder))));
    }
    assert!(read_all(&cluster.path("c1/history")).contains("endpoints/shop/a"), "what is compressed is read");
    for file in ["operator.json", "published.json.gz", "entries.json.gz"] {
        outputs.push((file.to_owned(), unpacked(std::fs::read(cluster.path("c1").join(file)).unwrap())));
    }
    for (place, text) in outputs {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} tells {secret}");
        }
        let first = usize::from(place == "c0");
        assert_eq!(text.matches(tokens[0].as_str()).count(), first, "{place}");
    }
}

/// A file as it is, and what is compressed in it.
fn unpacked(bytes: Vec<u8>) -> String {
    let mut inner = Vec::new();
    if let Some(start) = bytes.windows(2).position(|pair| pair == [0x1f, 0x8b]) {
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[start..]), &mut inner).unwrap();
    }
    text(&bytes) + &text(&inner)
}

fn read_all(folder: &Path) -> String {
    let Ok(items) = std::fs::read_dir(folder) else { return String::new() };
    let read = |item: std::io::Result<std::fs::DirEntry>| {
        let path = item.unwrap().path();
        if path.is_dir() { read_all(&path) } else { unpacked(std::fs::read(path).unwrap()) }
    };
    items.map(read).collect()
}

#[test]
fn forged_expired_and_foreign_credentials_are_refused_and_reported_and_change_nothing() {
    let mut cluster = Guarded::start(&[]);
    let web = cluster.listener();
    let mut proxy = cluster.proxy("p1", Some(&cluster.local(&["--join", "proxy"])));
    cluster.ok(0, &["put", "routes/page", &page("good"), "--wait"]);
    let (before, url, authority) = (cluster.version(), cluster.url(0), cluster.authority());

    // Tokens of operators.
    let read = cluster.local(&["--role", "read", "--name", "ann"]);
    let write = cluster.local(&["--role", "write", "--name", "bob"]);
    assert!(cluster.asks(0, &read, &["status"]).status.success());
    assert!(cluster.refused(&read, &["approve", "--all"]).contains("ann's token has the role read, and this needs write"));
    assert!(cluster.refused(&write, &["approve", "--all"]).contains("nothing is held"));
    for verb in [["freeze"].as_slice(), &["unpin"], &["controller", "step-down"], &["token", "--join", "proxy"]] {
        assert!(cluster.refused(&write, verb).contains("bob's token has the role write, and this needs operate"));
    }
    let forged = format!("{}.{}", write.rsplit_once('.').unwrap().0, read.rsplit_once('.').unwrap().1);
    assert!(cluster.refused(&forged, &["approve", "--all"]).contains("no controller of this cluster made it"));
    let short = cluster.local(&["--role", "read", "--name", "eve", "--ttl", "1s"]);
    until("the token's end", || text(&cluster.asks(0, &short, &["status"]).stderr).contains("its time is over"));
    assert_eq!(cluster.asks(0, "", &["status"]).status.code(), Some(2), "nothing says whom to believe");

    // Each bad token of a program is refused, and the program's log says why.
    let over = cluster.local(&["--join", "proxy", "--ttl", "1s"]);
    let end = waypost_trust::Claims::peek(&over).unwrap().until();
    until("the end of the proxy's token", || now().as_secs() > end);
    let bound = cluster.local(&["--join", "proxy", "--name", "p7"]);
    let other = Authority::create(now()).unwrap();
    for (name, token, printed) in [
        ("p2", forged_join(&other, &authority), "no controller of this cluster made it"),
        ("p3", over, "its time is over"),
        ("p4", bound, "the token lets in proxy p7 only, and p4 is who asks"),
        ("p5", cluster.local(&["--join", "controller"]), "the token lets a controller join"),
        ("p6", read.clone(), "is an operator's"),
    ] {
        let mut process = cluster.proxy(name, Some(&token));
        until(&format!("the refusal of {name}"), || cluster.log(name).contains(printed));
        assert!(!cluster.path(name).join("trust/own.json").exists());
        process.kill();
    }
    // A name that is taken, with a token for any name.
    let request = format!(r#"{{"token":"{}","name":"p1","publicKey":""}}"#, cluster.local(&["--join", "proxy"]));
    let p1 = p1_of(&authority, &authority, now());
    let (status, why) = post(&url, "/v1/join", &p1, &request).unwrap();
    assert!(status == 409 && why.contains("there is a proxy p1 already"), "{status} {why}");
    // An answer that was lost is given again to the same key, and to no other.
    let ask = |key: &KeyPair| {
        let key = String::from(key.public());
        post(&url, "/v1/join", &p1, &format!(r#"{{"token":"{}","name":"p7","publicKey":"{key}"}}"#, cluster.local(&["--join", "proxy"]))).unwrap()
    };
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    assert_eq!([ask(&mine).0, ask(&mine).0, ask(&theirs).0, ask(&mine).0], [200, 200, 409, 200]);

    // A controller that names other controllers does not create a second authority.
    let second = cluster.path("second").display().to_string();
    let store = format!("file://{}/waypost", cluster.folder.path().display());
    let output = Command::new(waypost())
        .args(["controller", "--store", &store, "--state", &second, "--api", &loopback().to_string(), "--tls", "--peer", &url])
        .output()
        .unwrap();
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("start it once with WAYPOST_JOIN=TOKEN"), "{}", text(&output.stderr));
    assert!(!cluster.path("second/trust").exists());
    // And one that has made one already does not pass over a token that lets it in elsewhere.
    let made = cluster.path("made").display().to_string();
    Authority::create(now()).unwrap().save(&cluster.path("made/trust")).unwrap();
    let output = Command::new(waypost())
        .args(["controller", "--store", &store, "--state", &made, "--api", &loopback().to_string(), "--tls", "--peer", &url])
        .env("WAYPOST_JOIN", cluster.local(&["--join", "controller"]))
        .output()
        .unwrap();
    let printed = text(&output.stderr);
    assert!(output.status.code() == Some(1) && printed.contains("made/trust holds the authority of one cluster"), "{printed}");

    // Certificates: another authority's, one that is over, and one of another name or kind.
    let watch = r#"{"name":"p1"}"#;
    assert_eq!(post(&url, "/v1/watch", &p1, watch).unwrap().0, 200);
    // Which of them hears what first is a race; the event below says why.
    for certificate in [p1_of(&other, &authority, now()), p1_of(&authority, &authority, now() - Duration::from_secs(3_600))] {
        assert!(post(&url, "/v1/watch", &certificate, watch).is_err());
    }
    for (path, body, printed) in [
        ("/v1/watch", r#"{"name":"p2"}"#, "that of proxy p1, which may not speak as proxy p2"),
        ("/v1/watch", r#"{"name":"","controller":"c0"}"#, "that of proxy p1, which may not speak as controller c0"),
        ("/v1/proxies/p2/report", r#"{}"#, "that of proxy p1, which may not speak as proxy p2"),
        ("/v1/replica", r#"{"empty":true,"configs":{}}"#, "only controllers may ask for this"),
        ("/v1/relay", r#"{"controller":"c0","proxies":[]}"#, "only controllers may ask for this"),
        ("/v1/hold", r#"{"action":"freeze","by":"p1"}"#, "this needs a token with the role operate"),
    ] {
        let (status, why) = post(&url, path, &p1, body).unwrap();
        assert!((status == 403 || status == 401) && why.contains(printed), "{path}: {status} {why}");
    }
    let printed = cluster.ok(0, &["events"]);
    for reason in [
        "no controller of this cluster made it",
        "its time is over",
        "the token lets in proxy p7 only",
        "there is a proxy p1 already",
        "invalid peer certificate: UnknownIssuer",
        "invalid peer certificate: Expired",
        "which may not speak as proxy p2",
        "only controllers may ask for this",
    ] {
        assert!(printed.lines().any(|line| line.contains("Refused") && line.contains(reason)), "no event says {reason:?}:\n{printed}");
    }
    // And nothing has changed.
    assert_eq!(cluster.version(), before);
    assert_eq!(get(web, "any", "/").body, "good");
    assert!(cluster.ok(0, &["proxies"]).lines().count() == 2, "one proxy below the head");
    // A name that was admitted once stays taken, even if no program has it at the moment and the controller was restarted.
    proxy.kill();
    cluster.running[0].take().unwrap().kill();
    cluster.controller(0, &[], None);
    let join = || post(&url, "/v1/join", &p1, &request).is_ok_and(|(status, why)| status == 409 && why.contains("there is a proxy p1 already"));
    until("the refusal after a restart", join);
}

/// A token that another authority made, which names ours.
fn forged_join(other: &Authority, ours: &Authority) -> String {
    let claims = waypost_trust::Claims::Join { joining: waypost_trust::Joining::Proxy, name: None, until: now().as_secs() + 60, authority: ours.fingerprint() };
    claims.sign(&other.secret())
}

#[test]
fn certificates_from_files_are_taken_anew_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let files = |name: &str| Files {
        cert: folder.path().join(format!("{name}.crt")),
        key: folder.path().join(format!("{name}.key")),
        ca: folder.path().join("ca.crt"),
    };
    let write = |name: &str, identity: &Identity, authority: &Authority| {
        let (key, files) = (KeyPair::generate().unwrap(), files(name));
        let issued = authority.issue(identity, &key.public(), &["127.0.0.1".to_owned()], now(), Duration::from_secs(3_600)).unwrap();
        std::fs::write(files.cert, issued.chain).unwrap();
        std::fs::write(files.key, key.private_pem()).unwrap();
    };
    let (controller, proxy) = (Identity::Controller("c0".to_owned()), Identity::Proxy("p1".to_owned()));
    std::fs::write(folder.path().join("ca.crt"), format!("{}{}", old.cert(), new.cert())).unwrap();
    write("c0", &controller, &old);
    write("p1", &proxy, &old);
    let flags = |name: &str| {
        let files = files(name);
        [("--tls-cert", files.cert), ("--tls-key", files.key), ("--tls-ca", files.ca)]
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
    };
    let own: Vec<String> = flags("c0").collect();
    let mut cluster = Guarded::start(&own.iter().map(String::as_str).collect::<Vec<_>>());
    let pem = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.cert()).unwrap();
        path.display().to_string()
    };
    let (by_old, by_new) = (pem("old.pem", &old), pem("new.pem", &new));
    let status = |cluster: &Guarded, ca: &str| cluster.asks(0, &cluster.operator, &["status", "--ca", ca]);
    until("the first publication", || status(&cluster, &by_old).status.success());
    let refused = text(&status(&cluster, &by_new).stderr);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let mut command = Command::new(waypost_proxy());
    command.args(["--controller", &cluster.url(0), "--state", &cluster.path("p1").display().to_string(), "--admin", &loopback().to_string(), "--name", "p1"]);
    let _proxy = Process::start(command.args(flags("p1")), &cluster.path("p1.log"));
    let web = loopback();
    let put = |cluster: &Guarded, ca: &str, key: &str, value: &str| {
        let output = cluster.asks(0, &cluster.operator, &["put", key, value, "--wait", "--ca", ca]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    put(&cluster, &by_old, "listeners/web", &format!("{{\"address\":\"{web}\"}}"));
    put(&cluster, &by_old, "routes/page", &page("one"));
    assert_eq!(get(web, "any", "/").body, "one");
    // No program can join here, and the answer says so.
    let joining = cluster.asks(0, &cluster.operator, &["token", "--join", "proxy", "--ca", &by_old]);
    assert!(text(&joining.stderr).contains("come from files"), "{}", text(&joining.stderr));
    write("c0", &controller, &new);
    write("p1", &proxy, &new);
    until("the new certificate", || status(&cluster, &by_new).status.success());
    // What is open stays open; what is opened anew shows the new one.
    put(&cluster, &by_new, "routes/page", &page("two"));
    assert_eq!(get(web, "any", "/").body, "two");
    // The proxy too: a controller that believes the new authority only lets it in.
    until("the proxy's new certificate", || cluster.log("p1").contains("the certificate was read anew"));
    std::fs::write(folder.path().join("ca.crt"), new.cert()).unwrap();
    cluster.running[0].take().unwrap().kill();
    cluster.controller(0, &[], None);
    put(&cluster, &by_new, "routes/page", &page("three"));
    until("the page of the new controller", || get(web, "any", "/").body == "three");
}

#[test]
fn a_shared_key_seals_only_when_every_live_proxy_has_it_and_outlives_its_leader() {
    let mut cluster = Guarded::start(&["--key-rotation", "10s"]);
    let joining = cluster.ok(0, &["token", "--join", "controller"]);
    let peer = cluster.url(0);
    cluster.controller(1, &["--peer", &peer], Some(joining.trim()));
    let proxies = ["p1", "p2"].map(|name| cluster.proxy(name, Some(&cluster.local(&["--join", "proxy"]))));
    let active = |name: &str| cluster.ring(name).active().map(|key| key.id);
    let all = ["c0", "c1", "p1", "p2"];
    let same = || all.iter().all(|name| cluster.ring(name) == cluster.ring("c0"));
    until("a key that seals, on every program", || active("c0") == Some(1) && same());
    let first = cluster.ring("p1");
    use std::os::unix::fs::PermissionsExt as _;
    for name in all {
        let mode = std::fs::metadata(cluster.path(name).join("trust/ring.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may read the keys of {name}");
    }
    // One proxy does not hear of the next key: nobody seals with it.
    let due = first.active().unwrap().since + 7;
    until("the next key to be near", || now().as_secs() >= due);
    proxies[1].freeze();
    until("a second key on those who hear of it", || ["c0", "c1", "p1"].iter().all(|name| cluster.ring(name).keys.len() == 2));
    let waiting = std::time::Instant::now();
    while waiting.elapsed() < Duration::from_secs(4) {
        assert_eq!(active("c0"), Some(1), "a key seals that p2 has not got");
        std::thread::sleep(Duration::from_millis(100));
    }
    proxies[1].thaw();
    until("the second key to seal", || active("c0") == Some(2) && same());
    assert_eq!(cluster.ring("p2").keys[0].key, first.keys[0].key, "what was sealed with the first key opens");
    assert!(cluster.ok(0, &["events"]).contains("key 2 seals from now on, and all live proxies have it"));
    // No program follows the keys under another program's name, or with a token.
    let p1 = p1_of(&cluster.authority(), &cluster.authority(), now());
    let (status, why) = post(&cluster.url(0), "/v1/secrets", &p1, r#"{"name":"p2"}"#).unwrap();
    assert!(status == 403 && why.contains("may not speak as proxy p2"), "{status} {why}");
    // Another leader goes on with the same ring, under its epoch.
    let before = cluster.ring("c1");
    cluster.running[0].take().unwrap().kill();
    let left = ["c1", "p1", "p2"];
    let moved = |name: &str| cluster.ring(name).version.epoch > before.version.epoch && cluster.ring(name).id == before.id;
    until("the next key, by the other leader", || left.iter().all(|name| moved(name) && cluster.ring(name).active().is_some_and(|key| key.id == 3)));
    let keys = |ring: &KeyRing| ring.keys.iter().map(|key| (key.id, key.key.clone())).collect::<Vec<_>>();
    let after = cluster.ring("p1");
    assert!(keys(&before).iter().filter(|(id, _)| *id > 1).all(|key| keys(&after).contains(key)), "what was sealed before opens");
    // A leader whose file is torn takes over the keys that the other controller has.
    cluster.controller(0, &[], None);
    until("the keys on the follower", || cluster.ring("c0").version >= after.version);
    // That one answers late: until then the leader makes no new keys.
    cluster.running[1].take().unwrap().kill();
    std::fs::write(cluster.path("c1/trust/ring.json"), b"torn").unwrap();
    cluster.running[0].as_ref().unwrap().freeze();
    cluster.controller(1, &[], None);
    let led = |epoch: u64| format!("Leader:   c1 at {}, epoch {epoch}", cluster.url(1));
    until("the controller without keys to lead", || {
        let status = text(&cluster.asks(1, &cluster.operator, &["status"]).stdout);
        (1..=3).any(|more| status.contains(&led(after.version.epoch + more)))
    });
    let leading = std::time::Instant::now();
    while leading.elapsed() < Duration::from_secs(4) {
        assert!(cluster.ring("c1").keys.is_empty(), "new keys although another controller has not answered");
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.running[0].as_ref().unwrap().thaw();
    until("keys again", || !cluster.ring("c1").keys.is_empty());
    assert!(["c0", "c1", "p1"].iter().all(|name| cluster.ring(name).id == before.id), "no proxy gets keys that open nothing");
    until("that to be told", || cluster.ok(1, &["events"]).lines().any(|line| line.contains("StateDamaged") && line.contains("ring.json")));
}
