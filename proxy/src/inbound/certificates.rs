//! The certificates of HTTPS listeners. The proxy reads them from files, and again when the files change. An unusable certificate never replaces a
//! usable one.

mod load;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::sign::CertifiedKey;
use waypost_model::resource::CertificateFiles;
use waypost_wire::ObjectProblem;

use load::{Loaded, Problem, Stamp, load, stamp};

/// The certificates that can be used now.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    loaded: RwLock<ByName>,
}

/// Certificates by their names, and by the names that they are for.
#[derive(Debug, Default)]
struct ByName {
    certificates: HashMap<Arc<str>, Arc<Loaded>>,
    /// The certificates that are for a host, or for `*.` and a domain.
    hosts: HashMap<String, BTreeSet<Arc<str>>>,
}

impl Certificates {
    /// The certificate for a client that asks for `host`: of those in `order` which fit, the first that is for this name, else the first with
    /// a wildcard for it, else the first.
    pub(crate) fn choose(&self, host: Option<&str>, order: &HashMap<Arc<str>, usize>, is_fit: &dyn Fn(&CertifiedKey) -> bool) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let first = |names: &mut dyn Iterator<Item = &Arc<str>>| {
            let placed = names.filter_map(|name| Some((*order.get(name)?, loaded.certificates.get(name)?)));
            placed.filter(|(_, found)| is_fit(&found.key)).min_by_key(|(at, _)| *at).map(|(_, found)| found.key.clone())
        };
        let named = |host: &str| first(&mut loaded.hosts.get(host).into_iter().flatten());
        let host = host.map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        let exact = host.as_deref().and_then(named);
        let wild = || host.as_deref().and_then(|host| host.split_once('.')).and_then(|(_, domain)| named(&format!("*.{domain}")));
        exact.or_else(wild).or_else(|| first(&mut order.keys()))
    }

    fn put(&self, name: &Arc<str>, certificate: Option<Arc<Loaded>>) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let ByName { certificates, hosts } = &mut *loaded;
        let before = match &certificate {
            Some(certificate) => certificates.insert(name.clone(), certificate.clone()),
            None => certificates.remove(name),
        };
        for host in before.iter().flat_map(|before| &before.hosts) {
            if let Some(names) = hosts.get_mut(host) {
                names.remove(name);
                if names.is_empty() {
                    hosts.remove(host);
                }
            }
        }
        for host in certificate.iter().flat_map(|certificate| &certificate.hosts) {
            hosts.entry(host.clone()).or_default().insert(name.clone());
        }
    }
}

/// The files of one certificate, and the result of reading them.
#[derive(Debug)]
struct Watched {
    files: CertificateFiles,
    /// The files as they were when they were read last.
    stamp: Option<[Stamp; 2]>,
    /// What they were when they could be used last.
    loaded: Option<Arc<Loaded>>,
    problem: Option<Problem>,
    /// A problem that is reported if the files have not changed by the next check: a writer may replace them one after the other.
    suspected: Option<Problem>,
}

/// Keeps [`Certificates`] as the files are.
#[derive(Debug)]
pub(crate) struct Watcher {
    certificates: Arc<Certificates>,
    watched: BTreeMap<Arc<str>, Watched>,
    checked_at: Instant,
}

/// Interval of the checks of all files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Watcher {
    /// One that keeps these, and watches no files yet.
    pub(crate) fn new(certificates: Arc<Certificates>) -> Self {
        Self { certificates, watched: BTreeMap::new(), checked_at: Instant::now() }
    }

    /// Watches these certificates from now on. New ones are read at once.
    pub(crate) fn watch(&mut self, wanted: &BTreeMap<Arc<str>, CertificateFiles>) {
        let certificates = self.certificates.clone();
        self.watched.retain(|name, watched| {
            let stays = wanted.get(name).is_some_and(|files| *files == watched.files);
            if !wanted.contains_key(name) {
                certificates.put(name, None);
            }
            stays
        });
        for (name, files) in wanted {
            if !self.watched.contains_key(name) {
                let mut watched = Watched { files: files.clone(), stamp: None, loaded: None, problem: None, suspected: None };
                watched.look(&certificates, name);
                // Nobody waits for the second look of a certificate that was not there before.
                watched.problem = watched.problem.take().or(watched.suspected.take());
                self.watched.insert(name.clone(), watched);
            }
        }
    }

    /// Checks all files if the last check was an interval ago.
    pub(crate) fn look_if_due(&mut self) {
        if self.checked_at.elapsed() >= CHECK_INTERVAL {
            self.checked_at = Instant::now();
            self.look();
        }
    }

    /// Checks all files, and reads those that have changed.
    fn look(&mut self) {
        for (name, watched) in &mut self.watched {
            watched.look(&self.certificates, name);
        }
    }

    /// The certificates that cannot be used as they are.
    pub(crate) fn problems(&self, now: SystemTime) -> Vec<ObjectProblem> {
        let problem = |(name, watched): (&Arc<str>, &Watched)| {
            let Problem { reason, message } = watched.problem_at(now)?;
            Some(ObjectProblem { kind: "certificate".to_owned(), name: name.to_string(), reason: reason.to_owned(), message })
        };
        self.watched.iter().filter_map(problem).collect()
    }

    /// When each certificate that is used ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&str, i64)> {
        self.watched.iter().filter_map(|(name, watched)| Some((&**name, watched.loaded.as_ref()?.ends)))
    }
}

impl Watched {
    fn look(&mut self, certificates: &Certificates, name: &Arc<str>) {
        let stamp = [stamp(self.files.cert.as_str()), stamp(self.files.key.as_str())];
        if self.stamp == Some(stamp) {
            self.problem = self.suspected.take().or(self.problem.take());
            return;
        }
        self.stamp = Some(stamp);
        match load(&self.files) {
            // One that has ended does not take the place of one that has not.
            Ok(loaded) if loaded.has_ended(SystemTime::now()) && self.loaded.as_ref().is_some_and(|before| !before.has_ended(SystemTime::now())) => {
                self.suspected = loaded.problem_at(SystemTime::now(), &self.files);
            }
            Ok(loaded) => {
                tracing::info!(certificate = &**name, names = ?loaded.hosts, "a certificate is used");
                let loaded = Arc::new(loaded);
                certificates.put(name, Some(loaded.clone()));
                (self.loaded, self.problem, self.suspected) = (Some(loaded), None, None);
            }
            Err(problem) => self.suspected = Some(problem),
        }
    }

    fn problem_at(&self, now: SystemTime) -> Option<Problem> {
        let of_files = self.problem.clone().map(|problem| match &self.loaded {
            Some(_) => Problem { message: format!("{}; the one that was read before stays in use", problem.message), ..problem },
            None => problem,
        });
        of_files.or_else(|| self.loaded.as_ref()?.problem_at(now, &self.files))
    }
}

#[cfg(test)]
mod tests;
