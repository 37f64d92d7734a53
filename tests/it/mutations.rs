//! Whatever bytes come, decoding answers: an event, "none of ours", or why not.
//! Real events, mutated in the ways in which transports and producers break
//! them.

use chat_counters::derive::Batch;
use chat_counters::event::decode::{Decoded, Decoder};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::kit::scenario::Scenario;
use crate::torture::Torture;

/// One way to break a body.
#[derive(Debug, Clone)]
enum Mutation {
    /// Another byte somewhere.
    Flip(Index, u8),
    /// Its end is missing.
    Cut(Index),
    /// A piece of it again, somewhere else.
    Splice(Index, Index, Index),
    /// Bytes that were never in it.
    Insert(Index, Vec<u8>),
    /// Another value at one of its places.
    Replace(Index, Value),
    /// A value wrapped in arrays or objects.
    Nest(Index, u16, bool),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(1e308)),
        Just(json!(-0.0)),
        "\\PC{0,300}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!("1969-12-31T23:59:59.999999999Z")),
        Just(json!("+99999-01-01T00:00:00Z")),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        1 => at().prop_map(Mutation::Cut),
        1 => (at(), at(), at()).prop_map(|(from, to, at)| Mutation::Splice(from, to, at)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        8 => (at(), value()).prop_map(|(at, value)| Mutation::Replace(at, value)),
        1 => (at(), any::<u16>(), any::<bool>())
            .prop_map(|(at, depth, array)| Mutation::Nest(at, depth, array)),
    ]
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let name = name.replace('~', "~0").replace('/', "~1");
            places(value, &format!("{here}/{name}"), all);
        }
    }
}

fn replace(body: &[u8], at: &Index, with: impl FnOnce(&Value) -> Option<String>) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return body.to_vec();
    };
    let mut all = Vec::new();
    places(&value, "", &mut all);
    let place = at.get(&all);
    let Some(found) = value.pointer_mut(place) else {
        return body.to_vec();
    };
    let Some(text) = with(found) else {
        return body.to_vec();
    };
    // By text, for a tree too deep to be written in any other way.
    *found = json!("\u{1}here");
    let marker = json!("\u{1}here").to_string();
    value.to_string().replace(&marker, &text).into_bytes()
}

fn mutated(mut body: Vec<u8>, mutation: &Mutation) -> Vec<u8> {
    if body.is_empty() {
        return body;
    }
    match mutation {
        Mutation::Flip(at, byte) => *at.get_mut(&mut body) ^= byte,
        Mutation::Cut(at) => body.truncate(at.index(body.len())),
        Mutation::Splice(from, to, at) => {
            let (from, to) = (from.index(body.len()), to.index(body.len()));
            let piece = body[from.min(to)..from.max(to)].to_vec();
            let at = at.index(body.len());
            body.splice(at..at, piece);
        }
        Mutation::Insert(at, bytes) => {
            let at = at.index(body.len());
            body.splice(at..at, bytes.iter().copied());
        }
        Mutation::Replace(at, with) => return replace(&body, at, |_| Some(with.to_string())),
        Mutation::Nest(at, depth, array) => {
            let (open, close) = if *array { ("[", "]") } else { ("{\"a\":", "}") };
            let depth = usize::from(*depth);
            return replace(&body, at, |value| {
                Some(open.repeat(depth) + &value.to_string() + &close.repeat(depth))
            });
        }
    }
    body
}

/// Bodies to begin with: every kind of event that the demo sends.
fn bodies() -> Vec<Vec<u8>> {
    let scenario = Scenario::small(3);
    scenario.published.into_iter().map(|p| p.body).collect()
}

#[test]
fn decoding_always_answers() {
    let torture = Torture {
        what: "mutated events",
        regressions: "tests/it/mutations.regressions",
        cases: 20_000,
    };
    let cases = (
        prop::sample::select(bodies()),
        prop::collection::vec(mutation(), 1..4),
    );
    torture.run(&cases, |(body, mutations)| {
        let body = mutations.iter().fold(body, mutated);
        match Decoder::default().decode(&body) {
            // What was decoded can be derived: it needs something, or changes it.
            Ok(Decoded::Event(event, _)) => drop(Batch::default().apply(&event)),
            Ok(Decoded::Ignored { event_type }) => assert!(!event_type.is_empty()),
            Err(error) => {
                let error = error.to_string();
                assert!(!error.is_empty());
                // It goes into a header and a log.
                assert!(error.len() < 2_000, "{}", error.len());
            }
        }
    });
}
