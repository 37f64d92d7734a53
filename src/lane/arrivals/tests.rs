use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const LANES: usize = 3;
const FULL: usize = 4;
const APART: Duration = Duration::from_millis(10);

/// What may happen to a schedule.
#[derive(Debug, Clone)]
enum Step {
    /// Events of these partitions arrive.
    Arrive(Vec<usize>),
    /// A lane that was woken, or whose time has come, looks.
    Look(usize),
    /// A lane is done with its batch.
    Settle(usize),
    /// So many milliseconds pass.
    Pass(u64),
    /// Everybody does what there is to do, until all wait.
    Rest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::collection::vec(0_usize..7, 1..5).prop_map(Step::Arrive),
        3 => (0..LANES).prop_map(Step::Look),
        2 => (0..LANES).prop_map(Step::Settle),
        2 => (1_u64..12).prop_map(Step::Pass),
        1 => Just(Step::Rest),
    ];
    prop::collection::vec(step, 0..80)
}

/// What a lane of the test does.
#[derive(Debug, PartialEq, Eq)]
enum Lane {
    /// It waits until woken, or until a time.
    Waits(Option<Instant>),
    /// It has a batch of these partitions.
    Works(Vec<usize>),
    Ended,
}

/// The lanes of a process, as they would be driven, with a clock of their own.
struct Lanes {
    waiting: Schedule<u32>,
    lanes: Vec<Lane>,
    woken: Vec<bool>,
    now: Instant,
    arrived: u32,
    /// Events by partition, in order of arrival.
    expected: BTreeMap<usize, VecDeque<u32>>,
    partitions: BTreeMap<u32, usize>,
    /// When a batch that is not full began.
    began: Option<Instant>,
}

impl Lanes {
    fn new() -> Self {
        Self {
            waiting: Schedule::new(LANES, FULL, APART),
            lanes: (0..LANES).map(|_| Lane::Waits(None)).collect(),
            woken: vec![true; LANES],
            now: Instant::now(),
            arrived: 0,
            expected: BTreeMap::new(),
            partitions: BTreeMap::new(),
            began: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Arrive(partitions) => partitions
                .iter()
                .for_each(|partition| self.arrive(*partition)),
            Step::Look(lane) => self.look(*lane),
            Step::Settle(lane) => self.settle(*lane),
            Step::Pass(millis) => self.now += Duration::from_millis(*millis),
            Step::Rest => self.come_to_rest(),
        }
        self.check();
    }

    fn arrive(&mut self, partition: usize) {
        self.arrived += 1;
        self.expected
            .entry(partition)
            .or_default()
            .push_back(self.arrived);
        self.partitions.insert(self.arrived, partition);
        if self.waiting.add(partition, self.arrived) {
            self.woken[partition % LANES] = true;
        }
    }

    /// Whether the lane would look now.
    fn is_due(&self, lane: usize) -> bool {
        match &self.lanes[lane] {
            Lane::Waits(until) => self.woken[lane] || until.is_some_and(|until| until <= self.now),
            _ => false,
        }
    }

    fn look(&mut self, lane: usize) {
        if !self.is_due(lane) {
            return;
        }
        self.woken[lane] = false;
        self.lanes[lane] = match self.waiting.next(lane, self.now) {
            NextStep::Take(events, partitions) => {
                self.taken(&events, &partitions);
                if self.waiting.is_over() {
                    self.woken.fill(true);
                }
                Lane::Works(partitions)
            }
            NextStep::WaitUntil(at) => {
                assert!(at > self.now, "a wait for what is past would be a spin");
                Lane::Waits(Some(at))
            }
            NextStep::Wait => Lane::Waits(None),
            NextStep::End => Lane::Ended,
        };
    }

    fn taken(&mut self, events: &[u32], partitions: &[usize]) {
        assert!(!events.is_empty() && events.len() <= FULL);
        for lane in &self.lanes {
            if let Lane::Works(held) = lane {
                assert!(
                    held.iter().all(|partition| !partitions.contains(partition)),
                    "shared"
                );
            }
        }
        for event in events {
            let partition = self.partitions[event];
            assert!(partitions.contains(&partition));
            let first = self
                .expected
                .get_mut(&partition)
                .and_then(VecDeque::pop_front);
            assert_eq!(first, Some(*event), "out of order within its partition");
        }
        if events.len() < FULL {
            let soon = self.began.is_some_and(|began| self.now < began + APART);
            assert!(!soon, "small batches too close to each other");
        }
        self.began = Some(self.now);
    }

    fn settle(&mut self, lane: usize) {
        if let Lane::Works(partitions) = &self.lanes[lane] {
            let woken = self.waiting.release(partitions);
            self.lanes[lane] = Lane::Waits(None);
            self.woken[lane] = true;
            for lane in woken {
                self.woken[lane] = true;
            }
        }
    }

    fn check(&mut self) {
        let before = self.waiting.ready.clone();
        self.waiting.count();
        assert_eq!(before, self.waiting.ready, "counted along and anew");
        let working = self.lanes.iter().filter(|l| matches!(l, Lane::Works(_)));
        assert_eq!(working.count(), self.waiting.busy);
    }

    /// Everybody does what they were woken for, and time passes.
    fn go_on(&mut self) {
        for lane in 0..LANES {
            self.settle(lane);
            self.look(lane);
            self.check();
        }
        self.now += APART;
    }

    /// Everybody does what there is to do: nothing may be left.
    fn drain(&mut self) {
        self.waiting.is_closed = true;
        self.woken.fill(true);
        for _ in 0..10_000 {
            if self.lanes.iter().all(|lane| *lane == Lane::Ended) {
                break;
            }
            self.go_on();
        }
        assert!(
            self.lanes.iter().all(|lane| *lane == Lane::Ended),
            "a lane was not woken"
        );
        assert!(
            self.expected.values().all(VecDeque::is_empty),
            "an event was left"
        );
    }

    /// Everybody does what they were woken for, without anything new: what waits
    /// gets to a lane, and then all wait.
    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            let is_done =
                |lane: usize| matches!(self.lanes[lane], Lane::Waits(None)) && !self.woken[lane];
            if (0..LANES).all(is_done) {
                break;
            }
            self.go_on();
        }
        let is_left = self.expected.values().any(|events| !events.is_empty());
        assert!(!is_left, "an event waits, and no lane looks");
    }
}

proptest! {
    /// Whatever arrives, in whatever order lanes look and settle: events of a
    /// partition are with one lane at a time and in order, small batches keep their
    /// distance, no lane sleeps while it has something to do, and all end.
    #[test]
    fn events_get_to_the_lanes(steps in steps(), stop_midway in any::<bool>()) {
        let mut lanes = Lanes::new();
        for step in &steps {
            lanes.step(step);
        }
        if !stop_midway {
            lanes.come_to_rest();
        }
        lanes.drain();
    }
}

#[test]
fn an_event_on_an_idle_service_waits_for_nothing_and_one_lane_has_all_that_is_slow() {
    let (mut waiting, now) = (Schedule::new(2, 100, APART), Instant::now());
    waiting.add(0, 'a');
    assert_eq!(waiting.next(1, now), NextStep::Take(vec!['a'], vec![0]));
    assert_eq!(waiting.release(&[0]), Vec::<usize>::new());
    // The next ones soon after, of both lanes' partitions: together, a little later.
    for (partition, event) in [(0, 'b'), (1, 'c'), (0, 'd')] {
        waiting.add(partition, event);
    }
    assert_eq!(waiting.next(0, now), NextStep::WaitUntil(now + APART));
    let all = NextStep::Take(vec!['b', 'c', 'd'], vec![0, 1]);
    assert_eq!(waiting.next(0, now + APART), all);
}

#[test]
fn beside_a_busy_lane_each_has_its_own() {
    let (mut waiting, now) = (Schedule::new(2, 100, APART), Instant::now());
    waiting.add(0, 'a');
    assert_eq!(waiting.next(0, now), NextStep::Take(vec!['a'], vec![0]));
    for (partition, event) in [(0, 'b'), (2, 'c'), (3, 'd')] {
        waiting.add(partition, event);
    }
    let later = now + APART;
    assert_eq!(waiting.next(1, later), NextStep::Take(vec!['d'], vec![3]));
    assert_eq!(waiting.release(&[0]), vec![0]);
    let rest = NextStep::Take(vec!['b', 'c'], vec![0, 2]);
    assert_eq!(waiting.next(0, later + APART), rest);
}

#[test]
fn a_full_batch_waits_for_nothing() {
    let (mut waiting, now) = (Schedule::new(1, 2, APART), Instant::now());
    waiting.add(0, 0);
    assert_eq!(waiting.next(0, now), NextStep::Take(vec![0], vec![0]));
    waiting.release(&[0]);
    for event in 1..=3 {
        waiting.add(0, event);
    }
    assert_eq!(waiting.next(0, now), NextStep::Take(vec![1, 2], vec![0]));
    waiting.release(&[0]);
    assert_eq!(waiting.next(0, now), NextStep::WaitUntil(now + APART));
}
