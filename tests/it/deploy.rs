//! Deploys, as people do them: every endpoint is replaced under load.

use std::time::{Duration, Instant};

use crate::harness::{Backend, Box1, Load, get, text, until};

#[test]
fn a_rolling_deploy_that_replaces_every_endpoint_holds_nothing_and_fails_nothing() {
    const OLD: usize = 10;
    const NEW: usize = 4;
    let run = Box1::on_files();
    let web = run.listener();
    let old: Vec<Backend> = (0..OLD).map(|_| Backend::named("old")).collect();
    for (number, backend) in old.iter().enumerate() {
        run.write(&format!("endpoints/shop/old-{number}"), &backend.address.to_string());
    }
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    run.ok(&["wait", "endpoints/shop/old-9"]);
    until("an endpoint", || get(web, "any", "/").status == 200);
    let load = Load::start(web, "any", 8);
    let begun = Instant::now();
    let mut new = Vec::new();
    for (number, backend) in old.into_iter().enumerate() {
        // Fewer new ones than old ones: at the end more than half of the backend went within a minute.
        if number < NEW {
            let next = Backend::named("new");
            run.write(&format!("endpoints/shop/new-{number}"), &next.address.to_string());
            run.ok(&["wait", &format!("endpoints/shop/new-{number}")]);
            new.push(next);
        }
        run.ok(&["drain", &format!("endpoints/shop/old-{number}")]);
        let at_rest = backend.count();
        std::fs::remove_file(run.dir().join(format!("endpoints/shop/old-{number}"))).unwrap();
        until("the key to be gone", || run.verb(&["describe", &format!("endpoints/shop/old-{number}")]).status.code() == Some(1));
        assert_eq!(backend.count(), at_rest, "a drained endpoint got a request");
        let output = text(&run.verb(&["status"]).stdout);
        assert!(!output.contains("Held:") && !output.contains("Judged:"), "{output}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(get(web, "any", "/").body, "new");
    assert!(run.verb(&["status"]).status.success());
    println!("{OLD} endpoints replaced by {NEW} in {took:?}: {} requests, 0 failed", load.finish());
}
