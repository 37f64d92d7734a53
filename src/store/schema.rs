//! The documents in MongoDB: collections, field names, indexes.
//!
//! Every `_id` is a document of the parts of the key in a fixed order, so that
//! no two keys collide whatever characters an id has, keys of one parent stand
//! together in the `_id` index, and a person can read them. Times of events are
//! int64 microseconds since the epoch; times of writing are BSON dates. Counts
//! are int64. A by-type vector is a document from the escaped type name
//! ([`escape`]) to a count.
//!
//! | collection | `_id` | holds |
//! | --- | --- | --- |
//! | `dialogs` | `t, d` | the dialog's counters; its `version` guards all below it |
//! | `memberships` | `t, d, u` | one user's share of a dialog, member or not |
//! | `messages` | `t, m` | the facts of a message and its counters |
//! | `receipts` | `t, m, s, u` | user reached status (nothing but the key) |
//! | `reactions` | `t, m, r, u` | a user's latest word on a reaction |
//! | `topics` | `t, d, topic` | a topic exists (nothing but the key) |
//! | `users` | `t, u` | the type learnt of a user |
//! | `journal` | `t, e` | every counter event that was taken, once |
//! | `meta` | a name | which [generation](super::rebuild::generation) counts, the rebuild under way, who is at the dead letters, who publishes notifications and how far they are, that writes are taken |
//! | `writers` | a random id | a writer, the epoch in which it may write ([`super::rebuild::fence`]), and how many commits it has made |
//! | `commits` | `w, n` | what a writer's nth commit changed ([`super::commits`]) |
//! | `dead_letters` | a digest | a letter of the dead-letter queue ([`super::letters`]) |
//! | `discarded_letters` | a digest | a letter that was discarded |
//! | `unsent_letters` | time and a random id | a letter that waits until the broker takes it |
//! | `dead_letter_jobs` | time and a random id | who did what about which letters |
//!
//! After a rebuild, all before `journal` have the number of their generation
//! behind their names: `dialogs_1`.
//!
//! `t` tenant, `d` dialog, `u` user, `m` message, `s` status, `r` reaction,
//! `e` event.

/// Names of the collections.
pub mod collection {
    /// Counters of dialogs.
    pub const DIALOGS: &str = "dialogs";
    /// Users' shares of dialogs.
    pub const MEMBERSHIPS: &str = "memberships";
    /// Facts and counters of messages.
    pub const MESSAGES: &str = "messages";
    /// Statuses reached.
    pub const RECEIPTS: &str = "receipts";
    /// Words on reactions.
    pub const REACTIONS: &str = "reactions";
    /// Topics.
    pub const TOPICS: &str = "topics";
    /// Learnt types of users.
    pub const USERS: &str = "users";
    /// Taken events.
    pub const JOURNAL: &str = "journal";
    /// Which generation counts, and the rebuild under way.
    pub const META: &str = "meta";
    /// Who writes, and whether they may.
    pub const WRITERS: &str = "writers";
    /// What each commit changed.
    pub const COMMITS: &str = "commits";
    /// What the dead-letter queue holds.
    pub const DEAD_LETTERS: &str = "dead_letters";
    /// Letters that were discarded.
    pub const DISCARDED_LETTERS: &str = "discarded_letters";
    /// Letters that wait until the broker takes them.
    pub const UNSENT_LETTERS: &str = "unsent_letters";
    /// The record of what was done about dead letters.
    pub const DEAD_LETTER_JOBS: &str = "dead_letter_jobs";

    /// Those that each generation has of its own: all that is made from the
    /// journal.
    pub const COUNTED: [&str; 7] = [
        DIALOGS,
        MEMBERSHIPS,
        MESSAGES,
        RECEIPTS,
        REACTIONS,
        TOPICS,
        USERS,
    ];
}

/// Fields of `dialogs`. Never deleted, so that `version` never starts over.
pub mod dialog {
    /// int64, +1 for every event that changed anything about the dialog, its
    /// memberships or its messages. Each commit names the one it derived from.
    pub const VERSION: &str = "version";
    /// int64: messages created and not deleted, `system.*` included.
    pub const MESSAGES: &str = "messages";
    /// int64: members now.
    pub const MEMBERS: &str = "members";
    /// int64: distinct topics.
    pub const TOPICS: &str = "topics";
    /// By-type vector: countable messages; minus a member's `consumed` it is
    /// the member's unread.
    pub const SEQUENCE: &str = "sequence";
    /// Micros of the latest message counted in `messages`; absent without one.
    pub const LAST_MESSAGE_AT: &str = "last_message_at";
    /// Micros: no membership's `mark` was ever above it; absent before any.
    pub const HIGH_MARK: &str = "high_mark";
    /// `true` once the dialog was deleted: readers then see zeros throughout.
    /// The other fields go on being kept. Absent otherwise.
    pub const DELETED: &str = "deleted";
    /// Date of the last write.
    pub const UPDATED_AT: &str = "updated_at";
}

/// Fields of `memberships`. Exists also for someone who only sent or read.
pub mod membership {
    /// int64, +1 for every change of this document's meaning.
    pub const VERSION: &str = "version";
    /// bool: a member now. Absent means `false`.
    pub const MEMBER: &str = "member";
    /// Micros: join time of the earliest add after the latest remove; present
    /// exactly for members.
    pub const JOINED_AT: &str = "joined_at";
    /// Micros: the latest bulk read; absent before any.
    pub const READ_UNTIL: &str = "read_until";
    /// Micros: max(`read_until`, `joined_at` - 1); messages at or before it are
    /// not unread. Present exactly for members. Can be -1.
    pub const MARK: &str = "mark";
    /// By-type vector: how much of the dialog's `sequence` is not unread.
    /// Meaningful for members only.
    pub const CONSUMED: &str = "consumed";
    /// int64: messages sent and not deleted, `system.*` included.
    pub const SENT: &str = "sent";
    /// Array of `{at, event, joined_at}`: every add after the latest remove.
    pub const ADDS: &str = "adds";
    /// `{at, event}` of the latest remove.
    pub const REMOVED: &str = "removed";
    /// Date of the last write.
    pub const UPDATED_AT: &str = "updated_at";
}

/// Fields of `messages`. A document without `d` is a placeholder: something
/// was said about a message whose create is not known yet.
pub mod message {
    /// The dialog, once created.
    pub const DIALOG: &str = "d";
    /// Micros: message time.
    pub const AT: &str = "at";
    /// Sender's user id.
    pub const SENDER: &str = "sender";
    /// Sender's type.
    pub const TYPE: &str = "type";
    /// [`STATED_TIME`](super::STATED_TIME) and
    /// [`STATED_TYPE`](super::STATED_TYPE), added up; absent for 0.
    pub const STATED: &str = "stated";
    /// `{at, event}` of the create that the facts are from. Absent where it was
    /// recorded under [`RULES`](crate::store::rebuild::generation::RULES) 1.
    pub const BY: &str = "by";
    /// `{at, event}` of the create that `at` is from, where it is another one.
    pub const AT_BY: &str = "at_by";
    /// `{at, event}` of the create that `type` is from, where it is another one.
    pub const TYPE_BY: &str = "type_by";
    /// `true` for `system.*`; else absent.
    pub const SYSTEM: &str = "system";
    /// `true` once deleted; else absent.
    pub const DELETED: &str = "deleted";
    /// Document from status name to int64: users who reached it.
    pub const STATUSES: &str = "statuses";
    /// Document from escaped reaction to int64: users whose word is "set".
    /// Zeros are possible.
    pub const REACTIONS: &str = "reactions";
    /// int64, +1 for every change of a placeholder, its create included.
    pub const VERSION: &str = "version";
}

/// The create states the message's time itself.
pub const STATED_TIME: i32 = 1;
/// The create states the sender's type itself.
pub const STATED_TYPE: i32 = 2;

/// Escapes a name for use as a field name and in an update path: `.`, `$` and
/// `%` become `%2E`, `%24`, `%25`, so that it is never taken for a path or an
/// operator, and no two names meet.
pub fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '%' => out.push_str("%25"),
            '.' => out.push_str("%2E"),
            '$' => out.push_str("%24"),
            c => out.push(c),
        }
    }
    out
}

/// The inverse of [`escape`].
pub fn unescape(field: &str) -> String {
    field
        .replace("%2E", ".")
        .replace("%24", "$")
        .replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_reversible_and_leaves_no_path_characters() {
        for name in [
            "user", "a.b", "$inc", "%2E", "%", "%252E", "👍.$%", "a%24.$",
        ] {
            let field = escape(name);
            assert!(!field.contains(['.', '$']), "{field}");
            assert_eq!(unescape(&field), name);
        }
    }
}
