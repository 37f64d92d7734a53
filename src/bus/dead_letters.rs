//! The dead-letter queue: publishing letters into it, reading what they say, scanning
//! the queue, and publishing letters once more.
//!
//! - `publisher` publishes the messages that failed for good. `encode` makes a letter
//!   of one, and `frame_fit` drops headers where they do not fit into a frame.
//! - `decode` reads what a letter says of itself; `x_death` reads what the broker says
//!   of one that it dead-lettered. `raw` has letters in AMQP's own encoding.
//! - [`scan`] goes through the queue, and removes letters from it.
//! - [`republish`] publishes letters to the service's queue, or puts them back.
//! - [`queue_depth`] asks how long the queue is.

mod decode;
mod encode;
mod frame_fit;
mod publisher;
pub(crate) mod queue_depth;
mod raw;
pub(crate) mod republish;
pub(crate) mod scan;
mod x_death;

pub(super) use publisher::DeadLetterPublisher;
pub(crate) use publisher::UnsettledLetter;
