//! `get`: counters, read over gRPC.

use std::collections::HashSet;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use tonic::{Code, Request, Status};

use super::access::{ServicePort, Target};
use super::output::{self, Output, table};
use super::remote::{self, Connection};
use super::{ExitCode, Failure, Global};
use crate::grpc::bounds::{MAX_BATCH_IDS, MAX_PAGE_SIZE};
use crate::grpc::{moment, v1};
use v1::counter_service_client::CounterServiceClient;

/// Read counters over gRPC
#[derive(Debug, Args)]
#[command(
    long_about = "Reads counters from a running service. Whoever or whatever it never heard of \
                  has zeros. Several ids are read in batches, each as of one moment.",
    after_help = "Exit codes:\n  \
                  0  answered\n  \
                  1  the event of --after-event was not applied within --timeout\n  \
                  2  wrong usage or configuration, or an id that cannot be\n  \
                  3  the service cannot be reached or cannot answer\n\n\
                  Examples:\n  \
                  chat-counters get user alice --tenant acme\n  \
                  chat-counters get user alice bob carol --tenant acme --output json\n  \
                  chat-counters get user-dialog alice d1 --tenant acme --after-event 01J9Z\n  \
                  chat-counters get user-dialogs alice --tenant acme --unread-only\n  \
                  chat-counters get user-dialogs alice --tenant acme --order-by last-message"
)]
pub(super) struct Get {
    #[command(subcommand)]
    what: Subject,
    /// The tenant
    #[arg(
        long,
        global = true,
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    tenant: String,
    /// Wait until the effect of this event is in the answer (one id only)
    #[arg(long, global = true, value_name = "EVENT_ID")]
    after_event: Option<String>,
    /// The service; default: grpc.listen of the configuration
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Longest time for each call, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

/// Whose counters are read.
#[derive(Debug, Subcommand)]
enum Subject {
    /// Users: dialogs and unread messages over all of them
    User {
        /// Users
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
    },
    /// Dialogs: members, messages, topics
    Dialog {
        /// Dialogs
        #[arg(required = true, value_name = "DIALOG")]
        dialogs: Vec<String>,
    },
    /// One user in one dialog: membership, unread messages, read until
    UserDialog {
        /// The user
        user: String,
        /// The dialog
        dialog: String,
    },
    /// Every dialog that a user is a member of
    UserDialogs {
        /// The user
        user: String,
        /// Only dialogs with unread messages
        #[arg(long)]
        unread_only: bool,
        /// Which dialogs come first. Of more than 500, one that moves while they
        /// are read may be left out, but for --order-by dialog-id
        #[arg(long, value_enum, default_value_t, value_name = "ORDER")]
        order_by: OrderBy,
    },
    /// Messages: statuses, reactions and how many members have read them
    Message {
        /// Messages
        #[arg(required = true, value_name = "MESSAGE")]
        messages: Vec<String>,
    },
}

/// In which order a user's dialogs come.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum OrderBy {
    /// By dialog id
    #[default]
    DialogId,
    /// The latest message first
    LastMessage,
    /// Those with unread messages first, each half by the latest message
    UnreadFirst,
}

impl From<OrderBy> for v1::UserDialogOrder {
    fn from(order: OrderBy) -> Self {
        match order {
            OrderBy::DialogId => Self::Unspecified,
            OrderBy::LastMessage => Self::LastMessage,
            OrderBy::UnreadFirst => Self::UnreadFirst,
        }
    }
}

impl Get {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        self.usage()?;
        let config = global.quietly()?.config;
        let address = self.address.as_deref();
        let listen = &config.grpc.listen;
        let target = global
            .access
            .target(address, ServicePort::Counters, listen)?;
        let mut client = Client::connect(target, &self).await?;
        let (records, single) = client.get(self.what).await?;
        match (global.output, records.as_slice()) {
            (Output::Json, [record]) if single => output::print_json(&record.0)?,
            (Output::Json, records) => {
                let objects: Vec<_> = records.iter().map(|record| &record.0).collect();
                output::print_json(&objects)?;
            }
            (Output::Table, [record]) if single => output::print(&record.lines())?,
            (Output::Table, records) => output::print(&columns(records))?,
        }
        Ok(ExitCode::Done)
    }

    /// Checks what clap cannot.
    fn usage(&self) -> Result<(), Failure> {
        let refuse = |message: &str| Err(Failure::new(ExitCode::Usage, message));
        if self.tenant.is_empty() {
            return refuse("--tenant ID is required");
        }
        let ids = match &self.what {
            Subject::User { users: ids }
            | Subject::Dialog { dialogs: ids }
            | Subject::Message { messages: ids } => ids.len(),
            Subject::UserDialog { .. } => 1,
            Subject::UserDialogs { .. } => 0,
        };
        if self.after_event.is_some() && ids != 1 {
            return refuse("--after-event goes with one id only");
        }
        Ok(())
    }
}

/// A connection and what goes into every request.
struct Client {
    service: CounterServiceClient<Connection>,
    address: String,
    tenant: String,
    after_event: String,
    timeout: Duration,
}

impl Client {
    async fn connect(target: Target, get: &Get) -> Result<Client, Failure> {
        let (address, connection) = remote::connect(target).await?;
        Ok(Client {
            service: CounterServiceClient::new(connection),
            address,
            tenant: get.tenant.clone(),
            after_event: get.after_event.clone().unwrap_or_default(),
            timeout: Duration::from_secs(get.timeout),
        })
    }

    /// The records, and whether one was asked for.
    async fn get(&mut self, what: Subject) -> Result<(Vec<Record>, bool), Failure> {
        let records = match what {
            Subject::User { users } => match <[String; 1]>::try_from(users) {
                Ok([user]) => return Ok((vec![self.user(user).await?], true)),
                Err(users) => self.users(users).await?,
            },
            Subject::Dialog { dialogs } => match <[String; 1]>::try_from(dialogs) {
                Ok([dialog]) => return Ok((vec![self.dialog(dialog).await?], true)),
                Err(dialogs) => self.dialogs(dialogs).await?,
            },
            Subject::Message { messages } => match <[String; 1]>::try_from(messages) {
                Ok([message]) => return Ok((vec![self.message(message).await?], true)),
                Err(messages) => self.messages(messages).await?,
            },
            Subject::UserDialog { user, dialog } => {
                return Ok((vec![self.user_dialog(user, dialog).await?], true));
            }
            Subject::UserDialogs {
                user,
                unread_only,
                order_by,
            } => self.user_dialogs(user, unread_only, order_by).await?,
        };
        Ok((records, false))
    }

    async fn user(&mut self, user_id: String) -> Result<Record, Failure> {
        let request = self.request(v1::GetUserStatsRequest {
            tenant_id: self.tenant.clone(),
            user_id,
            after_event_id: self.after_event.clone(),
            ..Default::default()
        });
        let answer = self.service.get_user_stats(request).await;
        self.answer(answer).map(Record::from)
    }

    async fn dialog(&mut self, dialog_id: String) -> Result<Record, Failure> {
        let request = self.request(v1::GetDialogStatsRequest {
            tenant_id: self.tenant.clone(),
            dialog_id,
            after_event_id: self.after_event.clone(),
            ..Default::default()
        });
        let answer = self.service.get_dialog_stats(request).await;
        self.answer(answer).map(Record::from)
    }

    async fn message(&mut self, message_id: String) -> Result<Record, Failure> {
        let request = self.request(v1::GetMessageStatsRequest {
            tenant_id: self.tenant.clone(),
            message_id,
            after_event_id: self.after_event.clone(),
        });
        let answer = self.service.get_message_stats(request).await;
        self.answer(answer).map(Record::from)
    }

    async fn user_dialog(&mut self, user_id: String, dialog_id: String) -> Result<Record, Failure> {
        let request = self.request(v1::GetUserDialogStatsRequest {
            tenant_id: self.tenant.clone(),
            user_id,
            dialog_id,
            after_event_id: self.after_event.clone(),
            ..Default::default()
        });
        let answer = self.service.get_user_dialog_stats(request).await;
        self.answer(answer).map(Record::from)
    }

    async fn users(&mut self, ids: Vec<String>) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        for ids in ids.chunks(MAX_BATCH_IDS) {
            let request = self.request(v1::BatchGetUserStatsRequest {
                tenant_id: self.tenant.clone(),
                user_ids: ids.to_vec(),
            });
            let answer = self.service.batch_get_user_stats(request).await;
            records.extend(
                self.answer(answer)?
                    .user_stats
                    .into_iter()
                    .map(Record::from),
            );
        }
        Ok(records)
    }

    async fn dialogs(&mut self, ids: Vec<String>) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        for ids in ids.chunks(MAX_BATCH_IDS) {
            let request = self.request(v1::BatchGetDialogStatsRequest {
                tenant_id: self.tenant.clone(),
                dialog_ids: ids.to_vec(),
            });
            let answer = self.service.batch_get_dialog_stats(request).await;
            records.extend(
                self.answer(answer)?
                    .dialog_stats
                    .into_iter()
                    .map(Record::from),
            );
        }
        Ok(records)
    }

    async fn messages(&mut self, ids: Vec<String>) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        for ids in ids.chunks(MAX_BATCH_IDS) {
            let request = self.request(v1::BatchGetMessageStatsRequest {
                tenant_id: self.tenant.clone(),
                message_ids: ids.to_vec(),
            });
            let answer = self.service.batch_get_message_stats(request).await;
            records.extend(
                self.answer(answer)?
                    .message_stats
                    .into_iter()
                    .map(Record::from),
            );
        }
        Ok(records)
    }

    async fn user_dialogs(
        &mut self,
        user: String,
        unread_only: bool,
        order_by: OrderBy,
    ) -> Result<Vec<Record>, Failure> {
        let (mut records, mut listed) = (Vec::new(), HashSet::new());
        let mut page_token = String::new();
        loop {
            let request = self.request(v1::ListUserDialogStatsRequest {
                tenant_id: self.tenant.clone(),
                user_id: user.clone(),
                unread_only,
                page_size: i32::from(MAX_PAGE_SIZE),
                page_token,
                order_by: v1::UserDialogOrder::from(order_by).into(),
            });
            let answer = self.service.list_user_dialog_stats(request).await;
            let page = self.answer(answer)?;
            // One that moved between two pages comes twice.
            let mut dialogs = page.user_dialog_stats;
            dialogs.retain(|dialog| listed.insert(dialog.dialog_id.clone()));
            records.extend(dialogs.into_iter().map(Record::from));
            if page.next_page_token.is_empty() {
                return Ok(records);
            }
            page_token = page.next_page_token;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        let status = match answer {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        // A deadline is also what tonic's own timer calls a cancelled call.
        let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        let failure = match status.code() {
            _ if late && !self.after_event.is_empty() => {
                let Client {
                    after_event,
                    timeout,
                    ..
                } = self;
                let message =
                    format!("the event {after_event:?} was not applied within {timeout:?}");
                Failure::new(ExitCode::No, message)
            }
            _ => remote::refused(&self.address, &status),
        };
        Err(failure)
    }
}

/// One answer: its fields, in the order of the wire.
pub(super) struct Record(Fields);

/// Names and values in the order in which they are shown.
struct Fields(Vec<(&'static str, Value)>);

impl serde::Serialize for Fields {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Record {
    /// Takes these fields out of a message, in this order.
    fn new(message: &impl serde::Serialize, names: &[&'static str]) -> Record {
        // A message of numbers, texts and times: there is nothing to fail.
        let fields = serde_json::to_value(message).unwrap_or_default();
        let value = |name: &str| match &fields[name] {
            Value::String(time) if TIME_FIELDS.contains(&name) => moment(time.parse().ok()).into(),
            value => value.clone(),
        };
        Record(Fields(
            names.iter().map(|&name| (name, value(name))).collect(),
        ))
    }

    /// Converts the record to a JSON object.
    pub(super) fn into_json(self) -> Value {
        let Fields(fields) = self.0;
        let fields = fields.into_iter();
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>()
            .into()
    }

    /// Formats the record with a field a line.
    fn lines(&self) -> String {
        let Fields(fields) = &self.0;
        let rows: Vec<Vec<String>> = fields
            .iter()
            .map(|(name, value)| vec![(*name).to_owned(), cell(value)])
            .collect();
        table(&[], &rows)
    }
}

/// A record a line, without the tenant that all have in common.
fn columns(records: &[Record]) -> String {
    let shown = |record: &Record| -> Vec<(&'static str, String)> {
        let Fields(fields) = &record.0;
        let shown = fields.iter().filter(|(name, _)| *name != "tenant_id");
        shown.map(|(name, value)| (*name, cell(value))).collect()
    };
    let Some(first) = records.first() else {
        return String::new();
    };
    let header: Vec<&str> = shown(first).into_iter().map(|(name, _)| name).collect();
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| shown(record).into_iter().map(|(_, cell)| cell).collect())
        .collect();
    table(&header, &rows)
}

/// Formats a value for a table.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Object(counts) if counts.is_empty() => "-".into(),
        Value::Object(counts) => {
            let counts: Vec<String> = counts
                .iter()
                .map(|(name, count)| format!("{name}={count}"))
                .collect();
            counts.join(" ")
        }
        other => other.to_string(),
    }
}

/// Fields of records that are times. The HTTP side shows them with groups of
/// three digits, the command line with no more digits than they need.
const TIME_FIELDS: [&str; 4] = ["joined_at", "last_message_at", "read_until", "updated_at"];

impl From<v1::UserStats> for Record {
    fn from(stats: v1::UserStats) -> Self {
        let names = [
            "tenant_id",
            "user_id",
            "dialog_count",
            "unread_dialogs_count",
            "total_unread_count",
            "total_messages_count",
            "unread_by_sender_type",
            "version",
            "updated_at",
        ];
        Record::new(&stats, &names)
    }
}

impl From<v1::UserDialogStats> for Record {
    fn from(stats: v1::UserDialogStats) -> Self {
        let names = [
            "tenant_id",
            "user_id",
            "dialog_id",
            "member",
            "unread_count",
            "unread_by_sender_type",
            "joined_at",
            "read_until",
            "version",
            "updated_at",
            "last_message_at",
        ];
        Record::new(&stats, &names)
    }
}

impl From<v1::DialogStats> for Record {
    fn from(stats: v1::DialogStats) -> Self {
        let names = [
            "tenant_id",
            "dialog_id",
            "message_count",
            "member_count",
            "topic_count",
            "last_message_at",
            "version",
            "updated_at",
        ];
        Record::new(&stats, &names)
    }
}

impl From<v1::MessageStats> for Record {
    fn from(stats: v1::MessageStats) -> Self {
        let names = [
            "tenant_id",
            "dialog_id",
            "message_id",
            "status_counts",
            "reaction_counts",
            "read_count",
        ];
        Record::new(&stats, &names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_as_lines_columns_and_json() {
        let record = |message: &str| {
            Record::from(v1::MessageStats {
                tenant_id: "t".into(),
                message_id: message.into(),
                status_counts: [("unread".into(), 2), ("read".into(), 1)].into(),
                read_count: 4,
                ..Default::default()
            })
        };
        assert_eq!(
            record("m").lines(),
            "tenant_id        t\ndialog_id        -\nmessage_id       m\n\
             status_counts    read=1 unread=2\nreaction_counts  -\nread_count       4\n"
        );
        assert_eq!(
            columns(&[record("m"), record("n")]),
            "dialog_id  message_id  status_counts    reaction_counts  read_count\n\
             -          m           read=1 unread=2  -                         4\n\
             -          n           read=1 unread=2  -                         4\n"
        );
        assert_eq!(
            serde_json::to_string(&record("m").0).unwrap(),
            r#"{"tenant_id":"t","dialog_id":"","message_id":"m","status_counts":{"read":1,"unread":2},"reaction_counts":{},"read_count":4}"#
        );
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn records_keep_the_order_of_the_wire_and_every_field_in_json() {
        let at = |nanos| {
            let seconds = 1_700_000_000;
            Some(prost_types::Timestamp { seconds, nanos })
        };
        let json = |record: Record| serde_json::to_string(&record.0).unwrap();
        let user = v1::UserStats {
            tenant_id: "t".into(),
            unread_by_sender_type: [("bot".into(), 1)].into(),
            updated_at: at(100_000_000),
            as_of: at(0),
            ..Default::default()
        };
        assert_eq!(
            json(user.into()),
            concat!(
                r#"{"tenant_id":"t","user_id":"","dialog_count":0,"unread_dialogs_count":0,"#,
                r#""total_unread_count":0,"total_messages_count":0,"unread_by_sender_type":{"bot":1},"#,
                r#""version":0,"updated_at":"2023-11-14T22:13:20.1Z"}"#
            )
        );
        let user_dialog = v1::UserDialogStats {
            joined_at: at(0),
            last_message_at: at(123_456_000),
            ..Default::default()
        };
        assert_eq!(
            json(user_dialog.into()),
            concat!(
                r#"{"tenant_id":"","user_id":"","dialog_id":"","member":false,"unread_count":0,"#,
                r#""unread_by_sender_type":{},"joined_at":"2023-11-14T22:13:20Z","read_until":null,"#,
                r#""version":0,"updated_at":null,"last_message_at":"2023-11-14T22:13:20.123456Z"}"#
            )
        );
        assert_eq!(
            json(v1::DialogStats::default().into()),
            concat!(
                r#"{"tenant_id":"","dialog_id":"","message_count":0,"member_count":0,"#,
                r#""topic_count":0,"last_message_at":null,"version":0,"updated_at":null}"#
            )
        );
    }
}
