//! Whether the dead-letter queue holds what was poison, and nothing else.

use std::collections::HashMap;

use crate::kit::broker::Letter;
use crate::kit::scenario::{Kind, Published};

/// What was found in the dead-letter queue.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Poison messages published.
    pub expected: usize,
    pub found: usize,
    /// Letters more than the broker may have got of their poison: a service
    /// ended, or lost its connection, between the confirm of the letter and
    /// the ack of its original.
    pub repeated: usize,
    pub differences: Vec<String>,
}

/// Compares; `sent` says how often each message may have reached the broker.
/// No letter may be repeated more often than `interruptions`.
pub(crate) fn judge(
    messages: &[Published],
    sent: &[u32],
    letters: &[Letter],
    interruptions: usize,
) -> Verdict {
    let mut verdict = Verdict {
        found: letters.len(),
        ..Verdict::default()
    };
    let mut found: HashMap<&[u8], usize> = HashMap::new();
    for letter in letters {
        *found.entry(&letter.body).or_default() += 1;
    }
    let mut reasons: HashMap<&[u8], &str> = HashMap::new();
    for (message, sent) in messages.iter().zip(sent) {
        let Kind::Poison(reason) = message.kind else {
            continue;
        };
        verdict.expected += 1;
        reasons.insert(&message.body, reason);
        let letters = found.get(&message.body[..]).copied().unwrap_or_default();
        let repeated = letters.saturating_sub(*sent as usize);
        verdict.repeated += repeated;
        if letters == 0 {
            let text = start_of(&message.body);
            verdict
                .differences
                .push(format!("poison ({reason}) was not dead-lettered: {text}"));
        } else if repeated > interruptions {
            let text = start_of(&message.body);
            verdict.differences.push(format!(
                "sent {sent} times at most, dead-lettered {letters} times: {text}"
            ));
        }
    }
    verdict
        .differences
        .extend(letters.iter().filter_map(|letter| {
            let (reason, error) = (letter.header("x-cc-reason"), letter.header("x-cc-error"));
            let text = start_of(&letter.body);
            match reasons.get(&letter.body[..]) {
                None => Some(format!(
                    "a good event was dead-lettered ({reason}: {error}, x-death {}): {text}",
                    letter.header("x-death")
                )),
                Some(expected) if *expected != reason => Some(format!(
                    "dead-lettered as {reason} instead of {expected}: {text}"
                )),
                Some(_) => None,
            }
        }));
    verdict
}

fn start_of(body: &[u8]) -> String {
    let start = &body[..body.len().min(120)];
    String::from_utf8_lossy(start).into_owned()
}
