use std::path::Path;

use super::*;

/// A self-signed certificate for these hosts, and its key. It expires in `days` days; a negative number means that it has expired.
fn pair(hosts: &[&str], days: i64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(100);
    params.not_after = now + time::Duration::days(days);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn files(folder: &Path, name: &str) -> CertificateFiles {
    let path = |end: &str| folder.join(format!("{name}.{end}")).to_str().unwrap().to_owned().try_into().unwrap();
    CertificateFiles { cert: path("crt"), key: path("key") }
}

fn write(files: &CertificateFiles, (cert, key): &(String, String)) {
    std::fs::write(files.cert.as_str(), cert).unwrap();
    std::fs::write(files.key.as_str(), key).unwrap();
}

fn watcher(wanted: &[(&str, &CertificateFiles)]) -> Watcher {
    let mut watcher = Watcher::new(Arc::default());
    watcher.watch(&wanted.iter().map(|(name, files)| ((*name).into(), (*files).clone())).collect());
    watcher
}

fn reasons(watcher: &Watcher) -> Vec<String> {
    watcher.problems(SystemTime::now()).into_iter().map(|problem| format!("{}: {}", problem.reason, problem.message)).collect()
}

#[test]
fn a_client_gets_the_certificate_for_its_name_then_a_wildcard_then_the_first_of_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<(&str, &[&str])> =
        vec![("first", &["first.test"]), ("exact", &["a.shop.test", "Shop.Test"]), ("wild", &["*.shop.test"]), ("other", &["b.shop.test"])];
    let all: Vec<(&str, CertificateFiles)> = all
        .into_iter()
        .map(|(name, hosts)| {
            let files = files(folder.path(), name);
            write(&files, &pair(hosts, 10));
            (name, files)
        })
        .collect();
    let watcher = watcher(&all.iter().map(|(name, files)| (*name, files)).collect::<Vec<_>>());
    assert_eq!(reasons(&watcher), Vec::<String>::new());
    let order: HashMap<Arc<str>, usize> = ["first", "exact", "wild"].iter().enumerate().map(|(at, name)| ((*name).into(), at)).collect();
    let name_of = |key: &Arc<CertifiedKey>| all.iter().find(|(_, files)| load(files).unwrap().key.cert == key.cert).unwrap().0;
    for (host, wanted) in [
        (Some("a.shop.test"), "exact"),
        (Some("A.SHOP.test."), "exact"),
        (Some("shop.test"), "exact"),
        // The listener does not name `other`.
        (Some("b.shop.test"), "wild"),
        // A wildcard stands for one label (RFC 9525, 6.3).
        (Some("x.y.shop.test"), "first"),
        (Some("nobody.test"), "first"),
        (None, "first"),
    ] {
        let chosen = watcher.certificates.choose(host, &order, &|_| true).unwrap();
        assert_eq!(name_of(&chosen), wanted, "{host:?}");
    }
    assert!(watcher.certificates.choose(None, &order, &|_| false).is_none());
    assert!(watcher.certificates.choose(None, &HashMap::new(), &|_| true).is_none());
}

#[test]
fn what_cannot_be_used_is_told_with_its_remedy_and_the_one_before_stays() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), "shop");
    let mut watcher = watcher(&[("shop", &files)]);
    let order = HashMap::from([(Arc::from("shop"), 0)]);
    assert!(reasons(&watcher)[0].contains("shop.crt cannot be read: No such file"), "{:?}", reasons(&watcher));
    let good = pair(&["shop.test"], 10);
    write(&files, &good);
    watcher.look();
    assert_eq!(reasons(&watcher), Vec::<String>::new());
    let used = watcher.certificates.choose(None, &order, &|_| true).unwrap();
    let other = pair(&["shop.test"], 10);
    let expired = pair(&["shop.test"], -1);
    for (cert, key, wanted) in [
        (good.0.as_str(), other.1.as_str(), "KeyMismatch: the key in"),
        ("", &good.1, "Invalid:"),
        (&good.0, "nonsense", "has no private key in PEM"),
        (&good.0, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "is encrypted"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &good.1, "cannot be read"),
        (&expired.0, &expired.1, "Expired: the certificate in"),
    ] {
        write(&files, &good);
        watcher.look();
        write(&files, &(cert.to_owned(), key.to_owned()));
        watcher.look();
        assert_eq!(reasons(&watcher), Vec::<String>::new(), "files are written one after the other: {wanted}");
        watcher.look();
        let message = reasons(&watcher).concat();
        assert!(message.contains(wanted) && message.ends_with("the one that was read before stays in use"), "{wanted}: {message}");
        assert_eq!(used.cert, watcher.certificates.choose(None, &order, &|_| true).unwrap().cert, "{wanted}");
    }
    write(&files, &other);
    watcher.look();
    assert_eq!(reasons(&watcher), Vec::<String>::new());
    assert_ne!(used.cert, watcher.certificates.choose(None, &order, &|_| true).unwrap().cert);
    let later = SystemTime::now() + Duration::from_secs(11 * 24 * 3_600);
    assert_eq!(watcher.problems(later)[0].reason, "Expired");
    watcher.watch(&BTreeMap::new());
    assert!(watcher.certificates.choose(None, &order, &|_| true).is_none());
}

#[test]
fn a_link_that_is_swapped_is_noticed_and_no_pipe_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        write(&files(&folder.path().join(version), "tls"), &pair(&[&format!("v{version}.test")], 10));
    }
    let link = folder.path().join("now");
    std::os::unix::fs::symlink("1", &link).unwrap();
    let mut watcher = watcher(&[("shop", &files(&link, "tls"))]);
    let hosts = |watcher: &Watcher| watcher.watched["shop"].loaded.as_ref().unwrap().hosts.clone();
    assert_eq!(hosts(&watcher), ["v1.test"]);
    std::os::unix::fs::symlink("2", folder.path().join("new")).unwrap();
    std::fs::rename(folder.path().join("new"), &link).unwrap();
    watcher.look();
    assert_eq!(hosts(&watcher), ["v2.test"]);
    let pipe = folder.path().join("pipe.crt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let watcher = self::watcher(&[("pipe", &files(folder.path(), "pipe"))]);
    assert!(reasons(&watcher)[0].contains("is not a regular file"), "{:?}", reasons(&watcher));
    let big = files(folder.path(), "big");
    write(&big, &("x".repeat(2 << 20), String::new()));
    assert!(reasons(&self::watcher(&[("big", &big)]))[0].contains("more than 1048576 bytes"));
}
