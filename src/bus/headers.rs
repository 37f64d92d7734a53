//! The names of all AMQP headers that the service reads or writes.

// Set by producers on events, and by this service on notifications.

/// The type of the event, such as `message.create`.
pub(crate) const EVENT_TYPE: &str = "eventType";
/// The type of the entity that the event is about, such as `message`.
pub(super) const ENTITY_TYPE: &str = "entityType";
/// The id of the tenant.
pub(crate) const TENANT_ID: &str = "tenantId";
/// The id of the user whose counters have changed.
pub(crate) const USER_ID: &str = "userId";
/// The id of the dialog whose counters have changed.
pub(crate) const DIALOG_ID: &str = "dialogId";
/// The id of the user, dialog or message whose counters have changed, in Chat3's form.
pub(crate) const ENTITY_ID: &str = "entityId";
/// The kind of change, in Chat3's form.
pub(crate) const UPDATE_TYPE: &str = "updateType";
/// The type of the event that has changed the counters, in Chat3's form.
pub(crate) const SOURCE_EVENT_TYPE: &str = "sourceEventType";

// Set by this service on dead letters.

/// What the names of this service's own headers begin with.
pub(crate) const OWN_PREFIX: &str = "x-cc-";
/// Why the event was dead-lettered: the name of a
/// [`Reason`](crate::deadletter::Reason).
pub(super) const REASON: &str = "x-cc-reason";
/// Why the event was dead-lettered, in words.
pub(super) const ERROR: &str = "x-cc-error";
/// How often the event has failed.
pub(super) const ATTEMPTS: &str = "x-cc-attempts";
/// When the event failed for the first time, in RFC 3339.
pub(super) const FIRST_FAILED_AT: &str = "x-cc-first-failed-at";
/// When the event failed last, in RFC 3339.
pub(super) const LAST_FAILED_AT: &str = "x-cc-last-failed-at";
/// The exchange to which the event was published.
pub(super) const SOURCE_EXCHANGE: &str = "x-cc-source-exchange";
/// The routing key with which the event was published.
pub(super) const SOURCE_ROUTING_KEY: &str = "x-cc-source-routing-key";
/// The version of the service that gave the event up.
pub(super) const SERVICE_VERSION: &str = "x-cc-service-version";
/// The machine, or container, that gave the event up.
pub(super) const HOST: &str = "x-cc-host";
/// The job that has replayed the letter.
pub(super) const REPLAYED_BY: &str = "x-cc-replayed-by";
/// How often the broker had dead-lettered the message by the time that this service
/// gave it up; absent for never.
pub(super) const BROKER_DEATHS: &str = "x-cc-deaths";
/// The names and sizes of the headers that did not fit into a frame.
pub(super) const HEADERS_DROPPED: &str = "x-cc-headers-dropped";

// What a message had that would make the broker lose, refuse or duplicate its letter.

/// The property `expiration` of the event.
pub(super) const ORIGINAL_EXPIRATION: &str = "x-cc-original-expiration";
/// The property `user_id` of the event.
pub(super) const ORIGINAL_USER_ID: &str = "x-cc-original-user-id";
/// The header [`CC`] of the event.
pub(super) const ORIGINAL_CC: &str = "x-cc-original-cc";

// Set by the filter on messages that lapin cannot read as they are.

/// What had to change before lapin could read the message, in words.
pub(super) const ALTERED: &str = "x-cc-altered";
/// The properties as they came, in AMQP's own encoding.
pub(super) const ORIGINAL_PROPERTIES: &str = "x-cc-original-properties";
/// The name of the exchange as it came, where it is not UTF-8.
pub(super) const ORIGINAL_EXCHANGE: &str = "x-cc-original-exchange";
/// The routing key as it came, where it is not UTF-8.
pub(super) const ORIGINAL_ROUTING_KEY: &str = "x-cc-original-routing-key";

// RabbitMQ's own.

/// Further routing keys, to which RabbitMQ delivers a copy.
pub(super) const CC: &str = "CC";
/// How often the message was delivered before and came back to a quorum queue.
pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";
/// How often the message was handed out by a quorum queue, whatever became of it.
pub(super) const ACQUIRED_COUNT: &str = "x-acquired-count";
/// From which queues the broker has dead-lettered the message, and why.
pub(super) const DEATHS: &str = "x-death";
/// What RabbitMQ repeats from [`DEATHS`] in headers of their own.
pub(super) const DEATH_SUMMARY: [&str; 6] = [
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-last-death-exchange",
];
