//! What a read answers, and the arithmetic from documents to it. Pure.

use crate::event::{DialogId, MessageId, Micros, TenantId, UserId};

use super::rows::{Counts, DialogRow, MembershipRow, MessageRow};

/// The counters of one user over all their dialogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStats {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The user whose counters they are.
    pub user: UserId,
    /// Dialogs that the user is a member of.
    pub dialogs: i64,
    /// Those of them with something unread.
    pub unread_dialogs: i64,
    /// Messages unread in all of them.
    pub unread: i64,
    /// Messages sent and not deleted, member or not, whether or not their
    /// dialog was deleted since.
    pub messages: i64,
    /// `unread`, split by the senders' types.
    pub unread_by_sender_type: Counts,
    /// Sum of the versions of all that the numbers come from. Never goes down.
    pub version: i64,
    /// Latest write of what the numbers come from.
    pub updated_at: Option<Micros>,
}

/// The counters of one user in one dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDialogStats {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The user whose counters they are.
    pub user: UserId,
    /// The dialog that they are counted in.
    pub dialog: DialogId,
    /// A member of a dialog that was not deleted.
    pub member: bool,
    /// The number of messages that the user has not read.
    pub unread: i64,
    /// `unread`, split by the senders' types.
    pub unread_by_sender_type: Counts,
    /// Time of the dialog's latest message; members only.
    pub last_message_at: Option<Micros>,
    /// Since when messages can be unread; members only.
    pub joined_at: Option<Micros>,
    /// The time up to which the user has read in bulk.
    pub read_until: Option<Micros>,
    /// Sum of the versions of both documents. Never goes down.
    pub version: i64,
    /// Latest write of either document.
    pub updated_at: Option<Micros>,
}

/// The counters of one dialog; zeros once it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialogStats {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The dialog that they are counted in.
    pub dialog: DialogId,
    /// Messages created and not deleted.
    pub messages: i64,
    /// The number of members now.
    pub members: i64,
    /// The number of distinct topics.
    pub topics: i64,
    /// Time of the latest message.
    pub last_message_at: Option<Micros>,
    /// The version of the dialog, which never goes down.
    pub version: i64,
    /// The time of the latest write of the dialog.
    pub updated_at: Option<Micros>,
}

/// The counters of one message; empty once it, or its dialog, was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageStats {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The message whose counters they are.
    pub message: MessageId,
    /// `None` before the message's create is known.
    pub dialog: Option<DialogId>,
    /// Users who reached each status.
    pub statuses: Counts,
    /// Users who have set each reaction.
    pub reactions: Counts,
    /// Members now, other than the sender, who have read it, one by one or in
    /// bulk, and who joined at or before its time. Not kept: counted for each
    /// answer to [`super::Messages`], and 0 elsewhere.
    pub readers: i64,
}

impl UserStats {
    pub(crate) fn nothing(tenant: &TenantId, user: &UserId) -> Self {
        Self {
            tenant: tenant.clone(),
            user: user.clone(),
            dialogs: 0,
            unread_dialogs: 0,
            unread: 0,
            messages: 0,
            unread_by_sender_type: Counts::new(),
            version: 0,
            updated_at: None,
        }
    }

    /// Adds the user's share of one dialog.
    pub(crate) fn add(&mut self, share: &MembershipRow, dialog: Option<&DialogRow>) {
        let pair =
            UserDialogStats::of(&self.tenant, &self.user, &share.dialog, Some(share), dialog);
        self.version = self.version.saturating_add(pair.version);
        self.updated_at = self.updated_at.max(pair.updated_at);
        // What was sent stays sent when the dialog ends.
        let sent = non_negative(share.sent, "messages sent", &pair);
        self.messages = self.messages.saturating_add(sent);
        self.dialogs += i64::from(pair.member);
        self.unread_dialogs += i64::from(pair.unread > 0);
        self.unread = self.unread.saturating_add(pair.unread);
        for (sender_type, unread) in pair.unread_by_sender_type {
            let sum = self.unread_by_sender_type.entry(sender_type).or_default();
            *sum = sum.saturating_add(unread);
        }
    }
}

impl UserDialogStats {
    /// What the two documents say together; either may not exist.
    pub(crate) fn of(
        tenant: &TenantId,
        user: &UserId,
        dialog_id: &DialogId,
        share: Option<&MembershipRow>,
        dialog: Option<&DialogRow>,
    ) -> Self {
        let deleted = dialog.is_some_and(|d| d.deleted);
        let member = share.is_some_and(|s| s.member) && !deleted;
        let mut stats = Self {
            tenant: tenant.clone(),
            user: user.clone(),
            dialog: dialog_id.clone(),
            member,
            unread: 0,
            unread_by_sender_type: Counts::new(),
            last_message_at: dialog.and_then(|d| d.last_message_at).filter(|_| member),
            joined_at: share.and_then(|s| s.joined_at).filter(|_| member),
            read_until: share.and_then(|s| s.read_until),
            version: dialog
                .map_or(0, |d| d.version)
                .saturating_add(share.map_or(0, |s| s.version)),
            updated_at: dialog
                .and_then(|d| d.updated_at)
                .max(share.and_then(|s| s.updated_at)),
        };
        if let Some(share) = share.filter(|_| member) {
            stats.subtract(share, dialog);
        }
        stats
    }

    /// unread = sequence - consumed, for each type.
    fn subtract(&mut self, share: &MembershipRow, dialog: Option<&DialogRow>) {
        let mut unread = dialog.map(|d| d.sequence.clone()).unwrap_or_default();
        for (sender_type, consumed) in &share.consumed {
            let count = unread.entry(sender_type.clone()).or_default();
            *count = count.saturating_sub(*consumed);
        }
        for count in unread.values_mut() {
            *count = non_negative(*count, "unread messages", self);
        }
        unread.retain(|_, count| *count > 0);
        self.unread = unread.values().sum();
        self.unread_by_sender_type = unread;
    }
}

impl DialogStats {
    /// What the document says; it may not exist.
    pub(crate) fn of(tenant: &TenantId, dialog: &DialogId, row: Option<&DialogRow>) -> Self {
        let live = row.filter(|d| !d.deleted);
        let count = |what, of: fn(&DialogRow) -> i64| {
            let count = live.map_or(0, of);
            if count < 0 {
                tracing::error!(%tenant, %dialog, count, "a negative count of {what}: shown as 0");
            }
            count.max(0)
        };
        Self {
            tenant: tenant.clone(),
            dialog: dialog.clone(),
            messages: count("messages", |d| d.messages),
            members: count("members", |d| d.members),
            topics: count("topics", |d| d.topics),
            last_message_at: live.and_then(|d| d.last_message_at),
            version: row.map_or(0, |d| d.version),
            updated_at: row.and_then(|d| d.updated_at),
        }
    }
}

impl MessageStats {
    /// What the document says, and whether its dialog was deleted.
    pub(super) fn of(
        tenant: &TenantId,
        message: &MessageId,
        row: Option<&MessageRow>,
        dialog_deleted: bool,
    ) -> Self {
        let live = row.filter(|m| !m.deleted && !dialog_deleted);
        let counts = |of: fn(&MessageRow) -> &Counts| {
            let mut counts = live.map(of).cloned().unwrap_or_default();
            for (name, &count) in counts.iter().filter(|(_, count)| **count < 0) {
                tracing::error!(%tenant, %message, name, count, "a negative count of a message: shown as 0");
            }
            counts.retain(|_, count| *count > 0);
            counts
        };
        Self {
            tenant: tenant.clone(),
            message: message.clone(),
            dialog: row.and_then(|m| m.dialog.clone()),
            statuses: counts(|m| &m.statuses),
            reactions: counts(|m| &m.reactions),
            readers: 0,
        }
    }
}

/// A negative count contradicts how counters are kept: never shown, always
/// reported.
fn non_negative(count: i64, what: &'static str, at: &UserDialogStats) -> i64 {
    if count < 0 {
        let UserDialogStats {
            tenant,
            user,
            dialog,
            ..
        } = at;
        tracing::error!(%tenant, %user, %dialog, count, "a negative count of {what}: shown as 0");
    }
    count.max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn user() -> UserId {
        UserId::new("u").unwrap()
    }

    fn counts(counts: &[(&str, i64)]) -> Counts {
        counts.iter().map(|(k, v)| (k.to_string(), *v)).collect()
    }

    fn micros(at: i64) -> Option<Micros> {
        Micros::new(at)
    }

    fn dialog(sequence: &[(&str, i64)]) -> DialogRow {
        DialogRow {
            version: 10,
            messages: 9,
            members: 3,
            topics: 2,
            sequence: counts(sequence),
            last_message_at: micros(77),
            deleted: false,
            updated_at: micros(5_000),
        }
    }

    fn share(member: bool, consumed: &[(&str, i64)]) -> MembershipRow {
        MembershipRow {
            dialog: DialogId::new("d").unwrap(),
            user: user(),
            version: 4,
            member,
            joined_at: member.then(|| micros(3)).flatten(),
            read_until: micros(9),
            consumed: counts(consumed),
            sent: 6,
            updated_at: micros(6_000),
        }
    }

    fn pair(share: Option<&MembershipRow>, dialog: Option<&DialogRow>) -> UserDialogStats {
        UserDialogStats::of(
            &tenant(),
            &user(),
            &DialogId::new("d").unwrap(),
            share,
            dialog,
        )
    }

    #[test]
    fn unread_is_sequence_minus_consumed_per_type_without_zeros() {
        let dialog = dialog(&[("user", 7), ("bot", 2), ("contact", 1)]);
        let stats = pair(
            Some(&share(true, &[("user", 5), ("bot", 2)])),
            Some(&dialog),
        );
        assert_eq!(
            stats.unread_by_sender_type,
            counts(&[("user", 2), ("contact", 1)])
        );
        assert_eq!((stats.unread, stats.member), (3, true));
        assert_eq!((stats.joined_at, stats.read_until), (micros(3), micros(9)));
        assert_eq!((stats.version, stats.updated_at), (14, micros(6_000)));
        assert_eq!(stats.last_message_at, micros(77));
    }

    #[test]
    fn someone_not_a_member_has_nothing_unread_but_keeps_the_bulk_read() {
        let stats = pair(Some(&share(false, &[])), Some(&dialog(&[("user", 7)])));
        assert_eq!(
            (stats.member, stats.unread, stats.joined_at),
            (false, 0, None)
        );
        assert_eq!(stats.last_message_at, None, "nor are they told of it");
        assert_eq!((stats.read_until, stats.version), (micros(9), 14));
        assert!(stats.unread_by_sender_type.is_empty());
    }

    #[test]
    fn a_deleted_dialog_has_zeros_and_no_members_but_keeps_its_version() {
        let mut dialog = dialog(&[("user", 7)]);
        dialog.deleted = true;
        let stats = pair(Some(&share(true, &[])), Some(&dialog));
        assert_eq!(
            (stats.member, stats.unread, stats.joined_at),
            (false, 0, None)
        );
        assert_eq!((stats.version, stats.last_message_at), (14, None));

        let stats = DialogStats::of(&tenant(), &stats.dialog, Some(&dialog));
        assert_eq!((stats.messages, stats.members, stats.topics), (0, 0, 0));
        assert_eq!((stats.last_message_at, stats.version), (None, 10));
    }

    #[test]
    fn a_negative_count_is_never_shown() {
        let dialog = dialog(&[("user", 1), ("bot", 3)]);
        let stats = pair(
            Some(&share(true, &[("user", 2), ("ghost", 1)])),
            Some(&dialog),
        );
        assert_eq!(stats.unread_by_sender_type, counts(&[("bot", 3)]));
        assert_eq!(stats.unread, 3);
    }

    #[test]
    fn what_was_never_heard_of_has_zeros() {
        let stats = pair(None, None);
        assert_eq!((stats.member, stats.unread, stats.version), (false, 0, 0));
        assert_eq!(stats.updated_at, None);
        // Someone without a share of a known dialog sees its version.
        assert_eq!(pair(None, Some(&dialog(&[("user", 1)]))).version, 10);
    }

    #[test]
    fn a_user_is_the_sum_of_their_shares() {
        let mut stats = UserStats::nothing(&tenant(), &user());
        let mut deleted = dialog(&[("user", 7)]);
        deleted.deleted = true;
        stats.add(
            &share(true, &[("user", 5)]),
            Some(&dialog(&[("user", 7), ("bot", 1)])),
        );
        stats.add(&share(true, &[("user", 7)]), Some(&dialog(&[("user", 7)])));
        stats.add(&share(false, &[]), Some(&dialog(&[("user", 7)])));
        stats.add(&share(true, &[]), Some(&deleted));
        assert_eq!(
            (stats.dialogs, stats.unread_dialogs, stats.unread),
            (2, 1, 3)
        );
        assert_eq!(stats.messages, 24, "of the deleted dialog, too");
        assert_eq!(
            stats.unread_by_sender_type,
            counts(&[("user", 2), ("bot", 1)])
        );
        assert_eq!((stats.version, stats.updated_at), (4 * 14, micros(6_000)));
    }

    #[test]
    fn message_counts_go_with_the_message_and_with_its_dialog() {
        let id = MessageId::new("m").unwrap();
        let mut row = MessageRow {
            dialog: DialogId::new("d").ok(),
            statuses: counts(&[("read", 2)]),
            reactions: counts(&[("👍", 1), ("👎", 0)]),
            ..MessageRow::default()
        };
        let stats = MessageStats::of(&tenant(), &id, Some(&row), false);
        assert_eq!(stats.statuses, counts(&[("read", 2)]));
        assert_eq!(stats.reactions, counts(&[("👍", 1)]));
        let gone = MessageStats::of(&tenant(), &id, Some(&row), true);
        assert!(gone.statuses.is_empty() && gone.reactions.is_empty());
        assert_eq!(gone.dialog, row.dialog);
        row.deleted = true;
        let gone = MessageStats::of(&tenant(), &id, Some(&row), false);
        assert!(gone.statuses.is_empty() && gone.reactions.is_empty());
        let unknown = MessageStats::of(&tenant(), &id, None, false);
        assert_eq!(unknown.dialog, None);
    }
}
