//! How fast, and how small. To be run by hand, compiled for speed:
//!
//! ```text
//! cargo test --lib --config 'profile.dev.package.chat-counters.opt-level=3' \
//!     -- --ignored --nocapture serving::model::tests::measure
//! ```

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::{dialog, micros, tenant, user};
use crate::derive::state::DialogKey;
use crate::event::SenderType;
use crate::serving::model::{LoadEnd, LoadKeys, LoadedRows, Model};
use crate::store::commit_log::Cut;
use crate::store::commit_log::{ConsumedChanged, DialogChanged, DialogNow, Record, ShareChanged};
use crate::store::read::{
    Counts, DialogOrder, DialogRow, DialogsInOrder, DialogsOfUser, MembershipRow,
};
use crate::store::rebuild::fence::WriterId;

/// Users who are members of so many dialogs each; `shared`: of the same ones.
fn filled(users: usize, dialogs: usize, shared: bool) -> Model {
    filled_within(users, dialogs, shared).0
}

/// And how long it took to put in what was read.
fn filled_within(users: usize, dialogs: usize, shared: bool) -> (Model, Duration) {
    let mut model = Model::new(4 << 30);
    let mut taken = Duration::ZERO;
    for n in 0..users {
        let first = if shared { 0 } else { n * dialogs };
        let wanted = LoadKeys {
            users: vec![user(n)],
            dialogs: Vec::new(),
        };
        let counts = |count| Counts::from([("user".to_owned(), count), ("contact".to_owned(), 7)]);
        let rows = (first..first + dialogs).map(|d| MembershipRow {
            dialog: dialog(d),
            user: user(n),
            version: 3,
            member: true,
            joined_at: Some(micros(1)),
            read_until: Some(micros(2)),
            consumed: counts(5),
            sent: 2,
            updated_at: Some(micros(3)),
        });
        let row = |d| {
            let row = DialogRow {
                version: 9,
                messages: 12,
                members: 3,
                sequence: counts(if d % 5 == 0 { 6 } else { 5 }),
                ..DialogRow::default()
            };
            (dialog(d), row)
        };
        let loaded = LoadedRows {
            users: vec![(user(n), rows.collect())],
            dialogs: (first..first + dialogs).map(row).collect(),
        };
        let load = model.begin_load(&tenant(0), wanted);
        let before = Instant::now();
        let ended = model.end_load(load, &Cut::default(), loaded);
        taken += before.elapsed();
        assert_eq!(ended, LoadEnd::Complete);
    }
    (model, taken)
}

fn nanos(what: &str, times: usize, mut each: impl FnMut(usize)) {
    (0..times / 10).for_each(&mut each);
    let before = Instant::now();
    (0..times).for_each(&mut each);
    let nanos = before.elapsed().as_nanos() as usize / times;
    println!("{what:<60} {nanos:>9} ns");
}

/// Messages of a user who is not held, one in each of these dialogs.
fn message(dialogs: impl Iterator<Item = usize>, n: i64) -> Record {
    let sender_type = SenderType::new("user").unwrap();
    let by_type = |count| [(sender_type.clone(), count)].into_iter().collect();
    let dialogs = dialogs.map(|d| DialogChanged {
        key: DialogKey {
            tenant: tenant(0),
            dialog: dialog(d),
        },
        now: DialogNow {
            version: 10 + n,
            messages: 13 + n,
            sequence: by_type(6 + n),
            ..DialogNow::default()
        },
        shares: vec![ShareChanged {
            user: user(9_999_999),
            version: 1,
            sent: 1,
            consumed: ConsumedChanged::By(by_type(1)),
            facts: None,
        }],
    });
    Record {
        at: micros(n),
        events: 1,
        dialogs: dialogs.collect(),
        untold: Vec::new(),
    }
}

/// Each record has one message in each of the dialogs.
fn applied(what: &str, mut model: Model, dialogs: std::ops::Range<usize>, times: i64) {
    let writer = WriterId::unique();
    let records: Vec<Arc<Record>> = (1..=times)
        .map(|n| Arc::new(message(dialogs.clone(), n)))
        .collect();
    let mut cut = Cut::default();
    let before = Instant::now();
    for (n, record) in (1..).zip(records) {
        cut.raise(writer, n);
        assert!(model.advance(&cut, vec![(writer, n, record)]));
    }
    let messages = times as usize * dialogs.len();
    let nanos = before.elapsed().as_nanos() as usize / messages;
    println!("{what:<60} {nanos:>9} ns a message");
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
#[ignore = "measures"]
fn speed() {
    for dialogs in [50, 500, 5_000] {
        let mut model = filled(1, dialogs, false);
        let what = format!("user(), {dialogs} dialogs, one user");
        nanos(&what, 500_000, |_| {
            black_box(model.user(&tenant(0), &user(0)));
        });
    }
    let ids: Vec<_> = (0..10_000).map(user).collect();
    let of = tenant(0);
    let mut model = filled(10_000, 50, false);
    nanos("user(), 50 dialogs, 10,000 users in turn", 1_000_000, |n| {
        black_box(model.user(&of, &ids[n * 7919 % 10_000]));
    });
    let dialogs: Vec<_> = (0..500_000).map(dialog).collect();
    nanos("user_in_dialog(), of 500,000 shares", 1_000_000, |n| {
        let d = n * 7919 % 500_000;
        black_box(model.user_in_dialog(&of, &ids[d / 50], &dialogs[d]));
    });
    let mut model = filled(1, 5_000, false);
    for (what, unread_only) in [("all", false), ("unread", true)] {
        let query = DialogsOfUser {
            tenant: of.clone(),
            user: user(0),
            unread_only,
            after: Some(dialog(2_500)),
            limit: 50,
        };
        nanos(&format!("a page of 50 of 5,000, {what}"), 10_000, |_| {
            black_box(model.dialogs_of_user(&query));
        });
    }
    for unread_only in [false, true] {
        let query = DialogsInOrder {
            tenant: of.clone(),
            user: user(0),
            order: DialogOrder::LastMessage,
            unread_only,
            after: None,
            limit: 50,
        };
        let what = format!("the same, the latest first, unread only: {unread_only}");
        nanos(&what, 10_000, |_| {
            black_box(model.dialogs_in_order(&query));
        });
    }
    applied(
        "a record of one message, nobody held in it",
        filled(1_000, 50, false),
        70_000..70_001,
        50_000,
    );
    applied(
        "a record of 200 messages, nobody held in any",
        filled(1_000, 50, false),
        70_000..70_200,
        500,
    );
    applied(
        "a record of one message, 1 user held",
        filled(1_000, 50, false),
        0..1,
        50_000,
    );
    applied(
        "a record of 200 messages, 1 user held in each",
        filled(1_000, 50, false),
        0..200,
        500,
    );
    applied(
        "a record of one message, 100 users held",
        filled(100, 50, true),
        0..1,
        50_000,
    );
    applied(
        "a record of 50 messages, 100 users held in each",
        filled(100, 50, true),
        0..50,
        500,
    );
    let mut model = filled(1, 5_000, false);
    let user = model.entries.user(&of, &ids[0]).unwrap();
    let before = Instant::now();
    for n in 0..1_000 {
        let dialog = model.entries.add_dialog(&of, dialog(n * 5 + 1_000_000));
        model.entries.add_share(user, dialog);
    }
    println!(
        "one more share of 5,000: {} ns",
        before.elapsed().as_nanos() / 1_000
    );
}

#[test]
#[ignore = "measures"]
fn coming_and_going() {
    for dialogs in [50, 5_000] {
        let (mut model, put_in) = filled_within(100, dialogs, false);
        let put_in = put_in.as_micros() / 100;
        let before = Instant::now();
        (0..50).for_each(|_| assert!(model.entries.evict()));
        let evict = before.elapsed().as_micros() / 50;
        let before = Instant::now();
        model.forget_tenant(&tenant(0));
        let forgotten = before.elapsed().as_micros() / 50;
        println!(
            "a user of {dialogs} dialogs of their own: {put_in} µs to put in, \
             {evict} µs to let go, {forgotten} µs to forget with the tenant"
        );
    }
}

/// What is counted beside what the process takes, in the first line: later
/// ones take what was freed.
#[test]
#[ignore = "measures"]
fn size() {
    let of_one_process = [
        (20_000, 50, false),
        (100, 5_000, false),
        (1_000, 1_000, true),
    ];
    for (users, dialogs, shared) in of_one_process {
        let before = resident();
        let model = filled(users, dialogs, shared);
        let resident = resident() - before;
        let bytes = model.bytes();
        println!(
            "{users} users in {dialogs} dialogs, the same: {shared}: {} bytes a share, \
             {} MiB counted, {} MiB more resident",
            bytes / users / dialogs,
            bytes >> 20,
            resident >> 20,
        );
    }
}
