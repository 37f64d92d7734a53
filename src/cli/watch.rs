//! `watch`: how users and dialogs stand, live.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tonic::{Code, Status};

use super::access::{ServicePort, Target};
use super::get::Record;
use super::output::{self, Output};
use super::remote::{self, Connection};
use super::{ExitCode, Failure, Global};
use crate::grpc::v1;
use crate::shutdown;
use v1::counter_service_client::CounterServiceClient;

/// The wait before a stream that broke is opened again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Watch counters change, live
#[derive(Debug, Args)]
#[command(
    long_about = "Shows how users or dialogs stand, and every change as it is counted, until \
                  Ctrl-C. A stream that breaks is opened again and goes on where it was. With \
                  --output json each change is a line of JSON.",
    after_help = "Exit codes:\n  \
                  0  ended by Ctrl-C, or after --updates\n  \
                  2  wrong usage or configuration, or an id that cannot be\n  \
                  3  the service cannot be reached at first, or refuses\n\n\
                  Examples:\n  \
                  chat-counters watch user alice --tenant acme\n  \
                  chat-counters watch user alice bob --tenant acme --output json\n  \
                  chat-counters watch dialog d1 --tenant acme --updates 10"
)]
pub(super) struct Watch {
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
    /// The least time between two updates about one of them, in milliseconds: 10 to 60000
    #[arg(
        long,
        global = true,
        value_name = "MILLISECONDS",
        default_value_t = 100
    )]
    interval_ms: i32,
    /// End after so many updates; 0 = never
    #[arg(long, global = true, value_name = "COUNT", default_value_t = 0)]
    updates: u64,
    /// The service; default: grpc.listen of the configuration
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,
}

/// Whose counters are watched.
#[derive(Debug, Subcommand)]
enum Subject {
    /// Users, and the dialogs in which something changes for them
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
}

/// An update as it is shown to people and to programs.
struct ShownUpdate {
    line: String,
    value: Value,
}

/// What is watched, and where it was.
struct Watching {
    service: CounterServiceClient<Connection>,
    address: String,
    watch: Watch,
    resume_token: String,
    shown: u64,
}

/// Why a stream is not read on.
enum StreamEnd {
    /// As many updates were shown as were asked for.
    Enough,
    Broken(Status),
}

impl Watch {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        if self.tenant.is_empty() {
            return Err(Failure::new(ExitCode::Usage, "--tenant ID is required"));
        }
        let config = global.quietly()?.config;
        let address = self.address.as_deref();
        let listen = &config.grpc.listen;
        let target: Target = global
            .access
            .target(address, ServicePort::Counters, listen)?;
        let (address, connection) = remote::connect(target).await?;
        let watching = Watching {
            service: CounterServiceClient::new(connection),
            address,
            watch: self,
            resume_token: String::new(),
            shown: 0,
        };
        let interrupted = shutdown::signal()?;
        tokio::select! {
            ended = watching.run(global.output) => ended,
            _ = interrupted => Ok(ExitCode::Done),
        }
    }
}

impl Watching {
    async fn run(mut self, output: Output) -> Result<ExitCode, Failure> {
        loop {
            let before = self.shown;
            let broken = match self.read(output).await? {
                StreamEnd::Enough => return Ok(ExitCode::Done),
                StreamEnd::Broken(status) => status,
            };
            let will_pass = matches!(broken.code(), Code::Unavailable | Code::Unknown);
            // What never worked is not for waiting.
            if !will_pass || (self.shown == 0 && before == 0 && self.resume_token.is_empty()) {
                return Err(remote::refused(&self.address, &broken));
            }
            output::aside(&format!("watching again: {}", broken.message()));
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    /// Shows what one stream sends until it ends.
    async fn read(&mut self, output: Output) -> Result<StreamEnd, Failure> {
        let (tenant_id, min_interval_ms) = (self.watch.tenant.clone(), self.watch.interval_ms);
        let resume_token = self.resume_token.clone();
        match &self.watch.what {
            Subject::User { users } => {
                let request = v1::WatchUserStatsRequest {
                    tenant_id,
                    user_ids: users.clone(),
                    min_interval_ms,
                    resume_token,
                };
                let mut stream = match self.service.watch_user_stats(request).await {
                    Ok(stream) => stream.into_inner(),
                    Err(status) => return Ok(StreamEnd::Broken(status)),
                };
                loop {
                    match stream.message().await {
                        Ok(Some(told)) => {
                            let shown = told.updates.into_iter().map(ShownUpdate::from);
                            if self.show(shown, told.resume_token, output)? {
                                return Ok(StreamEnd::Enough);
                            }
                        }
                        ended => return Ok(broken(ended)),
                    }
                }
            }
            Subject::Dialog { dialogs } => {
                let request = v1::WatchDialogStatsRequest {
                    tenant_id,
                    dialog_ids: dialogs.clone(),
                    min_interval_ms,
                    resume_token,
                };
                let mut stream = match self.service.watch_dialog_stats(request).await {
                    Ok(stream) => stream.into_inner(),
                    Err(status) => return Ok(StreamEnd::Broken(status)),
                };
                loop {
                    match stream.message().await {
                        Ok(Some(told)) => {
                            let shown = told.dialog_stats.into_iter().map(ShownUpdate::from);
                            if self.show(shown, told.resume_token, output)? {
                                return Ok(StreamEnd::Enough);
                            }
                        }
                        ended => return Ok(broken(ended)),
                    }
                }
            }
        }
    }

    /// Shows changes; `true` once they are as many as were asked for.
    fn show(
        &mut self,
        changes: impl Iterator<Item = ShownUpdate>,
        resume_token: String,
        output: Output,
    ) -> Result<bool, Failure> {
        for change in changes {
            match output {
                Output::Table => output::print(&format!("{}  {}\n", clock(), change.line))?,
                Output::Json => output::print(&format!("{}\n", change.value))?,
            }
            self.shown += 1;
            if self.shown == self.watch.updates {
                return Ok(true);
            }
        }
        if !resume_token.is_empty() {
            self.resume_token = resume_token;
        }
        Ok(false)
    }
}

fn broken<M>(ended: Result<Option<M>, Status>) -> StreamEnd {
    let over = || Status::unavailable("the stream has ended");
    StreamEnd::Broken(ended.err().unwrap_or_else(over))
}

/// The time of the day, UTC.
fn clock() -> String {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second, millis) = now.to_hms_milli();
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// No text of an event may drive the terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl From<v1::UserUpdate> for ShownUpdate {
    fn from(update: v1::UserUpdate) -> Self {
        let stats = update.user_stats.unwrap_or_default();
        let in_dialog = |stats: &v1::UserDialogStats| match stats.member {
            true => format!("{}: {}", plain(&stats.dialog_id), stats.unread_count),
            false => format!("{}: left", plain(&stats.dialog_id)),
        };
        let dialogs = update.user_dialog_stats.iter().map(in_dialog);
        let mut dialogs: Vec<String> = dialogs.collect();
        if update.others_may_have_changed {
            dialogs.push("...".into());
        }
        let line = format!(
            "{}  unread {} in {} of {} dialogs  [{}]",
            plain(&stats.user_id),
            stats.total_unread_count,
            stats.unread_dialogs_count,
            stats.dialog_count,
            dialogs.join(", ")
        );
        let of_dialogs = update.user_dialog_stats.into_iter().map(Record::from);
        let of_dialogs: Vec<Value> = of_dialogs.map(Record::into_json).collect();
        let value = json!({
            "user_stats": Record::from(stats).into_json(),
            "user_dialog_stats": of_dialogs,
            "others_may_have_changed": update.others_may_have_changed,
        });
        Self { line, value }
    }
}

impl From<v1::DialogStats> for ShownUpdate {
    fn from(stats: v1::DialogStats) -> Self {
        let line = format!(
            "{}  {} messages  {} members  {} topics",
            plain(&stats.dialog_id),
            stats.message_count,
            stats.member_count,
            stats.topic_count
        );
        let value = json!({ "dialog_stats": Record::from(stats).into_json() });
        Self { line, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let in_dialog = |dialog: &str, member| v1::UserDialogStats {
            dialog_id: dialog.into(),
            member,
            unread_count: 3,
            ..Default::default()
        };
        let shown = ShownUpdate::from(v1::UserUpdate {
            user_stats: Some(v1::UserStats {
                user_id: "al\u{1b}ice".into(),
                total_unread_count: 3,
                unread_dialogs_count: 1,
                dialog_count: 2,
                ..Default::default()
            }),
            user_dialog_stats: vec![in_dialog("d1", true), in_dialog("d2", false)],
            others_may_have_changed: true,
        });
        assert_eq!(
            shown.line,
            "al\u{fffd}ice  unread 3 in 1 of 2 dialogs  [d1: 3, d2: left, ...]"
        );
        assert_eq!(shown.value["user_dialog_stats"][1]["dialog_id"], "d2");
        assert_eq!(shown.value["user_stats"]["updated_at"], Value::Null);
        let begins = r#"{"others_may_have_changed":true,"user_dialog_stats":[{"dialog_id":"d1","joined_at":null,"#;
        assert!(shown.value.to_string().starts_with(begins));
        let shown = ShownUpdate::from(v1::DialogStats {
            dialog_id: "d1".into(),
            message_count: 4,
            ..Default::default()
        });
        assert_eq!(shown.line, "d1  4 messages  0 members  0 topics");
        assert_eq!(
            shown.value.to_string(),
            concat!(
                r#"{"dialog_stats":{"dialog_id":"d1","last_message_at":null,"member_count":0,"#,
                r#""message_count":4,"tenant_id":"","topic_count":0,"updated_at":null,"version":0}}"#
            )
        );
    }
}
