//! All packages: their files, which module each is, and which files need which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::{Parsed, PathAt, parse};

/// The packages, by the folder of their manifest.
pub(super) const PACKAGES: [&str; 15] = [
    "",
    "http1",
    "model",
    "settings",
    "disk",
    "trust",
    "wire",
    "proxy",
    "adapters/api",
    "adapters/testkit",
    "adapters/file",
    "adapters/etcd",
    "adapters/consul",
    "adapters/zookeeper",
    "benches",
];

/// The sources, as they are in a checkout or in a copy of one with something planted.
#[derive(Debug, Clone)]
pub(super) struct House {
    /// Files with their text and what was read of it, by their path in the checkout.
    files: BTreeMap<PathBuf, (String, Parsed)>,
    /// The manifests of the packages.
    manifests: BTreeMap<PathBuf, String>,
}

/// One file of a package.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// Its path in the checkout.
    pub(super) path: &'a Path,
    pub(super) parsed: &'a Parsed,
}

impl House {
    /// Reads a checkout.
    pub(super) fn read(root: &Path) -> Self {
        let mut house = Self { files: BTreeMap::new(), manifests: BTreeMap::new() };
        for package in PACKAGES {
            let manifest = Path::new(package).join("Cargo.toml");
            house.manifests.insert(manifest.clone(), std::fs::read_to_string(root.join(&manifest)).unwrap());
            house.read_folder(root, &Path::new(package).join("src"));
        }
        house
    }

    fn read_folder(&mut self, root: &Path, folder: &Path) {
        for item in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
            let path = folder.join(item.file_name());
            if item.path().is_dir() {
                self.read_folder(root, &path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                self.put(path, std::fs::read_to_string(item.path()).unwrap());
            }
        }
    }

    fn put(&mut self, path: PathBuf, text: String) {
        let parsed = parse(&path.display().to_string(), &text);
        self.files.insert(path, (text, parsed));
    }

    /// A copy in which a file is changed.
    pub(super) fn with(&self, path: &str, change: impl FnOnce(&str) -> String) -> Self {
        let mut copy = self.clone();
        let (text, _) = &copy.files[Path::new(path)];
        let changed = change(text);
        assert_ne!(*text, changed, "nothing was planted in {path}");
        copy.put(path.into(), changed);
        copy
    }

    pub(super) fn text(&self, path: &str) -> &str {
        &self.files[Path::new(path)].0
    }

    pub(super) fn manifest(&self, package: &str) -> &str {
        &self.manifests[&Path::new(package).join("Cargo.toml")]
    }

    /// The files below a folder, or the file of that name, that are part of a program: not tests.
    pub(super) fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = Source<'a>> {
        let live = self.live();
        self.files.iter().filter(move |(path, _)| path.starts_with(folder) && live.contains(path.as_path())).map(|(path, (_, parsed))| Source { path, parsed })
    }

    /// Files that a program is made of: those that are reached from the root of a package over `mod`, tests left out.
    fn live(&self) -> BTreeSet<&Path> {
        let mut live = BTreeSet::new();
        for package in PACKAGES {
            let source = Path::new(package).join("src");
            for (path, _) in self.files.iter().filter(|(path, _)| path.parent() == Some(&source) || path.starts_with(source.join("bin"))) {
                if ["lib", "main"].iter().any(|root| path.file_stem().is_some_and(|stem| stem == *root)) || path.starts_with(source.join("bin")) {
                    self.reach(path, &mut live);
                }
            }
        }
        live
    }

    fn reach<'a>(&'a self, path: &Path, live: &mut BTreeSet<&'a Path>) {
        let Some((path, (_, parsed))) = self.files.get_key_value(path) else { return };
        if !live.insert(path) {
            return;
        }
        let is_root = path.file_stem().is_some_and(|stem| stem == "lib" || stem == "main");
        let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
        for module in &parsed.modules {
            self.reach(&folder.join(format!("{module}.rs")), live);
        }
    }

    /// Files that no program and no test has.
    pub(super) fn dead(&self) -> Vec<&Path> {
        let live = self.live();
        let tests = |path: &Path| path.to_string_lossy().contains("tests") || path.to_string_lossy().contains("/sim") || path.ends_with("judge.rs");
        self.files.keys().map(PathBuf::as_path).filter(|path| !live.contains(path) && !tests(path)).collect()
    }

    /// The file that a path of a file's code leads to, if it is another one of the same package; for others, the name of their
    /// package. The rest of the path is what is named there.
    pub(super) fn target(&self, from: &Path, path: &PathAt) -> Option<PathBuf> {
        let source = PACKAGES.iter().map(|package| Path::new(package).join("src")).find(|source| from.starts_with(source))?;
        let own = module_of(&source, from);
        let (mut base, mut rest) = match path.segments.first()?.as_str() {
            "crate" => (Vec::new(), &path.segments[1..]),
            "self" => (own, &path.segments[1..]),
            "super" => (own, &path.segments[..]),
            _ if self.file_of(&source, &[&own[..], &path.segments[..1]].concat()).is_some() => (own, &path.segments[..]),
            _ => return None,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        let mut found = self.file_of(&source, &base);
        for segment in rest {
            base.push(segment.clone());
            match self.file_of(&source, &base) {
                Some(file) => found = Some(file),
                None => break,
            }
        }
        found.filter(|file| file != from)
    }

    fn file_of(&self, source: &Path, module: &[String]) -> Option<PathBuf> {
        let file = if module.is_empty() { source.join("lib.rs") } else { source.join(module.join("/")).with_extension("rs") };
        self.files.contains_key(&file).then_some(file)
    }

    /// Which files each file below a folder needs.
    pub(super) fn needs(&self, folder: &str) -> BTreeMap<PathBuf, BTreeMap<PathBuf, usize>> {
        let needs = |source: Source<'_>| {
            let mut all = BTreeMap::new();
            for path in &source.parsed.paths {
                if let Some(target) = self.target(source.path, path) {
                    all.entry(target).or_insert(path.line);
                }
            }
            (source.path.to_owned(), all)
        };
        self.below(folder).map(needs).collect()
    }
}

/// The module that a file is, below the root of its package.
fn module_of(source: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(source).unwrap().with_extension("");
    let names: Vec<String> = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names == ["lib"] || names == ["main"] { Vec::new() } else { names }
}
