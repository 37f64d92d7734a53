//! chat-counters: exact counters of a chat platform, from its events.
//!
//! ```text
//! RabbitMQ ─▶ bus ─▶ pipeline ─▶ lane ─▶ derive ─▶ store ─▶ ack
//!                    (decode)   (batch)  (pure)   (commit)
//!                       │                            │
//!                       ▼                            ▼
//!                  dead letter              serving (memory)
//!               (redrive replays)                   │
//!                                                   ▼
//!                                               grpc, HTTP
//! ```
//!
//! Start with [`event`] (what happens), [`mod@derive`] (what it means) and
//! `store::documents` (what is kept); [`lane`] is where they meet. ARCHITECTURE.md
//! is the map, docs/decisions has the reasons.
//!
//! What always holds:
//! - [`event`], [`counter`], [`mod@derive`], [`history`], [`verify`], [`deadletter`] and
//!   `serving::model` know nothing of tokio, lapin, mongodb, tonic, hyper or axum; only
//!   [`store`] names mongodb, only [`bus`] lapin, only [`retry`] backoff.
//! - A delivery is settled once, after its effect or its dead letter is durable.
//! - A commit is refused unless every dialog is as it was derived from.
//! - Every queue, batch, cache and command has a limit.

pub mod app;
pub mod auth;
pub mod bus;
pub mod cli;
#[cfg(test)]
pub(crate) mod committed;
pub mod config;
pub mod counter;
pub mod deadletter;
pub mod derive;
pub mod event;
pub mod failpoint;
pub mod forecast;
pub mod grpc;
pub mod history;
pub mod lane;
pub(crate) mod listener;
pub mod maintenance;
pub(crate) mod notify;
pub mod outage;
pub(crate) mod pipeline;
pub(crate) mod pki;
pub mod probes;
pub(crate) mod rate_limit;
pub mod redrive;
pub mod retry;
pub(crate) mod serving;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod verify;
