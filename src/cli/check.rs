//! `check`: is everything as it must be?

use clap::Args;
use serde::Serialize;

use super::output::{self, Output, table};
use super::{ExitCode, Failure, Global};
use crate::auth::Started;
use crate::bus::{self, inspect::Found};
use crate::listener::tls;
use crate::pki::Certificate;
use crate::store;

/// Say whether configuration, RabbitMQ and MongoDB are as they must be
#[derive(Debug, Args)]
#[command(
    long_about = "Reads the configuration, connects to MongoDB and RabbitMQ, and says what it \
                  found there (versions, replica set, queues) and what keeps the service from \
                  working, with a cure for each problem. Changes nothing.",
    after_help = "Exit codes:\n  \
                  0  all is well\n  \
                  1  problems were found\n  \
                  2  the configuration cannot be used\n  \
                  3  a server cannot be reached or refuses\n\n\
                  Examples:\n  \
                  chat-counters check --config /etc/chat-counters.toml\n  \
                  chat-counters check --output json | jq .problems"
)]
pub(super) struct Check {}

/// What was found; a server that did not answer is absent.
#[derive(Debug, Serialize)]
struct Report {
    mongodb: Option<store::inspect::Inspection>,
    rabbitmq: Option<bus::inspect::Inspection>,
    /// What the listeners will show.
    certificates: Vec<Certificate>,
    problems: Vec<String>,
    notes: Vec<String>,
}

impl Check {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let config = global.quietly()?.config;
        let (store, bus) = tokio::join!(
            store::inspect::inspect(&config.store),
            bus::inspect(&config.bus, &config.notify)
        );
        let mut report = Report {
            mongodb: None,
            rabbitmq: None,
            certificates: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        };
        let mut code = ExitCode::Done;
        match store {
            Ok(found) => report.mongodb = Some(found),
            Err(error) => {
                report.problems.push(error.to_string());
                code = ExitCode::Server;
            }
        }
        match bus {
            Ok(found) => report.rabbitmq = Some(found),
            Err(error) => {
                report.problems.push(error.to_string());
                code = ExitCode::Server;
            }
        }
        for listener in config.listeners() {
            match tls::inspect(&listener).await {
                Ok(found) => report.certificates.extend(found),
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        if let Err(error) = Started::new(&config.auth) {
            report.problems.push(error.to_string());
        }
        report.collect();
        if code == ExitCode::Done && !report.problems.is_empty() {
            code = ExitCode::No;
        }
        match global.output {
            Output::Json => output::print_json(&report)?,
            Output::Table => output::print(&report.text())?,
        }
        Ok(code)
    }
}

impl Report {
    /// All problems and notes in one place.
    fn collect(&mut self) {
        if let Some(mongodb) = &self.mongodb {
            self.problems.extend_from_slice(&mongodb.problems);
            self.notes.extend_from_slice(&mongodb.notes);
        }
        if let Some(rabbitmq) = &self.rabbitmq {
            self.problems.extend_from_slice(&rabbitmq.problems);
            self.notes.extend_from_slice(&rabbitmq.notes);
        }
        let soon = self.certificates.iter().filter_map(Certificate::ends_soon);
        self.notes.extend(soon);
    }

    fn text(&self) -> String {
        let mut rows = vec![row("configuration", "valid")];
        if let Some(found) = &self.mongodb {
            rows.extend(mongodb(found));
        }
        if let Some(found) = &self.rabbitmq {
            rows.extend(rabbitmq(found));
        }
        rows.extend(self.certificates.iter().map(of_listener));
        let mut text = table(&[], &rows);
        let notes = self.notes.iter().map(|note| format!("note: {note}\n"));
        let problems = self
            .problems
            .iter()
            .map(|problem| format!("PROBLEM: {problem}\n"));
        text.extend(notes.chain(problems));
        text.push_str(match self.problems.len() {
            0 => "all is well\n",
            _ => "not as it must be\n",
        });
        text
    }
}

fn row(what: &str, found: impl Into<String>) -> Vec<String> {
    vec![what.into(), found.into()]
}

fn of_listener(found: &Certificate) -> Vec<String> {
    let Certificate {
        of,
        subject,
        not_after,
        ..
    } = found;
    row(of, format!("{subject}, until {not_after}"))
}

fn mongodb(found: &store::inspect::Inspection) -> Vec<Vec<String>> {
    let or = |text: &Option<String>, absent: &str| text.clone().unwrap_or_else(|| absent.into());
    let works = |yes| if yes { "work" } else { "not seen to work" };
    let version = or(&found.version, "of unknown version");
    let mut rows = vec![row("MongoDB", format!("{version} at {}", found.url))];
    if found.tls {
        rows.push(row("  TLS", "in use"));
        rows.extend(found.certificates.iter().map(certificate));
    }
    rows.extend([
        row("  replica set", or(&found.replica_set, "none")),
        row("  members", found.members.join(", ")),
        row("  primary", or(&found.primary, "none")),
        row("  transactions", works(found.transactions)),
        row("  snapshot reads", works(found.snapshot_reads)),
    ]);
    rows
}

fn rabbitmq(found: &bus::inspect::Inspection) -> Vec<Vec<String>> {
    let product = found.product.as_deref().unwrap_or("RabbitMQ");
    let version = found.version.as_deref().unwrap_or("of unknown version");
    let state = |found: &Found| match (found.exists, found.fits) {
        (false, _) => "does not exist yet",
        (true, true) => "fits",
        (true, false) => "does not fit",
    };
    let queue = |found: &Found| {
        let Found {
            name,
            messages,
            consumers,
            ..
        } = found;
        let state = state(found);
        if !found.exists {
            return format!("{name}: {state}");
        }
        format!("{name}: {state}, {messages} messages ready, {consumers} consumers")
    };
    let mut rows = vec![row(product, format!("{version} at {}", found.url))];
    if let Some(tls) = &found.tls {
        rows.push(row("  TLS", &tls.version));
        if let Some(name) = &tls.external {
            rows.push(row("  logged in as", format!("{name} (SASL EXTERNAL)")));
        }
        rows.extend(tls.certificates.iter().map(certificate));
    }
    let exchange = |found: &Found| format!("{}: {}", found.name, state(found));
    rows.push(row("  exchange", exchange(&found.exchange)));
    let notify = found.notify_exchange.iter();
    rows.extend(notify.map(|found| row("  notifications", exchange(found))));
    rows.extend([
        row("  queue", queue(&found.queue)),
        row("  dead letters", queue(&found.dead_letter_queue)),
    ]);
    rows
}

fn certificate(found: &Certificate) -> Vec<String> {
    let Certificate {
        of,
        subject,
        not_after,
        ..
    } = found;
    row(
        "  certificate",
        format!("{of}: {subject}, until {not_after}"),
    )
}
