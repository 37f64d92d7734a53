//! From answers to messages.

use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::Micros;
use crate::store::read::{DialogStats, HistoryEntry, MessageStats, UserDialogStats, UserStats};

use super::v1;

impl From<UserStats> for v1::UserStats {
    fn from(stats: UserStats) -> Self {
        Self {
            tenant_id: stats.tenant.to_string(),
            user_id: stats.user.to_string(),
            dialog_count: stats.dialogs,
            unread_dialogs_count: stats.unread_dialogs,
            total_unread_count: stats.unread,
            total_messages_count: stats.messages,
            unread_by_sender_type: stats.unread_by_sender_type,
            version: stats.version,
            updated_at: stats.updated_at.map(timestamp),
            as_of: None,
        }
    }
}

impl From<UserDialogStats> for v1::UserDialogStats {
    fn from(stats: UserDialogStats) -> Self {
        Self {
            tenant_id: stats.tenant.to_string(),
            user_id: stats.user.to_string(),
            dialog_id: stats.dialog.to_string(),
            member: stats.member,
            unread_count: stats.unread,
            unread_by_sender_type: stats.unread_by_sender_type,
            joined_at: stats.joined_at.map(timestamp),
            read_until: stats.read_until.map(timestamp),
            version: stats.version,
            updated_at: stats.updated_at.map(timestamp),
            as_of: None,
            last_message_at: stats.last_message_at.map(timestamp),
        }
    }
}

impl From<DialogStats> for v1::DialogStats {
    fn from(stats: DialogStats) -> Self {
        Self {
            tenant_id: stats.tenant.to_string(),
            dialog_id: stats.dialog.to_string(),
            message_count: stats.messages,
            member_count: stats.members,
            topic_count: stats.topics,
            last_message_at: stats.last_message_at.map(timestamp),
            version: stats.version,
            updated_at: stats.updated_at.map(timestamp),
            as_of: None,
        }
    }
}

impl From<MessageStats> for v1::MessageStats {
    fn from(stats: MessageStats) -> Self {
        Self {
            tenant_id: stats.tenant.to_string(),
            dialog_id: stats.dialog.map(|d| d.to_string()).unwrap_or_default(),
            message_id: stats.message.to_string(),
            status_counts: stats.statuses,
            reaction_counts: stats.reactions,
            read_count: stats.readers,
        }
    }
}

impl From<HistoryEntry> for v1::CounterHistoryEntry {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            source_event_id: entry.event.unwrap_or_default(),
            source_event_type: entry.kind,
            counter: entry.counter.to_string(),
            delta: entry.delta,
            old_value: entry.old,
            new_value: entry.old + entry.delta,
            actor_id: entry.actor.unwrap_or_default(),
            occurred_at: entry.occurred_at.map(timestamp),
            applied_at: entry.applied_at.map(timestamp),
            dialog_id: entry.dialog.unwrap_or_default(),
            reason: entry.reason.unwrap_or_default(),
        }
    }
}

/// Serializes a point in time as RFC 3339 has it.
pub(crate) fn time<S: serde::Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.collect_str(at),
        None => to.serialize_none(),
    }
}

/// Formats a point in time as RFC 3339 with no more digits than it needs;
/// `None` when there is none, or it is past the year 9999.
pub(crate) fn moment(at: Option<Timestamp>) -> Option<String> {
    let at = at?;
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    at.format(&Rfc3339).ok()
}

/// Serializes a point in time as [`moment`] formats it, `null` when there is
/// none.
pub(crate) fn moment_or_null<S: serde::Serializer>(
    at: &Option<Timestamp>,
    to: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&moment(*at), to)
}

/// Exact: both count from the epoch, and no [`Micros`] is before it.
fn timestamp(at: Micros) -> Timestamp {
    let micros = at.get();
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        // Below a billion: it fits.
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{MAX_MICROS, MessageId, TenantId};

    #[test]
    fn a_moment_is_shown_to_the_microsecond() {
        let at = |seconds, nanos| moment(Some(Timestamp { seconds, nanos }));
        assert_eq!(at(0, 0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(
            at(1_700_000_000, 123_456_000).as_deref(),
            Some("2023-11-14T22:13:20.123456Z")
        );
        assert_eq!(at(i64::MAX, 0), None);
        assert_eq!(moment(None), None);
    }

    #[test]
    fn times_keep_their_microseconds() {
        for (micros, seconds, nanos) in [
            (0, 0, 0),
            (1_763_551_369_397_648, 1_763_551_369, 397_648_000),
            (MAX_MICROS, 253_402_300_799, 999_999_000),
        ] {
            let expected = Timestamp { seconds, nanos };
            assert_eq!(timestamp(Micros::new(micros).unwrap()), expected);
        }
    }

    #[test]
    fn a_message_without_a_dialog_has_an_empty_dialog_id() {
        let stats = MessageStats {
            tenant: TenantId::new("t").unwrap(),
            message: MessageId::new("m").unwrap(),
            dialog: None,
            statuses: [("read".to_owned(), 1)].into(),
            reactions: Default::default(),
            readers: 3,
        };
        let message = v1::MessageStats::from(stats);
        assert_eq!(
            (message.dialog_id.as_str(), message.status_counts["read"]),
            ("", 1)
        );
        assert_eq!(message.read_count, 3);
    }
}
