//! The promises of the service, each tested on real servers: a real broker, a
//! real database, the real binary. `make test` brings the servers up; every
//! test has a database, an exchange and queues of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "that is how a test fails"
)]

#[path = "../kit/mod.rs"]
mod kit;
#[path = "../kit/strategy.rs"]
mod strategy;

mod auth;
mod auth_jwt;
mod auth_letters;
mod auth_mtls;
mod away;
mod blocked;
mod bus_tls;
mod callers;
mod chat3;
mod command_line;
mod commits;
mod dead_letters;
mod derive;
mod dlq;
mod dlq_commands;
mod dlq_crashes;
mod dlq_size;
mod events;
mod exactly_once;
mod failpoints;
mod forecast;
mod frames;
mod grpc;
mod grpc_reads;
mod history;
mod history_property;
mod history_size;
mod http;
mod http_slow;
mod implausible_times;
mod large_events;
mod layers;
mod limits;
mod listener;
mod memory;
mod mutations;
mod notify;
mod orchestrated;
mod orders;
mod outages;
mod queues;
mod read_count_size;
mod rebuild;
mod rules;
mod scenario;
mod serving;
mod set_aside;
mod soak;
mod step_down;
mod store_tls;
mod stored;
mod tenants;
mod tls;
mod torture;
mod verify;
mod watch;
mod world;
