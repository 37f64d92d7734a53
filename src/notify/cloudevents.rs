//! Notifications as CloudEvents 1.0 in structured JSON mode. (The binary mode of
//! its AMQP binding is for AMQP 1.0 alone.) `data` is what the same question over
//! HTTP is answered with.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::bus::headers;
use crate::bus::notifier::Notification;
use crate::grpc::v1;
use crate::store::read::{DialogStats, UserDialogStats, UserStats};

/// Types of events. Those who sort by them rely on them: never changed.
pub(super) const USER: &str = "chatcounters.user_stats.changed";
pub(super) const USER_DIALOG: &str = "chatcounters.user_dialog_stats.changed";
pub(super) const DIALOG: &str = "chatcounters.dialog_stats.changed";

const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The envelope. Names are those of the specification.
#[derive(Serialize)]
struct Event<'e, D> {
    specversion: &'static str,
    id: &'e str,
    source: &'e str,
    r#type: &'static str,
    subject: &'e str,
    #[serde(
        serialize_with = "crate::grpc::time",
        skip_serializing_if = "Option::is_none"
    )]
    time: Option<prost_types::Timestamp>,
    datacontenttype: &'static str,
    /// An extension, for those who sort by tenants.
    tenantid: &'e str,
    data: &'e D,
}

/// The subject of an event, its version and its time.
struct About<'e> {
    r#type: &'static str,
    tenant: &'e str,
    user: Option<&'e str>,
    dialog: Option<&'e str>,
    version: i64,
    time: Option<prost_types::Timestamp>,
}

/// The notification that a user's counters have changed.
pub(super) fn user(source: &str, at: u64, stats: &UserStats) -> Notification {
    let data = v1::UserStats::from(stats.clone());
    let about = About {
        r#type: USER,
        tenant: stats.tenant.as_str(),
        user: Some(stats.user.as_str()),
        dialog: None,
        version: stats.version,
        time: data.updated_at,
    };
    notification(source, at, &about, &data)
}

/// The notification that a user's counters in a dialog have changed.
pub(super) fn user_in_dialog(source: &str, at: u64, stats: &UserDialogStats) -> Notification {
    let data = v1::UserDialogStats::from(stats.clone());
    let about = About {
        r#type: USER_DIALOG,
        tenant: stats.tenant.as_str(),
        user: Some(stats.user.as_str()),
        dialog: Some(stats.dialog.as_str()),
        version: stats.version,
        time: data.updated_at,
    };
    notification(source, at, &about, &data)
}

/// The notification that a dialog has changed for all its members.
pub(super) fn dialog(source: &str, at: u64, stats: &DialogStats) -> Notification {
    let data = v1::DialogStats::from(stats.clone());
    let about = About {
        r#type: DIALOG,
        tenant: stats.tenant.as_str(),
        user: None,
        dialog: Some(stats.dialog.as_str()),
        version: stats.version,
        time: data.updated_at,
    };
    notification(source, at, &about, &data)
}

fn notification(source: &str, at: u64, about: &About<'_>, data: &impl Serialize) -> Notification {
    let id = id(about);
    let subject = about.user.or(about.dialog).unwrap_or_default();
    let event = Event {
        specversion: "1.0",
        id: &id,
        source,
        r#type: about.r#type,
        subject,
        time: about.time,
        datacontenttype: "application/json",
        tenantid: about.tenant,
        data,
    };
    let mut named = vec![(headers::TENANT_ID, about.tenant.to_owned())];
    named.extend(about.user.map(|user| (headers::USER_ID, user.to_owned())));
    named.extend(
        about
            .dialog
            .map(|dialog| (headers::DIALOG_ID, dialog.to_owned())),
    );
    let kind = match about.r#type {
        USER => "user_stats",
        USER_DIALOG => "user_dialog_stats",
        _ => "dialog_stats",
    };
    Notification {
        routing_key: format!("{kind}.{}.{subject}", about.tenant),
        content_type: CONTENT_TYPE,
        // Texts and numbers: there is nothing to fail.
        body: serde_json::to_vec(&event).unwrap_or_default(),
        message_id: Some(id),
        message_type: Some(about.r#type),
        timestamp: at,
        headers: named,
    }
}

/// The same for each time that one state is told of, and for no other: consumers
/// drop what they have by source and id.
fn id(about: &About<'_>) -> String {
    let mut name = Sha256::new();
    for part in [
        Some(about.r#type),
        Some(about.tenant),
        about.user,
        about.dialog,
    ] {
        let part = part.unwrap_or_default();
        name.update((part.len() as u64).to_be_bytes());
        name.update(part);
    }
    let name = name.finalize();
    format!("{}-{}", hex::encode(&name[..16]), about.version)
}
