use super::*;
use crate::history::{PageRequest, TimelineBuilder};

fn id(id: &str) -> MessageId {
    MessageId::new(id).unwrap()
}

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn created(message: &str, sender: &str, at: i64) -> DialogEffect {
    DialogEffect::Created(Created {
        message: id(message),
        sender: user(sender),
        sender_type: SenderType::default(),
        at: Micros::new(at).unwrap(),
        system: false,
        had_placeholder: false,
        deleted_before_create: false,
    })
}

fn moved(before: Option<i64>, after: Option<i64>) -> DialogEffect {
    DialogEffect::WatermarkMoved {
        user: user("bob"),
        before: before.map(Watermark),
        after: after.map(Watermark),
    }
}

fn read(message: &str) -> DialogEffect {
    DialogEffect::Read {
        message: id(message),
        user: user("bob"),
    }
}

fn deleted(message: &str) -> DialogEffect {
    DialogEffect::Deleted {
        message: id(message),
        sender: Some(user("ann")),
    }
}

/// Bob's changes of one counter: the version (0 for a balance) and delta.
fn changes(
    before: StateBefore,
    effect: impl IntoIterator<Item = DialogEffect>,
    view: View,
    counter: Counter,
    served: i64,
) -> Vec<(i64, i64)> {
    let records = effect.into_iter().zip(7_i64..);
    let records = records.map(|(effect, version)| DialogRecord {
        version,
        at: version,
        effect,
    });
    let records: Vec<_> = records.collect();
    let mut timeline = TimelineBuilder::new(Some(counter.clone()));
    let served = Served::from([(counter, served)]);
    replay(
        &user("bob"),
        view,
        before,
        &records,
        &served,
        timeline.track("d"),
    );
    let timeline = timeline.finish();
    let all = PageRequest {
        limit: 100,
        ..PageRequest::default()
    };
    let (page, more) = timeline.page(&all);
    assert!(!more);
    page.iter()
        .map(|entry| (entry.change.version, entry.change.delta))
        .collect()
}

fn unread(
    before: StateBefore,
    effect: impl IntoIterator<Item = DialogEffect>,
    served: i64,
) -> Vec<(i64, i64)> {
    changes(before, effect, View::InDialog, Counter::Unread, served)
}

fn member() -> StateBefore {
    StateBefore {
        watermark: Some(Watermark(0)),
        ..StateBefore::default()
    }
}

#[test]
fn unread_rises_with_messages_of_others_after_the_mark() {
    let effect = [
        created("m1", "ann", 5),
        created("own", "bob", 6),
        moved(Some(0), Some(7)),
        created("late", "ann", 7),
        created("m2", "ann", 8),
    ];
    assert_eq!(unread(member(), effect, 1), [(7, 1), (9, -1), (11, 1)]);
}

#[test]
fn a_mark_that_moves_back_brings_messages_back_but_not_those_read_or_deleted() {
    let effect = [
        created("m1", "ann", 5),
        created("m2", "ann", 5),
        created("m3", "ann", 6),
        moved(Some(0), Some(9)),
        read("m1"),
        deleted("m3"),
        moved(Some(9), Some(4)),
        moved(Some(4), None),
        moved(None, Some(4)),
    ];
    let expected = [(7, 1), (8, 1), (9, 1), (10, -3), (13, 1), (14, -1), (15, 1)];
    assert_eq!(unread(member(), effect, 1), expected);
}

#[test]
fn what_was_before_makes_a_balance() {
    let message = |name: &str, at| (id(name), Micros::new(at).unwrap(), SenderType::default());
    let before = StateBefore {
        messages: vec![message("m1", 0), message("m2", 1), message("m3", 2)],
        read: HashSet::from([id("m4")]),
        ..member()
    };
    let mut known = created("m4", "ann", 3);
    if let DialogEffect::Created(created) = &mut known {
        created.had_placeholder = true;
    }
    let effect = [read("m2"), known, deleted("m3"), deleted("m1")];
    assert_eq!(unread(before, effect, 0), [(0, 2), (7, -1), (9, -1)]);
}

/// Found by `make torture`.
#[test]
fn a_system_message_that_was_read_is_not_opened_by_a_correction() {
    let standing = |system| CountingFacts {
        at: Micros::new(5).unwrap(),
        sender_type: SenderType::default(),
        system,
    };
    let corrected = || DialogEffect::Corrected {
        message: id("m"),
        sender: user("ann"),
        was: standing(true),
        is: standing(false),
    };
    assert_eq!(unread(member(), [corrected()], 1), [(7, 1)]);
    let before = StateBefore {
        closed: HashSet::from([id("m")]),
        ..member()
    };
    assert_eq!(unread(before, [corrected()], 0), []);
}

#[test]
fn the_end_of_the_dialog_is_the_end_of_its_history() {
    let effect = [
        created("m1", "ann", 5),
        DialogEffect::DialogDeleted,
        created("m2", "ann", 6),
        moved(Some(0), None),
    ];
    assert_eq!(unread(member(), effect.clone(), 0), [(7, 1), (8, -1)]);
    let gone = StateBefore {
        deleted: true,
        ..member()
    };
    assert_eq!(unread(gone, effect, 0), []);
}

#[test]
fn what_was_sent_outlives_the_dialog() {
    let own = |name: &str| created(name, "bob", 5);
    let gone = |name: &str| DialogEffect::Deleted {
        message: id(name),
        sender: Some(user("bob")),
    };
    let repaired = DialogEffect::Repaired(vec![
        super::Repair {
            user: Some(user("bob")),
            message: None,
            counter: "total_messages_count".into(),
            stored: Some(9),
            counted: Some(2),
        },
        super::Repair {
            user: Some(user("bob")),
            message: None,
            counter: "member".into(),
            stored: Some(0),
            counted: Some(1),
        },
    ]);
    let effect = || {
        [
            own("m1"),
            created("m2", "ann", 6),
            DialogEffect::DialogDeleted,
            own("m3"),
            gone("m1"),
            own("m4"),
            created("m5", "ann", 6),
            moved(Some(0), None),
            repaired.clone(),
        ]
    };
    let of = |before, counter, served| changes(before, effect(), View::Overall, counter, served);
    let sent = [(7, 1), (10, 1), (11, -1), (12, 1), (15, 7), (15, -7)];
    assert_eq!(of(member(), Counter::Sent, 2), sent);
    assert_eq!(of(member(), Counter::Dialogs, 0), [(0, 1), (9, -1)]);
    assert_eq!(of(member(), Counter::TotalUnread, 0), [(8, 1), (9, -1)]);
    // The end was before the first record.
    let ended = || StateBefore {
        sent: 4,
        deleted: true,
        ..StateBefore::default()
    };
    let effect = || [own("m3"), gone("m1"), created("m5", "ann", 6)];
    let of = |counter, served| changes(ended(), effect(), View::Overall, counter, served);
    assert_eq!(of(Counter::Sent, 4), [(0, 4), (7, 1), (8, -1)]);
    assert_eq!(of(Counter::TotalUnread, 0), []);
}

#[test]
fn what_is_served_but_not_explained_is_drift() {
    let last = i64::MAX;
    let effect = [created("m1", "ann", 5)];
    assert_eq!(unread(member(), effect, 4), [(7, 1), (last, 3)]);
    assert_eq!(unread(StateBefore::default(), [], 4), [(last, 4)]);
}

#[test]
fn a_repair_shows_what_it_found_and_undoes_it() {
    let repair = |user: Option<UserId>, counter: &str, stored, counted| super::Repair {
        user,
        message: None,
        counter: counter.into(),
        stored: Some(stored),
        counted: Some(counted),
    };
    let bob = || Some(user("bob"));
    let repairs = |repairs: Vec<Repair>| [created("m1", "ann", 5), DialogEffect::Repaired(repairs)];
    for (found, expected) in [
        // One unread too many in the sequence, three in Bob's share.
        (
            vec![
                repair(None, "sequence.user", 5, 4),
                repair(bob(), "consumed.user", 1, 3),
            ],
            vec![(7, 1), (8, 3), (8, -3)],
        ),
        // Never shown below 0.
        (
            vec![repair(bob(), "consumed.user", 9, 3)],
            vec![(7, 1), (8, -1), (8, 1)],
        ),
        // Another's.
        (
            vec![repair(Some(user("ann")), "consumed.user", 9, 3)],
            vec![(7, 1)],
        ),
        // A type that there is none of.
        (
            vec![repair(None, "sequence.bot", 2, 0)],
            vec![(7, 1), (8, 2), (8, -2)],
        ),
        // Someone not a member is shown nothing.
        (
            vec![repair(bob(), "member", 0, 1)],
            vec![(7, 1), (8, -1), (8, 1)],
        ),
    ] {
        assert_eq!(unread(member(), repairs(found), 1), expected);
    }
}

#[test]
fn over_all_dialogs_there_is_more_to_count() {
    let effect = || {
        [
            created("m1", "ann", 5),
            created("m2", "ann", 6),
            created("own", "bob", 7),
            moved(Some(0), None),
            DialogEffect::Deleted {
                message: id("own"),
                sender: Some(user("bob")),
            },
        ]
    };
    let before = || StateBefore {
        sent: 2,
        ..member()
    };
    let of = |counter, served| changes(before(), effect(), View::Overall, counter, served);
    assert_eq!(of(Counter::TotalUnread, 0), [(7, 1), (8, 1), (10, -2)]);
    assert_eq!(of(Counter::UnreadDialogs, 0), [(7, 1), (10, -1)]);
    assert_eq!(of(Counter::Dialogs, 0), [(0, 1), (10, -1)]);
    assert_eq!(of(Counter::Sent, 2), [(0, 2), (9, 1), (11, -1)]);
    let records: Vec<_> = effect()
        .into_iter()
        .map(|effect| DialogRecord {
            version: 1,
            at: 1,
            effect,
        })
        .collect();
    assert_eq!(sent_before(&user("bob"), 2, &records), 2);
    assert_eq!(sent_before(&user("ann"), 2, &records), 0);
    assert_eq!(
        lowest_watermark(&user("bob"), Some(Watermark(0)), &records),
        Some(Watermark(0))
    );
    assert_eq!(lowest_watermark(&user("ann"), None, &records), None);
}
