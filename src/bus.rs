//! RabbitMQ: where events come from and dead letters go. The only module that
//! names lapin.
//!
//! - [`Consumer`] hands out every message of the service's queue as a
//!   [`Delivery`] and reconnects by itself for ever. Settling a delivery
//!   consumes it, so that a double settlement does not compile.
//! - [`Publisher`] publishes events with broker confirms.
//! - [`inspect()`] looks at the broker and changes nothing.
//!
//! ```text
//!             queue ──> session ──> sink ──> (the pipeline) ──┐
//!   broker      ^          ^                                  │ ack, requeue
//!               └── acks ──┴───────── settle <────────────────┤
//!             dead-letter queue <──── letters <───────────────┘ dead_letter
//! ```
//!
//! Invariants kept here: an acknowledgement with `multiple` never covers an
//! unfinished delivery; a dead letter is a confirmed publish, then an ack of
//! the original; what belongs to a session that is gone is left to the broker,
//! which delivers it again. Dead letters travel on a connection of their own,
//! because a broker short of memory or disk stops reading from connections
//! that publish, and acknowledgements must still get through then.

mod connect;
mod consumer;
mod delivery;
mod error;
pub mod inspect;
mod letter;
mod letters;
mod publisher;
mod session;
mod settle;
mod topology;
mod trouble;
mod watchdog;

pub use consumer::Consumer;
pub use delivery::Delivery;
pub use error::{BusError, Mismatch};
pub use inspect::inspect;
pub use publisher::{EventHeaders, Publisher, Tally, routing_key};

/// The URL of a broker without user, password and query, to be shown to people.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "<not a URL>".into();
    };
    // Everything up to the last `@` goes first, whatever stands before it:
    // rather a strange URL in the log than half a password.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{shown}")
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn a_shown_url_holds_no_secret() {
        for (url, shown) in [
            (
                "amqp://user:secret@rabbit:5672/%2f",
                "amqp://rabbit:5672/%2f",
            ),
            (
                "amqps://user:sec@ret@rabbit/v?heartbeat=5",
                "amqps://rabbit/v",
            ),
            ("amqp://user:sec/ret@rabbit/v", "amqp://rabbit/v"),
            ("amqp://user:sec?ret@rabbit/v", "amqp://rabbit/v"),
            ("amqp://rabbit", "amqp://rabbit"),
            ("user:secret@rabbit", "<not a URL>"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
