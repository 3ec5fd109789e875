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

pub(super) fn run(flags: &InitFlags) -> Outcome {
    write(&flags.dir, &[])?;
    let path = std::path::absolute(&flags.dir).unwrap_or_else(|_| flags.dir.clone());
    say!("{} is made. Now:", path.display());
    say!("  waypost echo --listen 127.0.0.1:9001 --name a &");
    say!("  waypost echo --listen 127.0.0.1:9002 --name b &");
    say!("  waypost run --store file://{} --state {}.state", path.display(), path.display());
    say!("  curl http://127.0.0.1:8080/");
    Ok(())
}

/// Writes the example; `ports` maps ports of the example to those to write instead. Existing files are never overwritten.
pub(super) fn write(dir: &Path, ports: &[(u16, u16)]) -> Outcome {
    if dir.read_dir().is_ok_and(|mut items| items.next().is_some()) {
        return Err(Failure::failed(format!("{} is not empty; name another directory", dir.display())));
    }
    for (name, content) in EXAMPLE_FILES {
        let path = dir.join(name);
        let content = ports.iter().fold(content.to_owned(), |text, (from, to)| text.replace(&format!(":{from}"), &format!(":{to}")));
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, content));
        made.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}
