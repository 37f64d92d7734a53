//! Reads from memory, the protocol in small, in every order of what can happen:
//! commits of two processes, some with an unknown outcome, records that expire, a
//! rebuild that switches over, a primary that shows less, loads, evictions and
//! crashes at each step. Checked exhaustively, within the bounds below; and each
//! rule of it by leaving it out, which must be found.
//!
//! There is one counter. Each commit adds one to it, and a rebuild as much as was
//! missing, so what a state of the store has is known from how far it is.

use stateright::{Checker, Model, Property};

/// Enrolments: two processes, and one that enrols anew.
const MOST_WRITERS: usize = 3;
/// The one that is not of the replica that is looked at.
const OTHER: usize = 1;
/// Commits of each. With 2 there are more states than 10 GB can hold.
const MOST_COMMITS: u8 = 1;

/// A rule that may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Records that come while somebody is loaded are kept for them.
    Kept,
    /// A read waits for a round that began after it.
    RoundAfter,
    /// A record that should be there and is not is noticed.
    Contiguity,
    /// Another generation is noticed.
    Epoch,
    /// A server that shows less than is known is not believed.
    Known,
    /// What was read as of another time is not put in.
    InStep,
    /// After an unknown outcome the writer is another.
    Enrolment,
}

/// How far a store is: for each enrolment the number of its last commit, and how
/// often it was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Position {
    commits: Vec<u8>,
    epoch: u8,
}

impl Position {
    fn of(&self, writer: usize) -> u8 {
        self.commits.get(writer).copied().unwrap_or(0)
    }

    fn covers(&self, other: &Position) -> bool {
        let writers = 0..MOST_WRITERS;
        self.epoch >= other.epoch && writers.clone().all(|w| self.of(w) >= other.of(w))
    }

    fn raise(&mut self, writer: usize, to: u8) {
        if self.commits.len() <= writer {
            self.commits.resize(writer + 1, 0);
        }
        self.commits[writer] = self.commits[writer].max(to);
    }

    fn join(&mut self, other: &Position) {
        for (writer, last) in other.commits.iter().enumerate() {
            self.raise(writer, *last);
        }
        self.epoch = self.epoch.max(other.epoch);
    }

    /// What the counter is there.
    fn value(&self) -> u8 {
        self.commits.iter().sum::<u8>() + self.epoch
    }
}

/// The store, as its primary has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Store {
    now: Position,
    /// Commits of which the numbers were given again: they count, and have no
    /// number of their own.
    unnumbered: u8,
    /// Up to which record of the other process there is none any more. Its own a
    /// replica has from itself.
    expired: u8,
    /// What a primary shows that was cut off, which happens once.
    old: Option<Position>,
    was_cut_off: bool,
}

impl Store {
    fn value(&self, at: &Position) -> u8 {
        at.value() + self.unnumbered
    }
}

/// What a replica has in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Memory {
    at: Position,
    held: Option<u8>,
    /// The most that it has seen.
    known: Position,
    load: Option<Load>,
    /// A question that was asked, and what it showed.
    round: Option<Round>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Load {
    began_at: Position,
    read: Option<(Position, u8)>,
    kept: Vec<(usize, u8)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Round {
    shown: Position,
    /// Whether the reader had asked before it began.
    serves: bool,
}

/// Somebody who reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
enum Reader {
    #[default]
    Idle,
    /// What must be in the answer.
    Waits(Position),
    /// A round that serves has ended.
    Served(Position),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    store: Store,
    /// Which enrolment each process writes under; the first is the replica's own.
    enrolled: [usize; 2],
    memory: Memory,
    reader: Reader,
    answered: bool,
    wrong: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Commit(usize),
    /// It happened, and nobody is told so.
    UnknownCommit(usize),
    Expire,
    Rebuild,
    /// A primary is cut off, and goes on answering.
    CutOff,
    Heal,
    Ask,
    BeginRound {
        of_old: bool,
    },
    EndRound,
    Answer,
    BeginLoad,
    Read {
        of_old: bool,
    },
    EndLoad,
    Evict,
    Crash,
}

struct Protocol {
    without: Without,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = Store {
            now: Position {
                commits: vec![0, 0],
                epoch: 0,
            },
            ..Store::default()
        };
        vec![State {
            store,
            enrolled: [0, 1],
            memory: Memory::default(),
            reader: Reader::Idle,
            answered: false,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let State {
            store,
            memory,
            reader,
            ..
        } = state;
        for (process, writer) in state.enrolled.iter().enumerate() {
            if store.now.of(*writer) < MOST_COMMITS {
                actions.push(Action::Commit(process));
                if process == 0 && store.now.commits.len() < MOST_WRITERS {
                    actions.push(Action::UnknownCommit(process));
                }
            }
        }
        if store.expired < store.now.of(OTHER) {
            actions.push(Action::Expire);
        }
        if store.now.epoch == 0 {
            actions.push(Action::Rebuild);
        }
        match store.old {
            None if !store.was_cut_off => actions.push(Action::CutOff),
            None => {}
            Some(_) => actions.push(Action::Heal),
        }
        if *reader == Reader::Idle && !state.answered {
            actions.push(Action::Ask);
        }
        let from = |old: bool| !old || store.old.is_some();
        for of_old in [false, true].into_iter().filter(|old| from(*old)) {
            if memory.round.is_none() {
                actions.push(Action::BeginRound { of_old });
            }
            if memory.load.as_ref().is_some_and(|load| load.read.is_none()) {
                actions.push(Action::Read { of_old });
            }
        }
        if memory.round.is_some() {
            actions.push(Action::EndRound);
        }
        if matches!(reader, Reader::Served(_)) && memory.held.is_some() {
            actions.push(Action::Answer);
        }
        if memory.held.is_none() && memory.load.is_none() {
            actions.push(Action::BeginLoad);
        }
        if memory.load.as_ref().is_some_and(|load| load.read.is_some()) {
            actions.push(Action::EndLoad);
        }
        if memory.held.is_some() {
            actions.push(Action::Evict);
        }
        if *memory != Memory::default() {
            actions.push(Action::Crash);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Commit(process) => next.commit(process),
            Action::UnknownCommit(process) => self.unknown_commit(&mut next, process),
            Action::Expire => next.store.expired = next.store.now.of(OTHER),
            Action::Rebuild => next.store.now.epoch += 1,
            Action::CutOff => {
                next.store.old = Some(next.store.now.clone());
                next.store.was_cut_off = true;
            }
            Action::Heal => next.store.old = None,
            Action::Ask => next.ask(),
            Action::BeginRound { of_old } => {
                let shown = next.store.shown(of_old);
                let is_known = shown.covers(&next.memory.known);
                if !is_known && self.without != Without::Known {
                    return None;
                }
                let serves = matches!(next.reader, Reader::Waits(_));
                next.memory.round = Some(Round { shown, serves });
            }
            Action::EndRound => self.end_round(&mut next),
            Action::Answer => next.answer(),
            Action::BeginLoad => {
                next.memory.load = Some(Load {
                    began_at: next.memory.at.clone(),
                    read: None,
                    kept: Vec::new(),
                });
            }
            Action::Read { of_old } => {
                let at = next.store.shown(of_old);
                let value = next.store.value(&at);
                if let Some(load) = &mut next.memory.load {
                    load.read = Some((at, value));
                }
            }
            Action::EndLoad => self.end_load(&mut next),
            Action::Evict => next.memory.held = None,
            Action::Crash => {
                next.memory = Memory::default();
                next.reader = Reader::Idle;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every answer is right", |_, state: &State| {
                state.wrong.is_none()
            }),
            Property::sometimes("a read is answered after a load", |_, state: &State| {
                state.answered
            }),
        ]
    }
}

impl Protocol {
    /// It is committed, and the writer does not know: it enrols anew, so that no
    /// number is given twice.
    fn unknown_commit(&self, state: &mut State, process: usize) {
        let writer = state.enrolled[process];
        if self.without == Without::Enrolment {
            // It gives the number again, to the next.
            state.store.unnumbered += 1;
            return;
        }
        let number = state.store.now.of(writer) + 1;
        state.store.now.raise(writer, number);
        let anew = state.store.now.commits.len();
        state.store.now.raise(anew, 0);
        state.enrolled[process] = anew;
    }

    fn end_round(&self, state: &mut State) {
        let memory = &mut state.memory;
        let Some(Round { shown, serves }) = memory.round.take() else {
            return;
        };
        let another = shown.epoch != memory.at.epoch && self.without != Without::Epoch;
        let from = memory.at.clone();
        let mut records = Vec::new();
        let mut missing = false;
        for writer in 0..MOST_WRITERS {
            for number in from.of(writer) + 1..=shown.of(writer) {
                missing |= !state.store.has_record(writer, number);
                records.push((writer, number));
            }
        }
        if another || (missing && self.without != Without::Contiguity) {
            memory.held = None;
            memory.load = None;
            memory.at = shown.clone();
        } else {
            let there = |record: &(usize, u8)| state.store.has_record(record.0, record.1);
            let there: Vec<_> = records.into_iter().filter(there).collect();
            if let Some(value) = &mut memory.held {
                *value += there.len() as u8;
            }
            if let Some(load) = &mut memory.load
                && self.without != Without::Kept
            {
                load.kept.extend(there);
            }
            memory.at.join(&shown);
        }
        memory.known.join(&shown);
        if let Reader::Waits(floor) = &state.reader
            && (serves || self.without == Without::RoundAfter)
        {
            state.reader = Reader::Served(floor.clone());
        }
    }

    /// Puts in what was read, if it is in step: no later than memory, and no
    /// earlier than memory was when the load began.
    fn end_load(&self, state: &mut State) {
        let memory = &mut state.memory;
        let Some(Load {
            began_at,
            read: Some((at, value)),
            kept,
        }) = memory.load.take()
        else {
            return;
        };
        let in_step = memory.at.covers(&at) && at.covers(&began_at) && at.epoch == memory.at.epoch;
        if in_step || self.without == Without::InStep {
            let after = kept.iter().filter(|(w, number)| *number > at.of(*w));
            memory.held = Some(value + after.count() as u8);
        }
    }
}

impl Store {
    fn has_record(&self, writer: usize, number: u8) -> bool {
        writer != OTHER || number > self.expired
    }

    fn shown(&self, of_old: bool) -> Position {
        match &self.old {
            Some(old) if of_old => old.clone(),
            _ => self.now.clone(),
        }
    }
}

impl State {
    fn commit(&mut self, process: usize) {
        let writer = self.enrolled[process];
        let number = self.store.now.of(writer) + 1;
        self.store.now.raise(writer, number);
        if process == 0 {
            // The replica knows of its own as soon as they are acknowledged.
            self.memory.known.raise(writer, number);
        }
    }

    /// What was acknowledged must be in the answer; while a primary is cut off,
    /// what this replica knows (that gap is every majority read's).
    fn ask(&mut self) {
        let floor = match &self.store.old {
            Some(_) => self.memory.known.clone(),
            None => self.store.now.clone(),
        };
        self.reader = Reader::Waits(floor);
    }

    fn answer(&mut self) {
        let Reader::Served(floor) = std::mem::take(&mut self.reader) else {
            return;
        };
        let memory = &self.memory;
        let value = memory.held.unwrap_or_default();
        if value != self.store.value(&memory.at) {
            self.wrong = Some("it is of no moment that there was");
        } else if !memory.at.covers(&floor) {
            self.wrong = Some("something is missing that was acknowledged before");
        }
        self.answered = true;
    }
}

fn checked(without: Without) -> (usize, Option<String>) {
    let checker = Protocol { without }.checker().threads(2);
    let checker = match without {
        Without::Nothing => checker,
        // One is enough.
        _ => checker.finish_when(stateright::HasDiscoveries::AnyFailures),
    };
    let checker = checker.spawn_bfs().join();
    let found = checker.discovery("every answer is right");
    let actions = found.map(|path| format!("{:?}", path.into_actions()));
    if without == Without::Nothing {
        assert!(
            checker
                .discovery("a read is answered after a load")
                .is_some()
        );
    }
    (checker.unique_state_count(), actions)
}

#[test]
fn no_answer_is_wrong_whatever_happens_in_whatever_order() {
    let (states, wrong) = checked(Without::Nothing);
    println!("{states} states");
    assert_eq!(wrong, None, "after {states} states");
    assert!(states > 100_000, "{states} states are not all there are");
}

#[test]
fn each_rule_is_missed_when_it_is_left_out() {
    for without in [
        Without::Kept,
        Without::RoundAfter,
        Without::Contiguity,
        Without::Epoch,
        Without::Known,
        Without::InStep,
        Without::Enrolment,
    ] {
        let (states, wrong) = checked(without);
        println!("{without:?}: {states} states, {wrong:?}");
        assert!(wrong.is_some(), "{without:?} makes no difference");
    }
}
