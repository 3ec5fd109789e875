//! Traefik with one of its key-value providers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use waypost_testkit::Process;

use crate::product::loopback;

/// Traefik, watching a store.
#[derive(Debug)]
pub(crate) struct Traefik {
    /// The address that it serves.
    pub(crate) web: SocketAddr,
    _process: Process,
}

impl Traefik {
    /// Starts it with the store at `endpoint`; its keys are below `traefik/`.
    pub(crate) fn start(folder: &Path, store: &str, endpoint: &str) -> Self {
        let web = loopback();
        let program = std::env::var("TRAEFIK").unwrap_or_else(|_| "traefik".to_owned());
        let mut command = Command::new(&program);
        command.arg(format!("--entrypoints.web.address={web}")).arg(format!("--providers.{store}.endpoints={endpoint}"));
        command.args(["--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"]);
        let mut process = Process::start(&mut command, &folder.join("traefik.log"));
        waypost_testkit::process::wait_for_port(web, &mut process);
        Self { web, _process: process }
    }
}
