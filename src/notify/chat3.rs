//! Notifications as Chat3's own counter worker publishes them, for clients that
//! are there already (`chat3_updates`). Two kinds for users: `update.user` with all
//! that they have, `update.dialog` with what is unread in one dialog.
//!
//! What Chat3 says of packs is left out: packs are not counted here, and a zero
//! would be a lie.

use serde::Serialize;

use crate::bus::headers;
use crate::bus::notifier::Notification;
use crate::event::{Micros, SenderType, record_type};
use crate::store::read::{Cause, Counts, DialogStats, UserDialogStats, UserStats};

const CONTENT_TYPE: &str = "application/json";
/// The version of the message format, in Chat3's terms.
const FORM_VERSION: u8 = 4;
/// The user types that Chat3's clients know. All others count as the first.
const KNOWN_USER_TYPES: [&str; 3] = ["user", "contact", "bot"];

/// What the messages of one user have in common.
pub(super) struct Addressee<'a> {
    /// The user's type, if it is known.
    pub(super) user_type: Option<&'a SenderType>,
    /// The time at which it is published.
    pub(super) now: Micros,
    /// What is added to every version, from the configuration.
    pub(super) version_offset: i64,
}

/// The subject of an update, and its version.
struct About<'a> {
    tenant: &'a str,
    user: Option<&'a str>,
    /// The id of the user, or of the dialog.
    entity: &'a str,
    version: i64,
    update_type: &'static str,
}

/// Names are Chat3's. What is absent is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Update<'a, D> {
    tenant_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    entity_id: &'a str,
    event_id: &'a str,
    source_event_type: &'a str,
    update_type: &'static str,
    published: bool,
    created_at: String,
    data: D,
}

#[derive(Serialize)]
struct UserData<'a> {
    user: UserPart<'a>,
    context: UserContext<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserPart<'a> {
    user_id: &'a str,
    r#type: &'a str,
    stats: UserNumbers,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserNumbers {
    dialog_count: i64,
    unread_dialogs_count: i64,
    total_unread_count: i64,
    total_messages_count: i64,
    stats_version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated_at: Option<String>,
    unread_by_sender_type: [OfType; 3],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfType {
    from_type: &'static str,
    count_unread: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserContext<'a> {
    entity_id: &'a str,
    included_sections: [&'static str; 1],
    updated_fields: Vec<&'static str>,
    version: u8,
    ui_target: &'static str,
}

#[derive(Serialize)]
struct DialogData<'a> {
    dialog: DialogPart<'a>,
    member: MemberPart<'a>,
    context: DialogContext<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DialogPart<'a> {
    dialog_id: &'a str,
    stats: Unread,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberPart<'a> {
    user_id: &'a str,
    state: Unread,
}

#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
struct Unread {
    unread_count: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DialogContext<'a> {
    dialog_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    included_sections: &'static [&'static str],
    updated_fields: &'static [&'static str],
    version: u8,
    ui_target: &'static str,
}

#[derive(Serialize)]
struct WholeDialogData<'a> {
    dialog: WholeDialogPart<'a>,
    context: DialogContext<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeDialogPart<'a> {
    dialog_id: &'a str,
    stats: DialogNumbers,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DialogNumbers {
    message_count: i64,
    member_count: i64,
    topic_count: i64,
}

impl Addressee<'_> {
    fn user_type(&self) -> &str {
        self.user_type.map_or("user", SenderType::as_str)
    }
}

/// `update.user`: all counters of a user, and which of them are others than the
/// user was told last.
pub(super) fn user(
    to: &Addressee<'_>,
    stats: &UserStats,
    told: Option<&UserStats>,
    cause: Option<&Cause>,
) -> Notification {
    let user_id = stats.user.as_str();
    let about = About {
        tenant: stats.tenant.as_str(),
        user: Some(user_id),
        entity: user_id,
        version: stats.version,
        update_type: "update.user",
    };
    let data = UserData {
        user: UserPart {
            user_id,
            r#type: to.user_type(),
            stats: UserNumbers {
                dialog_count: stats.dialogs,
                unread_dialogs_count: stats.unread_dialogs,
                total_unread_count: stats.unread,
                total_messages_count: stats.messages,
                stats_version: stats.version.saturating_add(to.version_offset),
                last_updated_at: stats.updated_at.map(millis),
                unread_by_sender_type: by_type(&stats.unread_by_sender_type),
            },
        },
        context: UserContext {
            entity_id: user_id,
            included_sections: ["user"],
            updated_fields: updated(stats, told),
            version: FORM_VERSION,
            ui_target: "users.list",
        },
    };
    let routing_key = format!("update.user.{}.{user_id}.user", to.user_type());
    notification(to, routing_key, (&about, cause), data)
}

/// `update.dialog`: what is unread for a user in a dialog.
pub(super) fn user_in_dialog(
    to: &Addressee<'_>,
    stats: &UserDialogStats,
    cause: Option<&Cause>,
) -> Notification {
    let (user_id, dialog_id) = (stats.user.as_str(), stats.dialog.as_str());
    let unread = Unread {
        unread_count: stats.unread,
    };
    let about = About {
        tenant: stats.tenant.as_str(),
        user: Some(user_id),
        entity: dialog_id,
        version: stats.version,
        update_type: "update.dialog",
    };
    let data = DialogData {
        dialog: DialogPart {
            dialog_id,
            stats: unread,
        },
        member: MemberPart {
            user_id,
            state: unread,
        },
        context: DialogContext {
            dialog_id,
            user_id: Some(user_id),
            included_sections: &["dialog", "member"],
            updated_fields: &["member.state.unreadCount", "dialog.stats.unreadCount"],
            version: FORM_VERSION,
            ui_target: "dialogs.list",
        },
    };
    let routing_key = format!("update.dialog.{}.{user_id}.dialog", to.user_type());
    notification(to, routing_key, (&about, cause), data)
}

/// `update.dialog` for nobody in particular: Chat3 has no such message, so its
/// routing key has fewer words than those that Chat3's clients bind to.
pub(super) fn dialog(
    to: &Addressee<'_>,
    stats: &DialogStats,
    cause: Option<&Cause>,
) -> Notification {
    let dialog_id = stats.dialog.as_str();
    let about = About {
        tenant: stats.tenant.as_str(),
        user: None,
        entity: dialog_id,
        version: stats.version,
        update_type: "update.dialog",
    };
    let data = WholeDialogData {
        dialog: WholeDialogPart {
            dialog_id,
            stats: DialogNumbers {
                message_count: stats.messages,
                member_count: stats.members,
                topic_count: stats.topics,
            },
        },
        context: DialogContext {
            dialog_id,
            user_id: None,
            included_sections: &["dialog"],
            updated_fields: &["dialog.stats"],
            version: FORM_VERSION,
            ui_target: "dialogs.list",
        },
    };
    notification(
        to,
        format!("update.dialog.{dialog_id}"),
        (&about, cause),
        data,
    )
}

fn notification(
    to: &Addressee<'_>,
    routing_key: String,
    (about, cause): (&About<'_>, Option<&Cause>),
    data: impl Serialize,
) -> Notification {
    let update = Update {
        tenant_id: about.tenant,
        user_id: about.user,
        entity_id: about.entity,
        event_id: &event_id(cause, about),
        source_event_type: event_type(cause),
        update_type: about.update_type,
        published: false,
        created_at: millis(to.now),
        data,
    };
    let user = about.user.map(|user| (headers::USER_ID, user.to_owned()));
    let mut named: Vec<_> = user.into_iter().collect();
    named.extend([
        (headers::ENTITY_ID, about.entity.to_owned()),
        (headers::UPDATE_TYPE, about.update_type.to_owned()),
        (
            headers::SOURCE_EVENT_TYPE,
            update.source_event_type.to_owned(),
        ),
    ]);
    Notification {
        routing_key,
        content_type: CONTENT_TYPE,
        // Texts and numbers: there is nothing to fail.
        body: serde_json::to_vec(&update).unwrap_or_default(),
        message_id: None,
        message_type: None,
        timestamp: u64::try_from(to.now.get() / 1_000_000).unwrap_or(0),
        headers: named,
    }
}

fn event_id(cause: Option<&Cause>, about: &About<'_>) -> String {
    match cause {
        Some(cause) => cause.event.to_string(),
        None => format!("counters_{}_{}", about.entity, about.version),
    }
}

fn event_type(cause: Option<&Cause>) -> &str {
    cause.map_or(record_type::CHANGED, |cause| &cause.event_type)
}

fn by_type(unread: &Counts) -> [OfType; 3] {
    let of = |from_type: &str| unread.get(from_type).copied().unwrap_or(0);
    let all: i64 = unread.values().sum();
    let [_, contact, bot] = KNOWN_USER_TYPES.map(of);
    let counts = [all - contact - bot, contact, bot];
    std::array::from_fn(|place| OfType {
        from_type: KNOWN_USER_TYPES[place],
        count_unread: counts[place],
    })
}

fn updated(stats: &UserStats, told: Option<&UserStats>) -> Vec<&'static str> {
    type Differs = fn(&UserStats, &UserStats) -> bool;
    let fields: [(&'static str, Differs); 7] = [
        ("user.stats.dialogCount", |a, b| a.dialogs != b.dialogs),
        ("user.stats.unreadDialogsCount", |a, b| {
            a.unread_dialogs != b.unread_dialogs
        }),
        ("user.stats.totalUnreadCount", |a, b| a.unread != b.unread),
        ("user.stats.totalMessagesCount", |a, b| {
            a.messages != b.messages
        }),
        ("user.stats.statsVersion", |a, b| a.version != b.version),
        ("user.stats.lastUpdatedAt", |a, b| {
            a.updated_at != b.updated_at
        }),
        ("user.stats.unreadBySenderType", |a, b| {
            a.unread_by_sender_type != b.unread_by_sender_type
        }),
    ];
    let is_new = |differs: Differs| told.is_none_or(|told| differs(told, stats));
    let updated = fields.into_iter().filter(|(_, differs)| is_new(*differs));
    updated.map(|(name, _)| name).collect()
}

/// Milliseconds since the epoch with six decimals, as Chat3 writes times.
fn millis(at: Micros) -> String {
    format!("{}.{:06}", at.get() / 1_000, at.get() % 1_000 * 1_000)
}
