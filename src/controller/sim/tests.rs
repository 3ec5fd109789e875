//! Written entries always win over held removals: random writes, deletions, restarts and changes of leader over two stores, judged by a proxy's own
//! table.

use std::collections::BTreeMap;
use std::time::Duration;

use waypost_adapter::{Change, Entry, Event, Key, Revision};
use waypost_model::compile::EntryId;
use waypost_model::limits::Limits;
use waypost_model::resource::Work;
use waypost_model::snapshot::Snapshot;
use waypost_model::verdict::{ConditionType, Status};
use waypost_proxy::table::{Builder, Fields, Request, Table};

use crate::controller::message::{Input, Now};
use crate::controller::rules::election::Role;
use crate::controller::rules::guard::Thresholds;
use crate::controller::state::State;
use crate::controller::stored::replica::Replica;

const STORES: usize = 2;
const ROUTES: u64 = 5;
const BACKENDS: u64 = 3;
const STEPS: usize = 24;
/// Hostnames of a route, and a host that only such a route can take.
const HOSTS: [(&str, &str); 4] = [("[]", "z.org"), (r#"["a.test"]"#, "a.test"), (r#"["*.test"]"#, "c.test"), (r#"["b.test"]"#, "b.test")];
const PATHS: [&str; 2] = ["/", "/x"];

struct World {
    random: fastrand::Rng,
    now: Duration,
    epoch: u64,
    revision: u64,
    stores: [BTreeMap<String, String>; STORES],
    leader: State,
    follower: State,
    builder: Builder,
    log: Vec<String>,
}

fn names() -> Vec<String> {
    (0..STORES).map(|number| format!("store{number}")).collect()
}

fn controller() -> State {
    let mut state = State::new(names(), Limits::default(), Thresholds::default(), Some("c".to_owned()));
    state.sources.iter_mut().for_each(|source| source.counts_up = true);
    state
}

fn builder() -> Builder {
    Builder::new("p".to_owned(), BTreeMap::new(), None, None)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            now: Duration::from_secs(1),
            epoch: 0,
            revision: 1,
            stores: Default::default(),
            leader: controller(),
            follower: controller(),
            builder: builder(),
            log: Vec::new(),
        };
        world.stores[0].insert("listeners/web".to_owned(), r#"{"address":"127.0.0.1:80"}"#.to_owned());
        world.elect();
        world
    }

    fn step(&mut self, input: Input) {
        let now = Now { since_start: self.now, date: 0 };
        if let Some(epoch) = self.leader.step(input, now).saw {
            panic!("nobody else publishes, and epoch {epoch} was seen");
        }
    }

    /// The leader has a new epoch, and reads the stores.
    fn elect(&mut self) {
        self.epoch += 1;
        self.step(Input::Role(Role::Leading { epoch: self.epoch, until: Duration::MAX }));
        self.step(Input::Recovered(self.epoch));
        for source in 0..STORES {
            self.step(Input::Store { source, event: self.listing(source), generation: self.leader.generation() });
        }
    }

    fn listing(&self, source: usize) -> Event {
        let entries = self.stores[source].iter().map(|(key, value)| Entry::new(key.as_bytes().to_vec(), value.as_bytes().to_vec(), self.revision)).collect();
        Event::Reset { entries, at: Revision(self.revision), drift: 0 }
    }

    /// Sends the follower the snapshot and the leader's replica.
    fn replicate(&mut self) {
        let now = Now { since_start: self.now, date: 0 };
        let (removals, expected) = self.leader.removals_for_followers();
        let at = names().into_iter().map(|name| (name, self.revision)).collect();
        self.follower.step(Input::Relayed(self.leader.snapshot.clone()), now);
        self.follower.step(Input::Replica(Box::new(Replica { at, removals, expected, entries: Vec::new() })), now);
    }

    fn change_leader(&mut self) {
        self.log.push("change of leader".to_owned());
        self.replicate();
        std::mem::swap(&mut self.leader, &mut self.follower);
        let now = Now { since_start: self.now, date: 0 };
        self.follower.step(Input::Role(Role::Following { leader: None }), now);
        self.elect();
    }

    fn restart(&mut self) {
        self.log.push("restart".to_owned());
        let now = Now { since_start: self.now, date: 0 };
        let mut again = controller();
        again.guard.restore(self.leader.removals_for_followers().0, self.now);
        again.restore_published(self.leader.snapshot.as_ref().clone(), now);
        for source in 0..STORES {
            again.restore(source, self.leader.compiler.save(source), now);
            again.restore_revision(source, self.leader.known_revision(source));
        }
        self.leader = again;
        self.elect();
    }

    fn write(&mut self, key: String, value: Option<String>) {
        let source = if self.random.u8(0..4) == 0 { 1 } else { 0 };
        self.revision += 1;
        self.log.push(format!("store{source} {key} {value:?}"));
        let change = match value {
            Some(value) => {
                self.stores[source].insert(key.clone(), value.clone());
                Change::Put(Entry::new(key.into_bytes(), value.into_bytes(), self.revision))
            }
            None if self.stores[source].remove(&key).is_some() => Change::Delete(Key::from(key)),
            None => return,
        };
        let event = Event::Changes { changes: vec![change], at: Revision(self.revision) };
        self.step(Input::Store { source, event: event.clone(), generation: self.leader.generation() });
        let (now, generation) = (Now { since_start: self.now, date: 0 }, self.follower.generation());
        self.follower.step(Input::Store { source, event, generation }, now);
    }

    fn wipe(&mut self) {
        let source = self.random.usize(0..STORES);
        self.log.push(format!("store{source} loses everything"));
        self.stores[source].clear();
        self.revision += 1;
        let event = self.listing(source);
        self.step(Input::Store { source, event: event.clone(), generation: self.leader.generation() });
        let (now, generation) = (Now { since_start: self.now, date: 0 }, self.follower.generation());
        self.follower.step(Input::Store { source, event, generation }, now);
    }

    fn act(&mut self) {
        match self.random.u8(0..20) {
            0 => self.restart(),
            1 => self.change_leader(),
            2 => self.wipe(),
            3..=7 => {
                let key = self.route_key();
                self.write(key, None);
            }
            8..=12 => {
                let (hosts, path) = (HOSTS[self.random.usize(0..HOSTS.len())].0, PATHS[self.random.usize(0..PATHS.len())]);
                let backend = self.random.u64(0..BACKENDS);
                let value =
                    format!(r#"{{"hostnames":{hosts},"rules":[{{"matches":[{{"path":{{"value":"{path}"}}}}],"backendRefs":[{{"name":"b{backend}"}}]}}]}}"#);
                let key = self.route_key();
                self.write(key, Some(value));
            }
            13..=15 => {
                let key = self.endpoint_key();
                self.write(key, None);
            }
            _ => {
                let (key, address) = (self.endpoint_key(), self.random.u8(1..5));
                self.write(key, Some(format!("10.0.0.{address}:80")));
            }
        }
    }

    fn route_key(&mut self) -> String {
        format!("routes/r{}", self.random.u64(0..ROUTES))
    }

    fn endpoint_key(&mut self) -> String {
        format!("endpoints/b{}/{}", self.random.u64(0..BACKENDS), self.random.u8(0..2))
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.leader.due() <= until {
            self.now = self.now.max(self.leader.due());
            self.step(Input::Tick);
        }
        self.now = until;
        for source in 0..STORES {
            self.step(Input::Store { source, event: Event::Idle { at: Revision(self.revision) }, generation: self.leader.generation() });
        }
        self.replicate();
    }

    /// Returns how often something was held when it was looked at.
    fn run(mut self) -> usize {
        let mut held = 0;
        for _ in 0..STEPS {
            self.act();
            // A written entry reaches the next window before the table is checked.
            let pauses = [200, 200, 300, 700, 11_000, 61_000];
            let pause = pauses[self.random.usize(0..pauses.len())];
            self.pass(Duration::from_millis(pause));
            self.check();
            held += usize::from(self.leader.guard.removals().next().is_some());
        }
        held
    }

    fn check(&mut self) {
        let table = self.builder.build(&self.leader.snapshot.clone());
        let compiler = &self.leader.compiler;
        let stored = Snapshot { config: compiler.config().clone(), membership: compiler.membership().clone(), ..Snapshot::default() };
        let written = builder().build(&stored);
        for (_, host) in HOSTS {
            for path in PATHS {
                if let Some(wanted) = route_of(&written, host, path) {
                    assert_eq!(route_of(&table, host, path), Some(wanted), "{host}{path}\n{}", self.log.join("\n"));
                }
            }
        }
        for (name, backend) in &table.backends {
            for endpoint in &backend.endpoints {
                let own = written
                    .backends
                    .get(name)
                    .is_some_and(|backend| backend.endpoints.iter().any(|own| own.id == endpoint.id && own.address == endpoint.address));
                let elsewhere = written.backends.values().flat_map(|backend| &backend.endpoints).any(|other| other.address == endpoint.address);
                assert!(own || !elsewhere, "{name}/{} at {} is written elsewhere\n{}", endpoint.id, endpoint.address, self.log.join("\n"));
            }
        }
        self.check_live(&table);
    }

    /// Every entry that is reported as live is served.
    fn check_live(&self, table: &Table) {
        for (source, store) in self.stores.iter().enumerate() {
            for (key, value) in store {
                let id = EntryId { source, key: key.clone() };
                let Some(view) = self.leader.compiler.view(&id) else { panic!("{key} has no verdict") };
                let refused = crate::controller::answers::entries::conditions(&self.leader, &view)
                    .iter()
                    .any(|condition| condition.status == Status::False && matches!(condition.r#type, ConditionType::Accepted | ConditionType::Programmed));
                let published = self.leader.tracks.get(&id).is_some_and(|track| track.version.is_some()) && view.in_snapshot;
                if refused || !published {
                    continue;
                }
                let context = || format!("{key} of store{source} is told to be live\n{}", self.log.join("\n"));
                match key.split('/').collect::<Vec<_>>().as_slice() {
                    ["routes", name] => {
                        let (_, host) = HOSTS.iter().find(|(hosts, _)| value.contains(&format!(r#""hostnames":{hosts}"#))).unwrap();
                        let path = if value.contains(r#""/x""#) { "/x" } else { "/" };
                        assert_eq!(route_of(table, host, path).as_deref(), Some(*name), "{}", context());
                    }
                    ["endpoints", backend, id] => {
                        let all = &table.backends[*backend].endpoints;
                        assert!(all.iter().any(|endpoint| *endpoint.id == **id && *endpoint.address == **value && !endpoint.suspect), "{}", context());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The route that takes a request.
fn route_of(table: &Table, host: &str, path: &str) -> Option<String> {
    let work = Work::new(waypost_model::limits::MAX_LOOKUP_STEPS);
    let request = Request { listener: "web", explicit_only: false, host, path, query: None, method: "GET", fields: Fields::new(&[], &[]), work: &work };
    table.find(&request).map(|found| found.rule.route.to_string())
}

/// The first seed, and how many there are: `count` unless the environment says otherwise.
pub(super) fn seeds(count: u64) -> (u64, u64) {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(or);
    (number("WAYPOST_FIRST_SEED", 0), number("WAYPOST_SEEDS", count))
}

#[test]
fn written_entries_always_win_over_held_removals() {
    let (first, count) = seeds(200);
    let held: usize = (first..first + count).map(|seed| World::new(seed).run()).sum();
    println!("{count} seeds: {held} looks at something that was held");
    assert!(held as u64 > count, "too little was held to tell anything: {held}");
}
