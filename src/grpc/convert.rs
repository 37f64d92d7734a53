//! From what the store says to what the wire says.

use std::collections::HashMap;

use mongodb::bson::DateTime;
use prost_types::Timestamp;

use super::v1;
use crate::event::{TenantId, UserId};
use crate::store::read::{ByName, DialogStats, MessageStats, UserDialogStats, UserStats};

fn counts(counts: ByName) -> HashMap<String, i64> {
    counts.into_iter().collect()
}

/// Times of events are micros.
fn event_time(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(|micros| Timestamp {
        seconds: micros.div_euclid(1_000_000),
        // Below a second's nanoseconds, so that it fits.
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    })
}

fn written(at: Option<DateTime>) -> Option<Timestamp> {
    event_time(at.map(|at| at.timestamp_millis().saturating_mul(1_000)))
}

pub fn user(tenant: &TenantId, user: &UserId, stats: UserStats) -> v1::UserStats {
    v1::UserStats {
        tenant_id: tenant.to_string(),
        user_id: user.to_string(),
        dialog_count: stats.dialog_count,
        unread_dialogs_count: stats.unread_dialogs_count,
        total_unread_count: stats.total_unread_count,
        total_messages_count: stats.total_messages_count,
        unread_by_sender_type: counts(stats.unread_by_sender_type),
        version: stats.version,
        updated_at: written(stats.updated_at),
    }
}

pub fn user_dialog(
    tenant: &TenantId,
    user: &UserId,
    dialog: &str,
    stats: UserDialogStats,
) -> v1::UserDialogStats {
    v1::UserDialogStats {
        tenant_id: tenant.to_string(),
        user_id: user.to_string(),
        dialog_id: dialog.to_owned(),
        member: stats.member,
        unread_count: stats.unread_count,
        unread_by_sender_type: counts(stats.unread_by_sender_type),
        joined_at: event_time(stats.joined_at),
        read_until: event_time(stats.read_until),
        version: stats.version,
        updated_at: written(stats.updated_at),
    }
}

pub fn dialog(tenant: &TenantId, dialog: &str, stats: DialogStats) -> v1::DialogStats {
    v1::DialogStats {
        tenant_id: tenant.to_string(),
        dialog_id: dialog.to_owned(),
        message_count: stats.message_count,
        member_count: stats.member_count,
        topic_count: stats.topic_count,
        last_message_at: event_time(stats.last_message_at),
        version: stats.version,
        updated_at: written(stats.updated_at),
    }
}

pub fn message(tenant: &TenantId, message: &str, stats: MessageStats) -> v1::MessageStats {
    v1::MessageStats {
        tenant_id: tenant.to_string(),
        dialog_id: stats.dialog_id,
        message_id: message.to_owned(),
        status_counts: counts(stats.status_counts),
        reaction_counts: counts(stats.reaction_counts),
    }
}
