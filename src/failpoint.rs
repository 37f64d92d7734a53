//! Points between delivery and ack, and of a rebuild, at which a test can have
//! the process die.
//!
//! `CHAT_COUNTERS_FAILPOINT=NAME` or `NAME:N` aborts the process when it passes
//! the point for the first or the N-th time. Debug builds only: in a release
//! build [`pass`] is nothing, and [`armed`] refuses the variable.

/// The environment variable.
pub const VARIABLE: &str = "CHAT_COUNTERS_FAILPOINT";

/// A step that has just been made, or is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// An event arrived, and nothing else has happened.
    Delivered,
    /// It was understood.
    Decoded,
    /// The effects of its batch are known.
    Derived,
    /// The batch's transaction has begun, with nothing written.
    TransactionBegun,
    /// All of the batch is written, and not committed.
    BeforeCommit,
    /// It is committed, and nobody knows.
    AfterCommit,
    /// The broker is next to be told.
    BeforeAck,
    /// The broker was told.
    AfterAck,
    /// A dead letter is next to be published.
    BeforeLetter,
    /// It is confirmed, and its original not acknowledged.
    AfterLetter,
    /// A rebuild has replayed and noted a stretch of the journal.
    Replayed,
    /// It has followed one.
    Followed,
    /// It keeps all writers out.
    Fenced,
    /// Readers see what it made, and nobody has tidied up.
    SwitchedOver,
}

impl Point {
    /// Those of a delivery, in the order in which an event passes them.
    pub const DELIVERY: [Point; 10] = [
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
    ];

    /// Those of a rebuild, in their order.
    pub const REBUILD: [Point; 4] = [
        Point::Replayed,
        Point::Followed,
        Point::Fenced,
        Point::SwitchedOver,
    ];

    fn all() -> impl Iterator<Item = Point> {
        Self::DELIVERY.into_iter().chain(Self::REBUILD)
    }

    /// Its name in the variable.
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
pub fn armed() -> Result<(), String> {
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

/// The point, and at which pass of it to die.
fn parsed(value: &str) -> Result<(Point, u64), String> {
    let (name, count) = value.split_once(':').unwrap_or((value, "1"));
    let point = Point::all().find(|point| point.name() == name);
    match (point, count.parse()) {
        (Some(point), Ok(count @ 1..)) => Ok((point, count)),
        _ => {
            let names: Vec<_> = Point::all().map(Point::name).collect();
            let names = names.join(", ");
            Err(format!(
                "{VARIABLE}: expected one of {names}, perhaps with :N; found {value:?}"
            ))
        }
    }
}

/// Dies here, if that is asked for.
#[cfg(debug_assertions)]
pub fn pass(point: Point) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: LazyLock<Option<(Point, u64)>> =
        LazyLock::new(|| parsed(&std::env::var(VARIABLE).ok()?).ok());
    static PASSED: AtomicU64 = AtomicU64::new(0);

    if let Some((armed, at)) = *ARMED
        && armed == point
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == at
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn pass(_: Point) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_armed_by_name_and_number() {
        for point in Point::all() {
            assert_eq!(parsed(point.name()), Ok((point, 1)));
            assert_eq!(parsed(&format!("{}:7", point.name())), Ok((point, 7)));
        }
        for wrong in ["", "nowhere", "decoded:0", "decoded:x", "decoded:"] {
            let refused = parsed(wrong).unwrap_err();
            assert!(refused.contains("before_commit"), "{refused}");
        }
    }
}
