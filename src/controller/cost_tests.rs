//! The cost of queries and reports for the task that publishes, at the maximum numbers of entries, proxies and failing endpoints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use waypost_adapter::{Entry, Event, Key, Revision};
use waypost_model::limits::Limits;
use waypost_model::snapshot::Version;
use waypost_wire::{Probed, Report};

use crate::controller::answers::{entries, status};
use crate::controller::message::{Input, Now};
use crate::controller::metrics::Metrics;
use crate::controller::rules::election::Role;
use crate::controller::rules::guard::Thresholds;
use crate::controller::state::State;

/// Maximum duration of one query or report in a build with optimisation: publications wait for it.
const MAX_DURATION: Duration = Duration::from_millis(50);
/// A debug build is at most this many times slower.
const DEBUG_FACTOR: u32 = if cfg!(debug_assertions) { 30 } else { 1 };

struct World {
    state: State,
    now: Duration,
    table: String,
}

impl World {
    /// A controller that leads, with these entries.
    fn new(entries: Vec<(String, String)>) -> Self {
        let limits = Limits { entries: 1_000_000, endpoints_per_backend: 1_000_000, ..Limits::default() };
        let mut this = Self {
            state: State::new(vec!["etcd://h:1/waypost".to_owned()], limits, Thresholds::default(), Some("c".to_owned())),
            now: Duration::from_secs(1),
            table: String::new(),
        };
        this.step(Input::Role(Role::Leading { epoch: 1, until: Duration::MAX }));
        this.step(Input::Recovered(1));
        let entry = |(key, value): (String, String)| Entry { key: Key::from(key), value: value.into_bytes().into(), revision: Revision(1), unreadable: None };
        let event = Event::Reset { entries: entries.into_iter().map(entry).collect(), at: Revision(1), drift: 0 };
        this.step(Input::Store { source: 0, event, generation: this.state.generation() });
        this
    }

    fn step(&mut self, input: Input) {
        self.now += Duration::from_millis(10);
        drop(self.state.step(input, Now { since_start: self.now, date: 0 }));
    }

    fn proxy(&mut self, name: &str) {
        self.step(Input::ProxyOpened { name: name.to_owned(), highest: Version::default(), cluster: None });
    }

    fn report(&mut self, name: &str, probed: Probed) {
        let applied = Some(self.state.snapshot.version);
        let report = Report { applied, probed: Some(probed), run_id: "r".to_owned(), ..Report::default() };
        self.step(Input::Reported { name: name.to_owned(), report: Box::new(report) });
    }

    /// Measures the median duration of nine runs of `work` and asserts that it is not above the maximum.
    fn measure(&mut self, what: &str, mut work: impl FnMut(&mut Self)) {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let begun = Instant::now();
                work(self);
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        writeln!(self.table, "{what}: {:.2?}", times[4]).unwrap();
        assert!(times[4] <= MAX_DURATION * DEBUG_FACTOR, "{}", self.table);
    }
}

#[test]
fn cost_of_questions_at_200_000_entries_and_500_proxies() {
    let entry = |number: usize| {
        let value = if number.is_multiple_of(4) { "refused".to_owned() } else { format!("10.{}.{}.1:80", number / 256 % 256, number % 256) };
        (format!("endpoints/b{}/e{number}", number % 100), value)
    };
    let mut world = World::new((0..200_000).map(entry).collect());
    for number in 0..500 {
        world.proxy(&format!("p{number}"));
        world.report(&format!("p{number}"), Probed::default());
    }
    assert_eq!(world.state.compiler.rejected().len(), 50_000);
    let now = |world: &World| Now { since_start: world.now, date: 0 };
    let metrics = Metrics::default();
    world.measure("/metrics", |world| drop(metrics.render(&status::counts(&world.state, &[], now(world)))));
    world.measure("status", |world| drop(status::status(&world.state, &[], None, now(world))));
    world.measure("128 entries with their verdicts", |world| {
        let views: Vec<_> = world.state.compiler.views_after("", None).take(128).collect();
        views.iter().for_each(|view| drop(entries::entry(&world.state, &[], view, now(world))));
    });
    world.measure("one entry", |world| drop(entries::answer(&world.state, &[], "endpoints/b1/e1", now(world))));
    world.measure("a report", |world| world.report("p7", Probed::default()));
    println!("{}", world.table);
}

#[test]
fn cost_of_reports_while_30_000_endpoints_fail() {
    const FAILING: usize = 30_000;
    let name = |number: usize| format!("shop/e{number:05}");
    let mut entries = vec![("backends/shop".to_owned(), r#"{"healthCheck":{"type":"TCP"}}"#.to_owned())];
    entries.extend((0..FAILING + 1_000).map(|number| (format!("endpoints/{}", name(number)), format!("10.{}.{}.1:80", number / 256, number % 256))));
    let mut world = World::new(entries);
    let probers = ["p0", "p1", "p2"];
    probers.iter().for_each(|prober| world.proxy(prober));
    probers.iter().for_each(|prober| world.report(prober, Probed { version: world.state.snapshot.version, ..Probed::default() }));
    for prober in probers {
        let failing = (0..FAILING).map(|number| (name(number), "connection refused".to_owned())).collect();
        world.report(prober, Probed { version: world.state.snapshot.version, failing, number: 1, ..Probed::default() });
    }
    assert_eq!(world.state.health.count_out(), FAILING);
    let mut number = 1;
    world.measure("one more endpoint fails, in the words of three probers", |world| {
        let fails = name(FAILING + usize::try_from(number).unwrap());
        for prober in probers {
            let failing = BTreeMap::from([(fails.clone(), "connection refused".to_owned())]);
            world.report(prober, Probed { version: world.state.snapshot.version, failing, number: number + 1, since: Some(number), ..Probed::default() });
        }
        number += 1;
    });
    assert_eq!(world.state.health.count_out(), FAILING + 9, "each of them was heard");
    world.measure("/metrics", |world| {
        drop(Metrics::default().render(&status::counts(&world.state, &[], Now { since_start: world.now, date: 0 })));
    });
    world.measure("status", |world| drop(status::status(&world.state, &[], None, Now { since_start: world.now, date: 0 })));
    println!("{}", world.table);
}
