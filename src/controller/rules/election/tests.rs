//! Scripts of one controller, and simulations of several controllers over a store that loses, delays and repeats writes.

use std::collections::BTreeMap;

use super::*;

const TTL: Duration = Duration::from_secs(6);

fn me(name: &str, run: &str) -> Candidate {
    Candidate { cluster: "c".to_owned(), holder: Holder { name: name.to_owned(), run: run.to_owned() }, previous_run: None, url: format!("http://{name}") }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A store with one key.
#[derive(Default)]
struct Store {
    revision: u64,
    record: Option<Record>,
}

impl Store {
    fn answer(&mut self, ask: &StoreRequest) -> ElectionInput {
        match ask {
            StoreRequest::Read => {
                ElectionInput::Read(Ok(self.record.clone().map(|record| StoredRecord { revision: Revision(self.revision), record: Some(record) })))
            }
            StoreRequest::Write { record, expected } => {
                let found = self.record.as_ref().map_or(Expected::Absent, |_| Expected::At(Revision(self.revision)));
                if found != *expected {
                    return ElectionInput::Wrote(Ok(PutIf::Conflict));
                }
                self.revision += 1;
                self.record = Some(record.clone());
                ElectionInput::Wrote(Ok(PutIf::Written(Revision(self.revision))))
            }
        }
    }

    /// Asks and answers everything that is due, at once.
    fn serve(&mut self, election: &mut Election, now: Duration) {
        while let Some(ask) = election.poll(now) {
            let input = self.answer(&ask);
            election.handle(input, now);
        }
    }
}

fn leads(election: &Election, now: Duration) -> Option<u64> {
    match election.role(now) {
        Role::Leading { epoch, .. } => Some(epoch),
        _ => None,
    }
}

#[test]
fn the_first_controller_leads_at_once_and_renews() {
    let (mut store, mut a) = (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 7));
    store.serve(&mut a, secs(0.0));
    assert_eq!(a.role(secs(0.0)), Role::Leading { epoch: 8, until: secs(4.0) });
    assert_eq!(a.due(secs(0.0)), secs(2.0));
    store.serve(&mut a, secs(2.0));
    assert_eq!(a.role(secs(2.0)), Role::Leading { epoch: 8, until: secs(6.0) });
    assert_eq!(store.record.unwrap().renewal, 2);
}

#[test]
fn a_dead_leader_is_followed_after_one_ttl_and_its_next_run_does_not_wait() {
    let (mut store, mut a, mut b) = (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 0), Election::new(me("b", "2"), TTL, secs(0.1), 0));
    store.serve(&mut a, secs(0.0));
    let mut now = secs(0.0);
    store.serve(&mut b, now);
    while leads(&b, now).is_none() {
        now = b.due(now);
        assert!(now < secs(7.0), "no leader by {now:?}");
        store.serve(&mut b, now);
    }
    assert!(now >= secs(6.1), "{now:?}");
    assert_eq!(leads(&b, now), Some(2));
    assert!(matches!(a.role(now), Role::Caretaking { epoch: 1, .. }), "it has not heard");
    a.handle(ElectionInput::Saw { epoch: 2, living: true }, now);
    assert!(matches!(a.role(now), Role::Following { .. }));
    // The next run of b knows the previous one, and does not follow that dead run.
    let mut again = Election::new(Candidate { previous_run: Some("2".to_owned()), ..me("b", "3") }, TTL, Duration::ZERO, 2);
    let ask = again.poll(now).unwrap();
    again.handle(store.answer(&ask), now);
    assert_eq!(again.role(now), Role::Following { leader: None });
    store.serve(&mut again, now);
    assert_eq!(leads(&again, now), Some(3));
}

#[test]
fn a_wiped_store_is_waited_for_only_where_there_are_other_controllers() {
    for (others, waits) in [(false, false), (true, true)] {
        let (mut store, mut first) = (Store::default(), Election::new(me("b", "1"), TTL, Duration::ZERO, 0));
        store.serve(&mut first, secs(0.0));
        let mut again = Election::new(Candidate { previous_run: Some("1".to_owned()), ..me("b", "2") }, TTL, Duration::ZERO, 1);
        again.handle(ElectionInput::Others(others), secs(1.0));
        store.serve(&mut again, secs(1.0));
        assert_eq!(leads(&again, secs(1.0)), Some(2), "the run before is dead");
        store = Store::default();
        store.serve(&mut again, secs(3.0));
        assert_eq!(leads(&again, secs(3.0)), Some(3).filter(|_| !waits), "another one may lead: {others}");
    }
}

#[test]
fn a_leader_that_steps_down_is_followed_at_once_and_rests() {
    let (mut store, mut a, mut b) =
        (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 0), Election::new(me("b", "2"), TTL, Duration::ZERO, 0));
    store.serve(&mut a, secs(0.0));
    store.serve(&mut b, secs(0.1));
    let release = a.release().unwrap();
    assert_eq!(store.answer(&release), ElectionInput::Wrote(Ok(PutIf::Written(Revision(2)))));
    a.handle(ElectionInput::StepDown, secs(1.0));
    store.serve(&mut a, secs(2.0));
    assert_eq!(leads(&a, secs(2.0)), None, "it rests");
    store.serve(&mut b, secs(2.0));
    assert_eq!(leads(&b, secs(2.0)), Some(2));
}

#[test]
fn a_leader_proves_its_record_before_it_raises_its_epoch() {
    let (mut store, mut a) = (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 0));
    store.serve(&mut a, secs(0.0));
    a.handle(ElectionInput::Saw { epoch: 9, living: false }, secs(1.0));
    store.serve(&mut a, secs(1.0));
    assert_eq!(leads(&a, secs(1.0)), Some(10));
    // Another one has the record: no epoch is high enough.
    store.revision += 1;
    store.record = Some(Record { holder: Holder { name: "b".to_owned(), run: "2".to_owned() }, epoch: 11, ..store.record.clone().unwrap() });
    a.handle(ElectionInput::Saw { epoch: 12, living: false }, secs(1.5));
    store.serve(&mut a, secs(1.5));
    assert!(matches!(a.role(secs(1.5)), Role::Following { leader: Some(record) } if record.holder.name == "b"));
}

#[test]
fn without_the_right_to_write_a_controller_leads_alone_unless_somebody_renews() {
    let mut a = Election::new(me("a", "1"), TTL, Duration::ZERO, 3);
    assert_eq!(a.poll(secs(0.0)), Some(StoreRequest::Read));
    a.handle(ElectionInput::Read(Ok(None)), secs(0.0));
    assert!(matches!(a.poll(secs(0.0)), Some(StoreRequest::Write { .. })));
    a.handle(ElectionInput::Wrote(Err(StoreFailure::Denied)), secs(0.0));
    a.poll(secs(0.1));
    a.handle(ElectionInput::Read(Ok(None)), secs(0.1));
    assert_eq!(leads(&a, secs(100.0)), Some(4));
    let other = |renewal: u64| {
        let record = Record { cluster: "c".to_owned(), holder: Holder { name: "b".to_owned(), run: "2".to_owned() }, renewal, ..Record::default() };
        ElectionInput::Read(Ok(Some(StoredRecord { revision: Revision(renewal), record: Some(record) })))
    };
    for (second, renewal, leading) in [(101.0, 1, true), (103.0, 2, false), (105.0, 3, false), (112.0, 3, true)] {
        let mut now = secs(second);
        // The right may have come back.
        if matches!(a.poll(now), Some(StoreRequest::Write { .. })) {
            a.handle(ElectionInput::Wrote(Err(StoreFailure::Denied)), now);
            now += secs(0.25);
            assert_eq!(a.poll(now), Some(StoreRequest::Read));
        }
        a.handle(other(renewal), now);
        assert_eq!(leads(&a, now).is_some(), leading, "at {second}");
    }
}

#[test]
fn a_leader_that_only_lost_the_store_takes_care_until_it_sees_a_higher_epoch() {
    let (mut store, mut a) = (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 0));
    store.serve(&mut a, secs(0.0));
    for quarter in 0..8 {
        let now = secs(2.0 + f64::from(quarter) / 2.0);
        assert!(a.poll(now).is_some());
        a.handle(ElectionInput::Wrote(Err(StoreFailure::Unreachable)), now);
        let lapsed = now >= secs(4.0);
        assert_eq!(leads(&a, now).is_none(), lapsed, "{now:?}");
    }
    assert_eq!(a.role(secs(5.5)), Role::Caretaking { epoch: 1, named: false });
    store.serve(&mut a, secs(6.0));
    assert_eq!(leads(&a, secs(6.0)), Some(1), "nobody else took it");
}

#[test]
fn a_foreign_record_and_an_unreadable_one_are_not_replaced() {
    let mut store = Store::default();
    store.answer(&StoreRequest::Write { record: Record { cluster: "other".to_owned(), epoch: 1, ..Record::default() }, expected: Expected::Absent });
    let mut a = Election::new(me("a", "1"), TTL, Duration::ZERO, 0);
    for second in 0..60 {
        store.serve(&mut a, Duration::from_secs(second));
    }
    assert_eq!(a.role(secs(60.0)), Role::Following { leader: None });
    assert_eq!(a.highest(), 0, "a foreign epoch is not ours to exceed");
    let mut b = Election::new(me("b", "1"), TTL, Duration::ZERO, 0);
    b.poll(secs(0.0));
    let garbage = ElectionInput::Read(Ok(Some(StoredRecord { revision: Revision(3), record: None })));
    b.handle(garbage.clone(), secs(0.0));
    assert_eq!(b.poll(secs(5.9)), Some(StoreRequest::Read), "it may be somebody's");
    b.handle(garbage, secs(5.9));
    assert!(matches!(b.poll(secs(6.0)), Some(StoreRequest::Write { expected: Expected::At(Revision(3)), .. })));
}

#[test]
fn two_leaders_under_one_epoch_separate_and_an_epoch_above_the_highest_is_no_claim() {
    let (mut store, mut a) = (Store::default(), Election::new(me("a", "1"), TTL, Duration::ZERO, 8));
    store.serve(&mut a, secs(0.0));
    assert_eq!(leads(&a, secs(0.0)), Some(9));
    a.handle(ElectionInput::Saw { epoch: 9, living: false }, secs(0.5));
    store.serve(&mut a, secs(0.5));
    assert!(leads(&a, secs(0.5)) > Some(9));
    let before = a.highest();
    a.handle(ElectionInput::Saw { epoch: u64::MAX, living: true }, secs(1.0));
    assert_eq!(a.highest(), before);
}

#[test]
fn where_there_are_others_nobody_leads_without_the_record() {
    let mut a = Election::new(me("a", "1"), TTL, Duration::ZERO, 3);
    a.handle(ElectionInput::Others(true), secs(0.0));
    for second in 0..20 {
        let now = Duration::from_secs(second);
        while let Some(ask) = a.poll(now) {
            a.handle(if ask == StoreRequest::Read { ElectionInput::Read(Ok(None)) } else { ElectionInput::Wrote(Err(StoreFailure::Denied)) }, now);
        }
        assert_eq!(leads(&a, now), None);
    }
    let mut store = Store::default();
    store.serve(&mut a, secs(30.0));
    assert_eq!(leads(&a, secs(30.0)), Some(4), "the right came back");
}

#[test]
fn a_controller_that_is_told_to_lead_without_the_store_leads_until_another_one_does() {
    let mut a = Election::new(me("a", "1"), TTL, Duration::ZERO, 5);
    a.handle(ElectionInput::Caretake, secs(0.0));
    assert_eq!(a.role(secs(0.0)), Role::Caretaking { epoch: 6, named: true });
    a.handle(ElectionInput::Saw { epoch: 8, living: false }, secs(1.0));
    assert_eq!(a.role(secs(1.0)), Role::Caretaking { epoch: 9, named: true }, "a proxy remembers a dead leader");
    a.handle(ElectionInput::Saw { epoch: 10, living: true }, secs(1.0));
    assert_eq!(a.role(secs(1.0)), Role::Following { leader: None });
    let mut store = Store::default();
    let mut b = Election::new(me("b", "1"), TTL, Duration::ZERO, 5);
    b.handle(ElectionInput::Caretake, secs(0.0));
    store.serve(&mut b, secs(0.5));
    assert_eq!(leads(&b, secs(0.5)), Some(7), "the store is back");
}

/// One controller of a simulation.
struct Node {
    election: Election,
    /// Until when the process stands still.
    paused: u64,
    /// What the store will answer, and when it reaches us.
    answer: Option<(u64, ElectionInput)>,
    crashed: bool,
}

struct World {
    random: fastrand::Rng,
    store: Store,
    nodes: Vec<Node>,
    /// Writes on their way to the store.
    arriving: Vec<(u64, usize, StoreRequest, bool)>,
    runs: u64,
    epochs: BTreeMap<u64, String>,
}

/// A request that is not answered within this many milliseconds has failed, even if it arrives later.
const ANSWER_TIMEOUT_MILLIS: u64 = 2_000;
/// Milliseconds between two looks.
const STEP: usize = 4;

impl World {
    fn new(seed: u64) -> Self {
        let mut world =
            Self { random: fastrand::Rng::with_seed(seed), store: Store::default(), nodes: Vec::new(), arriving: Vec::new(), runs: 0, epochs: BTreeMap::new() };
        for number in 0..3 {
            let node = world.start(number, None, 0);
            world.nodes.push(node);
        }
        world
    }

    fn start(&mut self, number: usize, previous_run: Option<String>, highest: u64) -> Node {
        self.runs += 1;
        let me = Candidate { previous_run, ..me(&format!("n{number}"), &format!("r{}", self.runs)) };
        let jitter = Duration::from_millis(self.random.u64(0..300));
        Node { election: Election::new(me, TTL, jitter, highest), paused: 0, answer: None, crashed: false }
    }

    /// One step of node `number`; `calm` without any new fault.
    fn run(&mut self, number: usize, now: u64, calm: bool) {
        let random = &mut self.random;
        let node = &mut self.nodes[number];
        if node.crashed || node.paused > now {
            return;
        }
        let at = Duration::from_millis(now);
        if let Some((_, input)) = node.answer.take_if(|(due, _)| *due <= now) {
            node.election.handle(input, at);
        }
        let Some(ask) = node.election.poll(at) else { return };
        let (there, back) = if calm { (5, 5) } else { (delay(random), delay(random)) };
        let lost = !calm && random.u8(0..10) == 0;
        let failed = matches!(ask, StoreRequest::Read)
            .then_some(ElectionInput::Read(Err(StoreFailure::Unreachable)))
            .unwrap_or(ElectionInput::Wrote(Err(StoreFailure::Unreachable)));
        node.answer = Some((now + ANSWER_TIMEOUT_MILLIS, failed));
        let answered = (calm || random.u8(0..10) != 0) && there + back < ANSWER_TIMEOUT_MILLIS;
        if !lost {
            self.arriving.push((now + there, number, ask, answered));
            self.arriving.sort_by_key(|(due, ..)| *due);
            if let (true, Some((due, _))) = (answered, self.nodes[number].answer.as_mut()) {
                *due = now + there + back;
            }
        }
    }

    /// Delivers the writes that have reached the store by now.
    fn arrive(&mut self, now: u64) {
        while self.arriving.first().is_some_and(|(due, ..)| *due <= now) {
            let (_, number, ask, answered) = self.arriving.remove(0);
            let input = self.store.answer(&ask);
            if let (true, Some((_, answer))) = (answered, self.nodes[number].answer.as_mut()) {
                *answer = input;
            }
        }
    }

    /// The leader. There is at most one, under an epoch that no other run had.
    fn check(&mut self, now: u64, seed: u64) -> Option<usize> {
        let at = Duration::from_millis(now);
        let mut leading = Vec::new();
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.crashed && node.paused <= now) {
            if let Some(epoch) = leads(&node.election, at) {
                let run = node.election.me.holder.run.clone();
                let owner = self.epochs.entry(epoch).or_insert_with(|| run.clone());
                assert_eq!(*owner, run, "seed {seed}: epoch {epoch} twice");
                leading.push(number);
            }
        }
        assert!(leading.len() <= 1, "seed {seed}: {leading:?} lead at {now} ms");
        leading.first().copied()
    }

    fn fault(&mut self, now: u64) {
        let number = self.random.usize(0..self.nodes.len());
        match self.random.u8(0..4) {
            0 => self.nodes[number].paused = now + self.random.u64(100..15_000),
            1 => self.nodes[number].crashed = true,
            2 if self.nodes[number].crashed => {
                let (run, highest) = (self.nodes[number].election.me.holder.run.clone(), self.nodes[number].election.highest());
                self.nodes[number] = self.start(number, Some(run), highest);
            }
            _ => {}
        }
    }
}

/// A delay: mostly short, now and then longer than any controller waits.
fn delay(random: &mut fastrand::Rng) -> u64 {
    if random.u8(0..20) == 0 { random.u64(500..8_000) } else { random.u64(1..60) }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    let storm = world.random.u64(10_000..40_000);
    let mut calm_since = None;
    let mut calm = false;
    for now in (0..storm + 20_000).step_by(STEP) {
        if !calm && world.random.u16(0..500) == 0 {
            world.fault(now);
        }
        if !calm && now >= storm {
            calm = true;
            (0..3).for_each(|number| {
                world.nodes[number].paused = 0;
                if world.nodes[number].crashed {
                    let run = world.nodes[number].election.me.holder.run.clone();
                    let highest = world.nodes[number].election.highest();
                    world.nodes[number] = world.start(number, Some(run), highest);
                }
            });
        }
        world.arrive(now);
        (0..3).for_each(|number| world.run(number, now, calm));
        let leader = world.check(now, seed);
        if calm && calm_since.is_none() && leader.is_some() {
            calm_since = Some(now - storm);
        }
    }
    let took = calm_since.unwrap_or_else(|| panic!("seed {seed}: nobody leads"));
    // A request that was under way at the end of the faults may take its time: one patience, and one more TTL from its write on.
    assert!(Duration::from_millis(took) <= TTL + Duration::from_millis(ANSWER_TIMEOUT_MILLIS) + secs(1.0), "seed {seed}: a leader after {took} ms");
}

#[test]
fn at_most_one_controller_leads_whatever_the_store_loses() {
    let seeds = std::env::var("WAYPOST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100);
    (0..seeds).for_each(simulate);
}

#[test]
fn an_older_record_of_ours_that_returns_with_a_restored_store_is_no_lease() {
    for others in [true, false] {
        let (mut store, mut a) = (Store::default(), Election::new(me("a", "a1"), TTL, Duration::ZERO, 0));
        store.serve(&mut a, secs(0.0));
        let (backup, at) = (store.record.clone(), store.revision);
        if others {
            // Another controller led meanwhile, and may still lead.
            a.handle(ElectionInput::StepDown, secs(1.0));
            let mut b = Election::new(me("b", "b1"), TTL, Duration::ZERO, 0);
            store.serve(&mut b, secs(1.0));
            store.serve(&mut b, secs(7.5));
            store.serve(&mut a, secs(7.5));
            assert_eq!((leads(&b, secs(7.5)), leads(&a, secs(7.5))), (Some(2), None));
        } else {
            store.serve(&mut a, secs(2.0));
            store.serve(&mut a, secs(4.0));
        }
        (store.record, store.revision) = (backup, at);
        store.serve(&mut a, secs(8.0));
        assert_eq!(leads(&a, secs(8.0)), (!others).then_some(2), "others: {others}");
        for tenth in 80..150 {
            store.serve(&mut a, secs(f64::from(tenth) / 10.0));
        }
        assert_eq!(leads(&a, secs(14.9)), Some(if others { 3 } else { 2 }), "others: {others}");
    }
}
