//! `waypost init [DIR]`: an example to begin with.

use std::path::{Path, PathBuf};

use clap::Args;

use super::outcome::{Failure, Outcome};
use super::text::say;

#[derive(Debug, Args)]
pub(super) struct InitFlags {
    /// The directory to make
    #[arg(default_value = "waypost")]
    dir: PathBuf,
    /// Also an HTTPS listener, with a certificate to try: for localhost, signed by itself, in DIR-tls
    #[arg(long)]
    tls: bool,
}

/// The files of the example.
const EXAMPLE_FILES: [(&str, &str); 5] = [
    ("listeners/web.yaml", "# Where the proxies listen.\naddress: 127.0.0.1:8080\nprotocol: HTTP\n"),
    (
        "routes/hello.yaml",
        "# Every host, every path. A hostname and path would be:\n#   hostnames: [shop.example.com]\n#   rules: [{ matches: [{ path: { type: PathPrefix, value: /api } }], backendRefs: [{ name: hello }] }]\nrules:\n  - backendRefs:\n      - name: hello\n",
    ),
    ("backends/hello.yaml", "# Optional; the defaults are good.\nbalancing: LeastRequest\n"),
    ("endpoints/hello/a", "127.0.0.1:9001\n"),
    ("endpoints/hello/b", "127.0.0.1:9002\n"),
];

/// The hosts of the certificate to try.
const TRIAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(super) fn run(flags: &InitFlags) -> Outcome {
    let path = std::path::absolute(&flags.dir).unwrap_or_else(|_| flags.dir.clone());
    let tls = flags.tls.then(|| beside(&path));
    if let Some(folder) = tls.as_deref().filter(|folder| is_filled(folder)) {
        return Err(Failure::failed(format!("{} is not empty; name another directory", folder.display())));
    }
    write(&flags.dir, &[])?;
    if let Some(folder) = &tls {
        write_tls(&path, folder)?;
    }
    say!("{} is made. Now:", path.display());
    say!("  waypost echo --listen 127.0.0.1:9001 --name a &");
    say!("  waypost echo --listen 127.0.0.1:9002 --name b &");
    say!("  waypost run --store file://{} --state {}.state", path.display(), path.display());
    say!("  curl http://127.0.0.1:8080/");
    if let Some(folder) = tls {
        say!("  curl --cacert {} https://localhost:8443/", folder.join("hello.crt").display());
    }
    Ok(())
}

/// The directory for the certificate: not in that of the store, where every file is a key.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push("-tls");
    dir.with_file_name(name)
}

/// Makes a certificate in `folder`, and the keys of a listener that shows it.
fn write_tls(dir: &Path, folder: &Path) -> Outcome {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (cert, key) = waypost_trust::trial_certificate(&TRIAL_HOSTS, now).map_err(Failure::failed)?;
    let (cert_file, key_file) = (folder.join("hello.crt"), folder.join("hello.key"));
    waypost_trust::write_secret(&key_file, key.as_bytes()).map_err(Failure::failed)?;
    waypost_trust::write_secret(&cert_file, cert.as_bytes()).map_err(Failure::failed)?;
    let certificate =
        format!("# The proxy reads these files itself, and again when they change.\nfiles:\n  cert: {}\n  key: {}\n", cert_file.display(), key_file.display());
    let listener = "# The same routes over TLS.\naddress: 127.0.0.1:8443\nprotocol: HTTPS\ntls:\n  certificates: [hello]\n";
    for (name, content) in [("certificates/hello.yaml", certificate.as_str()), ("listeners/secure.yaml", listener)] {
        write_file(&dir.join(name), content)?;
    }
    Ok(())
}

fn is_filled(dir: &Path) -> bool {
    dir.read_dir().is_ok_and(|mut items| items.next().is_some())
}

fn write_file(path: &Path, content: &str) -> Outcome {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, content));
    made.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// Writes the example; `ports` maps ports of the example to those to write instead. Existing files are never overwritten.
pub(super) fn write(dir: &Path, ports: &[(u16, u16)]) -> Outcome {
    if is_filled(dir) {
        return Err(Failure::failed(format!("{} is not empty; name another directory", dir.display())));
    }
    for (name, content) in EXAMPLE_FILES {
        let content = ports.iter().fold(content.to_owned(), |text, (from, to)| text.replace(&format!(":{from}"), &format!(":{to}")));
        write_file(&dir.join(name), &content)?;
    }
    Ok(())
}
