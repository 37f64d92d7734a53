//! Names of the collections.

/// The counters of each dialog.
pub(crate) const DIALOGS: &str = "dialogs";
/// What each user has of a dialog.
pub(crate) const MEMBERSHIPS: &str = "memberships";
/// Facts and counters of messages.
pub(crate) const MESSAGES: &str = "messages";
/// Which users reached which status for a message.
pub(crate) const RECEIPTS: &str = "receipts";
/// What users last said of a reaction to a message.
pub(crate) const REACTIONS: &str = "reactions";
/// The topics that a dialog has.
pub(crate) const TOPICS: &str = "topics";
/// The types that were learnt of users.
pub(crate) const USERS: &str = "users";
/// The record of every event that was taken.
pub(crate) const JOURNAL: &str = "journal";
/// Which generation counts, and the rebuild under way.
pub(crate) const META: &str = "meta";
/// Who writes, and whether they may.
pub(crate) const WRITERS: &str = "writers";
/// What each commit changed of what readers see.
pub(crate) const COMMITS: &str = "commits";
/// What the dead-letter queue holds.
pub(crate) const DEAD_LETTERS: &str = "dead_letters";
/// The dead letters that were discarded.
pub(crate) const DISCARDED_LETTERS: &str = "discarded_letters";
/// Letters that wait until the broker takes them.
pub(crate) const UNSENT_LETTERS: &str = "unsent_letters";
/// The record of what was done about dead letters.
pub(crate) const DEAD_LETTER_JOBS: &str = "dead_letter_jobs";

/// Those that each generation has of its own: all that is made from the
/// journal.
pub(crate) const COUNTED: [&str; 7] = [
    DIALOGS,
    MEMBERSHIPS,
    MESSAGES,
    RECEIPTS,
    REACTIONS,
    TOPICS,
    USERS,
];
