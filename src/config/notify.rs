//! The section `notify`: notifications on the bus.

use serde::{Deserialize, Serialize};

/// Settings of notifications: messages on the bus about counters that have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notify {
    /// Whether notifications are published, and in which form.
    pub format: NotifyFormat,
    /// The exchange that they are published to.
    pub exchange: String,
    /// The memory in MiB for users who are notified; 0 reads each from the store.
    pub memory_mib: u32,
    /// The time in milliseconds in which all changes of one user become one message.
    pub interval_ms: u64,
    /// The number of members beyond which a dialog is told of by one notification about
    /// itself, not by one to each member.
    pub fan_out_limit: u32,
    /// For [`NotifyFormat::CloudEvents`]: the `source` of every notification.
    pub source: String,
    /// For [`NotifyFormat::Chat3`]: what is added to every version.
    pub chat3_version_offset: i64,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            format: NotifyFormat::default(),
            exchange: "chat_counters_notifications".into(),
            memory_mib: 64,
            interval_ms: 250,
            fan_out_limit: 1_000,
            source: "/chat-counters".into(),
            chat3_version_offset: 0,
        }
    }
}

/// The form of notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyFormat {
    /// No notifications are published.
    #[default]
    Off,
    /// CloudEvents 1.0 in structured JSON.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// The messages that clients of Chat3 understand.
    Chat3,
}
