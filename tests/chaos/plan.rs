//! What goes wrong, and when: drawn from a seed before anything happens.

use std::time::Duration;

use crate::kit::random::Random;

/// A way in which something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ReplicaKilled,
    ReplicaFrozen,
    ReplicaStopped,
    BrokerKilled,
    BrokerFrozen,
    BrokerStopped,
    BusCut,
    BusStalled,
    BusSlow,
    ExchangeDeleted,
    PrimaryKilled,
    PrimaryFrozen,
    PrimaryStepsDown,
    StoreCut,
    StoreStalled,
    StoreSlow,
}

impl Kind {
    /// Kinds that belong together, under a name for them.
    pub(crate) const GROUPS: [(&str, &[Self]); 5] = [
        (
            "replica",
            &[
                Self::ReplicaKilled,
                Self::ReplicaFrozen,
                Self::ReplicaStopped,
            ],
        ),
        (
            "broker",
            &[Self::BrokerKilled, Self::BrokerFrozen, Self::BrokerStopped],
        ),
        (
            "bus",
            &[
                Self::BusCut,
                Self::BusStalled,
                Self::BusSlow,
                Self::ExchangeDeleted,
            ],
        ),
        (
            "primary",
            &[
                Self::PrimaryKilled,
                Self::PrimaryFrozen,
                Self::PrimaryStepsDown,
            ],
        ),
        (
            "store",
            &[Self::StoreCut, Self::StoreStalled, Self::StoreSlow],
        ),
    ];

    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::ReplicaKilled => "replica killed (-9) and started",
            Self::ReplicaFrozen => "replica frozen (SIGSTOP)",
            Self::ReplicaStopped => "replica stopped (SIGTERM) and started",
            Self::BrokerKilled => "broker node killed (-9) and started",
            Self::BrokerFrozen => "broker node frozen (SIGSTOP)",
            Self::BrokerStopped => "broker node stopped (SIGTERM) and started",
            Self::BusCut => "connections to the broker cut",
            Self::BusStalled => "connections to the broker stalled",
            Self::ExchangeDeleted => "the events' exchange deleted",
            Self::BusSlow => "connections to the broker delayed",
            Self::PrimaryKilled => "database primary killed (-9) and started",
            Self::PrimaryFrozen => "database primary frozen (SIGSTOP)",
            Self::PrimaryStepsDown => "database primary stepped down",
            Self::StoreCut => "connections to the database cut",
            Self::StoreStalled => "connections to the database stalled",
            Self::StoreSlow => "connections to the database delayed",
        }
    }
}

/// Something that goes wrong for a while.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub kind: Kind,
    /// Time since the fault before it.
    pub after: Duration,
    pub lasts: Duration,
    /// Which of several it meets.
    pub target: Target,
    /// What it adds to each chunk on a slow way.
    pub delay: Duration,
}

/// What of several a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// This one, modulo their number; of database nodes the primary.
    One(usize),
    /// Every way at once. Nodes and replicas are met one by one nevertheless:
    /// a cluster stands the loss of one.
    Every,
}

/// Faults one after the other in each lane, side by side in all: what is in
/// one lane shares something that only fails in one way at a time.
#[derive(Debug)]
pub(crate) struct Plan {
    pub replicas: Vec<Vec<Fault>>,
    pub brokers: Vec<Fault>,
    pub bus: Vec<Fault>,
    /// The database and the way to it: a node that starts on a way that is cut
    /// would not find itself among the members.
    pub store: Vec<Fault>,
    /// After all others, on every way at once: recovering from it is measured.
    pub last: Fault,
}

/// A broker that is killed in the first half second of a quorum queue's life
/// may never elect a leader for it again. The queue lives so long first.
const FIRST_AFTER_MS: usize = 1_500;
/// Milliseconds between faults, and of a fault: at least, and less than.
const GAP_MS: (usize, usize) = (200, 2_500);
const SHORT_MS: (usize, usize) = (10, 800);
const LONG_MS: (usize, usize) = (800, 4_000);
const DELAY_MS: (usize, usize) = (1, 40);

impl Plan {
    /// The same plan for the same seed.
    pub(crate) fn new(seed: u64, replicas: usize, length: Duration) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_fa17);
        let [replica, broker, bus, primary, store] = Kind::GROUPS.map(|(_, kinds)| kinds);
        let replicas = (0..replicas).map(|_| lane(&mut random, replica, length));
        Self {
            replicas: replicas.collect(),
            brokers: lane(&mut random, broker, length),
            bus: lane(&mut random, bus, length),
            store: lane(&mut random, &[primary, store].concat(), length),
            last: Fault {
                kind: *random.pick(&[
                    Kind::BusCut,
                    Kind::BusStalled,
                    Kind::StoreCut,
                    Kind::StoreStalled,
                ]),
                after: Duration::ZERO,
                lasts: random.millis(LONG_MS),
                target: Target::Every,
                delay: Duration::ZERO,
            },
        }
    }
}

fn lane(random: &mut Random, kinds: &[Kind], length: Duration) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = Duration::ZERO;
    // As many of each kind as of every other, in an order of their own.
    let mut left: Vec<Kind> = Vec::new();
    while at < length {
        if left.is_empty() {
            left.extend(kinds);
        }
        let kind = left.swap_remove(random.below(left.len()));
        let mut after = random.millis(GAP_MS);
        if faults.is_empty() {
            after += Duration::from_millis(FIRST_AFTER_MS as u64);
        }
        let is_short = random.one_in(2);
        let fault = Fault {
            kind,
            after,
            lasts: random.millis(if is_short { SHORT_MS } else { LONG_MS }),
            target: if random.one_in(3) {
                Target::Every
            } else {
                Target::One(random.below(6))
            },
            delay: random.millis(DELAY_MS),
        };
        at += fault.after + fault.lasts;
        faults.push(fault);
    }
    faults
}
