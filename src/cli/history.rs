//! `history` and `explain`: why counters are what they are, over gRPC.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::json;
use tonic::Request;

use super::access::ServicePort;
use super::output::{self, Output, or_dash, table};
use super::remote::{self, Connection};
use super::when::point;
use super::{ExitCode, Failure, Global};
use crate::event::record_type::DRIFT;
use crate::grpc::bounds::MAX_PAGE_SIZE;
use crate::grpc::{moment, v1};
use v1::counter_service_client::CounterServiceClient;

/// The most attempts at a sum that events disturb between two pages.
const MAX_ATTEMPTS: u32 = 3;

/// Show every change of counters, with the event that it comes from
#[derive(Debug, Args)]
#[command(
    long_about = "Shows every change of the counters of a user in a dialog, of a user over all \
                  dialogs, of a dialog or of a message, with the event that it comes from. Asks a \
                  running service. History reaches back as far as the journal \
                  (store.journal_retention_days); what was before is one entry a counter.",
    after_help = "Exit codes:\n  \
                  0  answered\n  \
                  2  wrong usage or configuration, or an id that cannot be\n  \
                  3  the service cannot be reached or cannot answer\n\n\
                  Examples:\n  \
                  chat-counters history --tenant acme --user alice --dialog d1\n  \
                  chat-counters history --tenant acme --user alice --since 2h --newest-first\n  \
                  chat-counters history --tenant acme --message m1 --output json"
)]
pub(super) struct History {
    #[command(flatten)]
    whose: CounterOwner,
    /// Only this counter, as unread_count or unread_by_sender_type.bot
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    counter: String,
    /// Only what was counted since: RFC 3339, or so long ago (90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = point)]
    since: Option<prost_types::Timestamp>,
    /// Only what was counted before: RFC 3339, or so long ago
    #[arg(long, value_name = "TIME", value_parser = point)]
    until: Option<prost_types::Timestamp>,
    /// The newest first
    #[arg(long)]
    newest_first: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Say which events make a counter what it is
#[derive(Debug, Args)]
#[command(
    long_about = "Prints every event that contributes to one counter, the oldest first, and their \
                  sum, and says whether that is the value that is served. Asks a running service.",
    after_help = "Exit codes:\n  \
                  0  the events sum to the value that is served\n  \
                  1  they do not: `chat-counters verify` finds out what is stored wrong\n  \
                  2  wrong usage or configuration, or an id that cannot be\n  \
                  3  the service cannot be reached or cannot answer\n\n\
                  Examples:\n  \
                  chat-counters explain --tenant acme --user alice --dialog d1 --counter unread_count\n  \
                  chat-counters explain --tenant acme --dialog d1 --counter member_count --output json"
)]
pub(super) struct Explain {
    #[command(flatten)]
    whose: CounterOwner,
    /// The counter, as unread_count or unread_by_sender_type.bot
    #[arg(long, value_name = "NAME")]
    counter: String,
}

/// Whose counters are asked about, and which service is asked.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true).multiple(true).args(["user", "dialog", "message"]))]
struct CounterOwner {
    /// The tenant
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// The user: in --dialog, or over all dialogs
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// The dialog
    #[arg(long, value_name = "ID")]
    dialog: Option<String>,
    /// The message
    #[arg(long, value_name = "ID", conflicts_with_all = ["user", "dialog"])]
    message: Option<String>,
    /// The service; default: grpc.listen of the configuration
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Longest time for each call, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

impl History {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let mut service = Service::connect(&self.whose, global).await?;
        let mut request = self.whose.request(self.counter);
        request.since = self.since;
        request.until = self.until;
        request.newest_first = self.newest_first;
        let mut left = self.limit;
        loop {
            request.page_size = left.min(u32::from(MAX_PAGE_SIZE)).cast_signed();
            let page = service.page(&request).await?;
            left -= u32::try_from(page.entries.len()).unwrap_or(left).min(left);
            request.page_token = page.next_page_token;
            service.entries.extend(page.entries);
            if left == 0 || request.page_token.is_empty() {
                break;
            }
        }
        output::print(&shown(&service.entries, global.output)?)?;
        if !request.page_token.is_empty() {
            // With stderr gone there is no one left to tell.
            let _ = writeln!(io::stderr(), "there is more: --limit shows it");
        }
        Ok(ExitCode::Done)
    }
}

impl Explain {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let mut service = Service::connect(&self.whose, global).await?;
        let mut tries = 1;
        let served = loop {
            let served = service
                .whole(self.whose.request(self.counter.clone()))
                .await?;
            // Each page is of a moment of its own: an event that was counted in
            // between may have come before what was read already.
            if service.sum(|_| true) == served || tries == MAX_ATTEMPTS {
                break served;
            }
            tries += 1;
        };
        let is_explained = |entry: &v1::CounterHistoryEntry| {
            entry.source_event_type != DRIFT || entry.applied_at.is_some()
        };
        let sum = service.sum(is_explained);
        let equal = sum == served;
        let mut text = shown(&service.entries, global.output)?;
        let entries = service.entries.iter().filter(|entry| is_explained(entry));
        let entries = entries.count();
        match global.output {
            Output::Json => {
                let summary = json!({ "summary": {
                    "counter": self.counter,
                    "entries": entries,
                    "sum": sum,
                    "served": served,
                    "equal": equal,
                } });
                text.push_str(&format!("{summary}\n"));
            }
            Output::Table => {
                let verdict = match equal {
                    true => format!("{served} is served: equal"),
                    false => format!(
                        "{served} is served: {:+} not explained, `chat-counters verify` says more",
                        served - sum
                    ),
                };
                let counter = self.counter.replace(char::is_control, "\u{fffd}");
                text.push_str(&format!(
                    "{counter}: {entries} changes sum to {sum}, {verdict}\n"
                ));
            }
        }
        output::print(&text)?;
        Ok(match equal {
            true => ExitCode::Done,
            false => ExitCode::No,
        })
    }
}

impl CounterOwner {
    fn request(&self, counter: String) -> v1::ListCounterHistoryRequest {
        let id = |id: &Option<String>| id.clone().unwrap_or_default();
        v1::ListCounterHistoryRequest {
            tenant_id: self.tenant.clone(),
            user_id: id(&self.user),
            dialog_id: id(&self.dialog),
            message_id: id(&self.message),
            counter,
            page_size: i32::from(MAX_PAGE_SIZE),
            ..Default::default()
        }
    }
}

/// The service that is asked, and what it said.
struct Service {
    client: CounterServiceClient<Connection>,
    address: String,
    timeout: Duration,
    entries: Vec<v1::CounterHistoryEntry>,
}

impl Service {
    async fn connect(whose: &CounterOwner, global: &Global) -> Result<Self, Failure> {
        let config = global.quietly()?.config;
        let address = whose.address.as_deref();
        let listen = &config.grpc.listen;
        let target = global
            .access
            .target(address, ServicePort::Counters, listen)?;
        let (address, connection) = remote::connect(target).await?;
        Ok(Self {
            client: CounterServiceClient::new(connection),
            address,
            timeout: Duration::from_secs(whose.timeout),
            entries: Vec::new(),
        })
    }

    async fn page(
        &mut self,
        request: &v1::ListCounterHistoryRequest,
    ) -> Result<v1::ListCounterHistoryResponse, Failure> {
        let mut request = Request::new(request.clone());
        request.set_timeout(self.timeout);
        let answer = self.client.list_counter_history(request).await;
        match answer {
            Ok(page) => Ok(page.into_inner()),
            Err(status) => Err(remote::refused(&self.address, &status)),
        }
    }

    /// Reads a whole history of one counter, anew; tells the value served.
    async fn whole(&mut self, mut request: v1::ListCounterHistoryRequest) -> Result<i64, Failure> {
        self.entries.clear();
        loop {
            let page = self.page(&request).await?;
            self.entries.extend(page.entries);
            if page.next_page_token.is_empty() {
                let served = page.current_values.get(&request.counter);
                return Ok(served.copied().unwrap_or(0));
            }
            request.page_token = page.next_page_token;
        }
    }

    fn sum(&self, of: impl Fn(&v1::CounterHistoryEntry) -> bool) -> i64 {
        let entries = self.entries.iter().filter(|entry| of(entry));
        entries.map(|entry| entry.delta).sum()
    }
}

const COLUMNS: [&str; 10] = [
    "applied_at",
    "source_event_type",
    "source_event_id",
    "dialog_id",
    "counter",
    "delta",
    "old",
    "new",
    "actor_id",
    "reason",
];

/// Entries as a table, or a line of JSON each.
fn shown(entries: &[v1::CounterHistoryEntry], output: Output) -> io::Result<String> {
    match output {
        Output::Json => {
            let mut text = String::new();
            for entry in entries {
                text.push_str(&format!("{}\n", output::sorted(entry)?));
            }
            Ok(text)
        }
        Output::Table if entries.is_empty() => Ok(String::new()),
        Output::Table => {
            let rows: Vec<_> = entries.iter().map(row).collect();
            Ok(table(&COLUMNS, &rows))
        }
    }
}

fn row(entry: &v1::CounterHistoryEntry) -> Vec<String> {
    vec![
        or_dash(&moment(entry.applied_at).unwrap_or_default()),
        entry.source_event_type.clone(),
        or_dash(&entry.source_event_id),
        or_dash(&entry.dialog_id),
        entry.counter.clone(),
        format!("{:+}", entry.delta),
        entry.old_value.to_string(),
        entry.new_value.to_string(),
        or_dash(&entry.actor_id),
        or_dash(&entry.reason),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_of_json() {
        let entry = v1::CounterHistoryEntry {
            source_event_id: "e".into(),
            counter: "unread_count".into(),
            delta: -1,
            old_value: 3,
            new_value: 2,
            applied_at: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 120_000_000,
            }),
            ..Default::default()
        };
        assert_eq!(
            shown(&[entry], Output::Json).unwrap(),
            concat!(
                r#"{"actor_id":"","applied_at":"2023-11-14T22:13:20.12Z","counter":"unread_count","#,
                r#""delta":-1,"dialog_id":"","new_value":2,"occurred_at":null,"old_value":3,"#,
                r#""reason":"","source_event_id":"e","source_event_type":""}"#,
                "\n"
            )
        );
    }
}
