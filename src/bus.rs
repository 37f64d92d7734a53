//! RabbitMQ: where events come from and dead letters go. The only module that
//! names lapin.
//!
//! - [`Consumer`] hands out every message of the service's queue as a
//!   [`Delivery`] and reconnects by itself for ever. Settling a delivery
//!   consumes it, so that a double settlement does not compile.
//! - [`Publisher`] publishes events with broker confirms.
//! - [`dead_letters`] has all about the dead-letter queue: publishing into it, reading
//!   letters, scanning the queue, publishing letters once more.
//! - [`notifier`] publishes notifications about counters that have changed.
//! - [`upkeep`] notices when the exchange was replaced, and binds the queue again.
//! - [`inspect()`] looks at the broker and changes nothing.
//!
//! ```text
//!             queue ──> session ──> sink ──> (the pipeline) ──┐
//!   broker      ^          ^                                  │ ack, requeue
//!               └── acks ──┴───────── settle <────────────────┤
//!             dead-letter queue <──── dead_letters <──────────┘ dead_letter
//!                                        └──> (the database, while the broker takes none)
//! ```
//!
//! Invariants kept here: an acknowledgement with `multiple` never covers an
//! unfinished delivery; a dead letter is a confirmed publish, then an ack of
//! the original; what belongs to a session that is gone is left to the broker,
//! which delivers it again. Dead letters travel on a connection of their own,
//! because a broker short of memory or disk stops reading from connections
//! that publish, and acknowledgements must still get through then.

mod confirm_channel;
mod connect;
mod consumer;
pub(crate) mod dead_letters;
mod delivery;
mod error;
mod failure_log;
mod field_table;
mod filter;
mod flow;
pub(crate) mod headers;
pub(crate) mod inspect;
mod intake;
pub(crate) mod notifier;
mod publisher;
mod session;
mod session_end;
mod settle;
mod tls;
mod topology;
pub(crate) mod upkeep;
mod watchdog;

pub(crate) use confirm_channel::BlockedTimeout;
pub(crate) use consumer::Consumer;
pub(crate) use delivery::Delivery;
pub use error::{BusError, Mismatch};
pub use flow::Flow;
pub(crate) use inspect::inspect;
pub(crate) use publisher::routing_key;
pub use publisher::{EventHeaders, PublishTally, Publisher};

/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;
