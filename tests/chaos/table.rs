//! What is printed.

use std::collections::BTreeMap;

use super::plan::Kind;
use super::run::Outcome;

/// The head of the table of runs, and what it means.
pub(crate) fn head() {
    println!(
        "Faults are counted as killed/frozen/stopped of replicas and broker nodes, cut/stalled/slow \
         connections to bus and store, killed/frozen/stepped down of database primaries.\n\
         Copies are messages that the broker may have got again. Letters marked + were written \
         again by a service that was interrupted between confirm and ack. Rebuilds are counted as \
         finished/killed. Under replayed: letters of good events that were refused; their replays \
         finished/left by the caller/killed. Answers were given while faults happened: none older \
         than one given before it was asked for. Of the notifications on the bus the last about each \
         user, and user in a dialog, is compared.\n"
    );
    print!("{:>8} {:>7} {:>7}", "seed", "events", "copies");
    for (group, _) in Kind::GROUPS {
        print!(" {group:>8}");
    }
    println!(
        " {:>8} {:>13} {:>8} {:>10} {:>12} {:>9} {:>9} {:>9}  verdict",
        "rebuilt", "replayed", "ready s", "counted s", "letters", "answers", "notified", "counters"
    );
}

/// The row of a run.
pub(crate) fn row(seed: u64, outcome: &Outcome) {
    print!(
        "{seed:>8} {:>7} {:>7}",
        outcome.confirmed, outcome.duplicates
    );
    for (_, kinds) in Kind::GROUPS {
        let count = |kind| outcome.faults.get(kind).copied().unwrap_or_default();
        let counts: Vec<_> = kinds.iter().map(|kind| count(kind).to_string()).collect();
        print!(" {:>8}", counts.join("/"));
    }
    let (letters, replays) = (&outcome.letters, &outcome.replays);
    println!(
        " {:>8} {:>13} {:>8.1} {:>10.1} {:>12} {:>9} {:>9} {:>9}  {}",
        format!("{}/{}", outcome.rebuilds.finished, outcome.rebuilds.killed),
        format!(
            "{} {}/{}/{}",
            replays.letters, replays.finished, replays.left, replays.killed
        ),
        outcome.ready.as_secs_f64(),
        outcome.drained.as_secs_f64(),
        format!(
            "{}/{} +{}",
            letters.found, letters.expected, letters.repeated
        ),
        outcome.answers,
        outcome.notifications,
        outcome.compared,
        match outcome.differences.len() {
            0 if outcome.held > 0 => {
                format!("exact, once the broker let go of {}", outcome.held)
            }
            0 => "exact".to_owned(),
            count => format!("{count} DIFFERENCES"),
        }
    );
}

/// How often each kind of fault happened in all runs.
pub(crate) fn totals(faults: &BTreeMap<Kind, usize>) {
    println!();
    for (kind, count) in faults {
        println!("{count:>6}  {}", kind.text());
    }
    println!("{:>6}  faults in all", faults.values().sum::<usize>());
}
