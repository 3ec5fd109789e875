//! Forged, old or foreign messages of a controller or a store are refused, reported, and change nothing that serves.

use std::net::{SocketAddr, TcpStream};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::WATCH_PATH;

use crate::harness::{Box1, get, info, page, start_proxy, until};

/// A server between a proxy and its controller: it forwards requests, and answers the watch itself once it has a snapshot for that.
struct Between {
    address: SocketAddr,
    forged: watch::Sender<Option<Bytes>>,
    _runtime: Runtime,
}

impl Between {
    fn start(api: SocketAddr) -> Self {
        // Another test of this process may have done so.
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap_or_default();
        let runtime = Runtime::new().unwrap();
        let (forged, answers) = watch::channel(None);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(pass).with_state((api, reqwest::Client::new(), answers));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, forged, _runtime: runtime }
    }

    /// Answers every watch with this snapshot from now on; with the controller's answer for `None`.
    fn answer(&self, snapshot: Option<&Snapshot>) {
        self.forged.send_replace(snapshot.map(|snapshot| waypost_wire::whole(snapshot).unwrap().into()));
    }
}

async fn pass(State((api, client, mut answers)): State<(SocketAddr, reqwest::Client, watch::Receiver<Option<Bytes>>)>, request: Request) -> Response {
    let watches = request.uri().path() == WATCH_PATH;
    let (forged, url) = (answers.borrow_and_update().clone(), format!("http://{api}{}", request.uri().path()));
    if let Some(lines) = forged.filter(|_| watches) {
        return lines.into_response();
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let answer = client.request(parts.method, url).header("content-type", "application/json").body(body).send().await;
    let Ok(answer) = answer else { return axum::http::StatusCode::BAD_GATEWAY.into_response() };
    let status = answer.status();
    // A watch that is passed on ends when the next one is to be answered otherwise.
    let chunks = futures_util::stream::unfold((answer, answers), move |(mut answer, mut answers)| async move {
        let chunk = tokio::select! {
            chunk = answer.chunk() => chunk.transpose()?,
            _ = answers.changed(), if watches => return None,
        };
        Some((chunk, (answer, answers)))
    });
    (status, Body::from_stream(chunks)).into_response()
}

#[test]
fn forged_messages_of_a_controller_are_refused_and_reported_and_change_nothing() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    let between = Between::start(run.api);
    let proxy = start_proxy(between.address, &run.folder.path().join("p2"), "p2", "127.0.0.2");
    let address = SocketAddr::from(([127, 0, 0, 2], web.port()));
    until("service through the second proxy", || TcpStream::connect(address).is_ok() && get(address, "page", "/").body == "one");
    let controller = info(run.api);
    let (cluster, version) = (controller["cluster"].as_str().unwrap().to_owned(), controller["version"].as_str().unwrap().to_owned());
    let version: Version = serde_json::from_value(version.into()).unwrap();
    let forged = |cluster: &str, version: Version| {
        let object = Object::read(&format!(r#"{{"kind":"route","name":"page","spec":{}}}"#, page("forged"))).unwrap();
        let config = Lane::default().with([Change::Put(object)]);
        Snapshot { cluster: cluster.to_owned(), version, config, membership: Lane::default() }
    };
    let old = Version { epoch: version.epoch - 1, sequence: version.sequence + 100 };
    let next = Version { epoch: version.epoch + 1, ..version };
    let cases = [
        (forged(&cluster, version), format!("version {version} came a second time")),
        (forged(&cluster, old), format!("version {old} is below {version}")),
        (forged("another", next), "the controller belongs to cluster another".to_owned()),
    ];
    for (snapshot, reason) in cases {
        between.answer(Some(&snapshot));
        until("the refusal", || proxy.output().contains(&reason));
        assert_eq!(get(address, "page", "/").body, "one");
        // It says so to the next controller that it can follow.
        between.answer(None);
        until("the event", || {
            let events = run.ok(&["events"]);
            events.lines().any(|line| line.contains("ProxyRefused") && line.contains("p2") && line.contains(&reason))
        });
        assert_eq!(get(address, "page", "/").body, "one");
    }
    run.ok(&["put", "routes/page", &page("two"), "--wait"]);
    assert_eq!(get(address, "page", "/").body, "two", "it follows again");
    until("everything to be current", || run.verb(&["status"]).status.success());
}

#[test]
fn a_store_of_another_cluster_is_reported_and_changes_nothing() {
    let mut run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    let other = Box1::on_files();
    other.listener();
    other.ok(&["put", "routes/page", &page("other"), "--wait"]);
    let ours = info(run.api)["cluster"].as_str().unwrap().to_owned();
    let theirs = info(other.api)["cluster"].as_str().unwrap().to_owned();
    run.process.terminate();
    for part in ["waypost", "waypost-status"] {
        let place = run.folder.path().join(part);
        std::fs::rename(&place, place.with_extension("away")).unwrap();
        std::fs::rename(other.folder.path().join(part), place).unwrap();
    }
    run.restart();
    until("the event", || {
        let events = run.ok(&["events"]);
        events.lines().any(|line| line.contains("ForeignStore") && line.contains(&ours) && line.contains(&theirs))
    });
    assert_eq!(get(web, "page", "/").body, "one");
}
