//! Points between delivery and ack, of watching, of notifications, of a rebuild and of a job on dead
//! letters, at which a test can have the process die.
//!
//! `CHAT_COUNTERS_FAILPOINT=NAME` or `NAME:N` aborts the process when it passes
//! the point for the first or the N-th time, `event:ID` each time that it is
//! about to count that event. Debug builds only: in a release build `pass` and
//! `meet` are nothing, and `armed` refuses the variable.

/// The environment variable that arms a failpoint.
pub const VARIABLE: &str = "CHAT_COUNTERS_FAILPOINT";

/// A step that has just been made, or is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// An event arrived, and nothing else has happened.
    Delivered,
    /// The event was decoded.
    Decoded,
    /// The effects of its batch are known.
    Derived,
    /// The batch's transaction has begun, with nothing written.
    TransactionBegun,
    /// The batch is written, and its transaction not committed.
    BeforeCommit,
    /// The batch is committed, and nothing in this process knows.
    AfterCommit,
    /// The broker is next to be told.
    BeforeAck,
    /// The broker was told of the acknowledgement.
    AfterAck,
    /// A dead letter is next to be published.
    BeforeLetter,
    /// A dead letter is confirmed, and its original not acknowledged.
    AfterLetter,
    /// A dead letter is in the index, and its original not acknowledged.
    AfterIndexed,
    /// A dead letter is kept in the database until the broker takes it, and its
    /// original not acknowledged.
    Kept,
    /// A kept dead letter is confirmed, not in the index yet, and still in the
    /// database.
    KeptSent,
    /// A kept dead letter is in the index, and still in the database.
    KeptIndexed,
    /// A job on dead letters has selected them.
    Selected,
    /// A job's action on some letters is durable, and they are still where it found them.
    /// Of a replay or a discard: the event is confirmed or the letter stored, the letter is
    /// still in the queue. Of an undiscard: the letter is back in the queue, and still among
    /// those that are discarded.
    Acted,
    /// The index has noted what a job did to letters that are still where it found them: in
    /// the queue, or, of an undiscard, among those that are discarded.
    Marked,
    /// A job's letters are gone from where it found them. Of a replay or a discard: they are
    /// out of the queue, and the index does not know. Of an undiscard: they are no longer
    /// among those that are discarded, and nothing is left to do about them.
    Removed,
    /// A job has nothing left to do, and its record does not say so.
    AllDone,
    /// A commit was passed to the followers in its process, and is in no read
    /// model yet.
    Fed,
    /// The read model is at a commit, and no stream knows.
    Moved,
    /// A stream's message is taken from the read model, and not sent.
    Given,
    /// The commits to notify of are known, and nothing is published.
    NotifyTaken,
    /// The counters to notify of are read, and not published.
    NotifyRead,
    /// A notification was sent, and is not confirmed.
    NotifySent,
    /// The broker has confirmed all notifications, and the cursor is where it was.
    NotifyConfirmed,
    /// The cursor is behind them.
    NotifySaved,
    /// A rebuild has replayed and noted a stretch of the journal.
    Replayed,
    /// A rebuild has followed a stretch of the journal's change stream.
    Followed,
    /// A rebuild keeps all writers out.
    Fenced,
    /// Readers see what a rebuild made, and the old collections are still
    /// there.
    SwitchedOver,
}

impl Point {
    /// The points of a delivery, in the order in which an event passes them.
    pub const DELIVERY: [Point; 11] = [
        Point::Delivered,
        Point::Decoded,
        Point::Derived,
        Point::TransactionBegun,
        Point::BeforeCommit,
        Point::AfterCommit,
        Point::BeforeAck,
        Point::AfterAck,
        Point::BeforeLetter,
        Point::AfterLetter,
        Point::AfterIndexed,
    ];

    /// The points of a letter that waits until the broker takes it.
    pub const WAITING: [Point; 3] = [Point::Kept, Point::KeptSent, Point::KeptIndexed];

    /// The points of a job on dead letters, in their order.
    pub const JOB: [Point; 5] = [
        Point::Selected,
        Point::Acted,
        Point::Marked,
        Point::Removed,
        Point::AllDone,
    ];

    /// The points between a commit and whoever watches, in their order.
    pub const WATCHING: [Point; 4] = [Point::AfterCommit, Point::Fed, Point::Moved, Point::Given];

    /// The points between a commit and the cursor of notifications, in their
    /// order.
    pub const NOTIFYING: [Point; 6] = [
        Point::AfterCommit,
        Point::NotifyTaken,
        Point::NotifyRead,
        Point::NotifySent,
        Point::NotifyConfirmed,
        Point::NotifySaved,
    ];

    /// The points of a rebuild, in their order.
    pub const REBUILD: [Point; 4] = [
        Point::Replayed,
        Point::Followed,
        Point::Fenced,
        Point::SwitchedOver,
    ];

    fn all() -> impl Iterator<Item = Point> {
        let delivery = Self::DELIVERY.into_iter();
        let delivery = delivery.chain(Self::WAITING);
        let of_jobs = Self::JOB.into_iter().chain(Self::REBUILD);
        let told = Self::WATCHING.into_iter().chain(Self::NOTIFYING);
        delivery.chain(of_jobs).chain(told)
    }

    /// Returns the point's name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Point::Delivered => "delivered",
            Point::Decoded => "decoded",
            Point::Derived => "derived",
            Point::TransactionBegun => "transaction_begun",
            Point::BeforeCommit => "before_commit",
            Point::AfterCommit => "after_commit",
            Point::BeforeAck => "before_ack",
            Point::AfterAck => "after_ack",
            Point::BeforeLetter => "before_letter",
            Point::AfterLetter => "after_letter",
            Point::AfterIndexed => "after_indexed",
            Point::Kept => "kept",
            Point::KeptSent => "kept_sent",
            Point::KeptIndexed => "kept_indexed",
            Point::Selected => "selected",
            Point::Acted => "acted",
            Point::Marked => "marked",
            Point::Removed => "removed",
            Point::AllDone => "all_done",
            Point::Fed => "fed",
            Point::Moved => "moved",
            Point::Given => "given",
            Point::NotifyTaken => "notify_taken",
            Point::NotifyRead => "notify_read",
            Point::NotifySent => "notify_sent",
            Point::NotifyConfirmed => "notify_confirmed",
            Point::NotifySaved => "notify_saved",
            Point::Replayed => "replayed",
            Point::Followed => "followed",
            Point::Fenced => "fenced",
            Point::SwitchedOver => "switched_over",
        }
    }
}

/// Checks the variable, at the start.
///
/// # Errors
/// In words, when it names no point, or this build has none.
pub(crate) fn armed() -> Result<(), String> {
    let Ok(value) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    if !cfg!(debug_assertions) {
        return Err(format!(
            "{VARIABLE} is set, and this build has no failpoints: unset it"
        ));
    }
    parsed(&value).map(drop)
}

/// When the process is to die.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trap {
    /// When the point is passed for the n-th time.
    Pass(Point, u64),
    /// When the event with this id is about to be counted.
    Event(String),
}

fn parsed(value: &str) -> Result<Trap, String> {
    match value.strip_prefix("event:") {
        Some(event) if !event.is_empty() => return Ok(Trap::Event(event.to_owned())),
        _ => {}
    }
    let (name, rest) = value.split_once(':').unwrap_or((value, "1"));
    let point = Point::all().find(|point| point.name() == name);
    match (point, rest.parse()) {
        (Some(point), Ok(count @ 1..)) => Ok(Trap::Pass(point, count)),
        _ => {
            let names: Vec<_> = Point::all().map(Point::name).collect();
            let names = names.join(", ");
            Err(format!(
                "{VARIABLE}: expected one of {names}, perhaps with :N, or event:ID; found {value:?}"
            ))
        }
    }
}

#[cfg(debug_assertions)]
static ARMED: std::sync::LazyLock<Option<Trap>> =
    std::sync::LazyLock::new(|| parsed(&std::env::var(VARIABLE).ok()?).ok());

/// Aborts the process if this point is armed.
#[cfg(debug_assertions)]
pub(crate) fn pass(point: Point) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);

    if let Some(Trap::Pass(armed, at)) = &*ARMED
        && *armed == point
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at
    {
        std::process::abort();
    }
}

/// Aborts the process if this event is armed.
#[cfg(debug_assertions)]
pub(crate) fn meet(event: &str) {
    if matches!(&*ARMED, Some(Trap::Event(armed)) if armed == event) {
        std::process::abort();
    }
}

/// Does nothing: release builds have no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn pass(_: Point) {}

/// Does nothing: release builds have no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn meet(_: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_armed_by_name_and_number() {
        for point in Point::all() {
            assert_eq!(parsed(point.name()), Ok(Trap::Pass(point, 1)));
            let seventh = format!("{}:7", point.name());
            assert_eq!(parsed(&seventh), Ok(Trap::Pass(point, 7)));
        }
        assert_eq!(parsed("event:a:1"), Ok(Trap::Event("a:1".into())));
        for wrong in [
            "",
            "nowhere",
            "event",
            "event:",
            "decoded:0",
            "decoded:x",
            "decoded:",
        ] {
            let refused = parsed(wrong).unwrap_err();
            assert!(refused.contains("before_commit"), "{refused}");
        }
    }
}
