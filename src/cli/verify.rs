//! `verify`: counters against the recorded facts, by a running service or in
//! the database itself.

mod checkpoint;

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::admin::{AdminRoute, Executor};
use super::output::{self, Output};
use super::progress::bar;
use super::remote::{Connection, count, work_refused};
use super::{ExitCode, Failure, Global, interruption, operator};
use crate::config::Config;
use crate::event::{DialogId, TenantId};
use crate::grpc::{check_repair_reason, counter_differences, v1};
use crate::maintenance::Verifier;
use crate::maintenance::sweep::{Sweep, SweepScope, SweepTally, SweepUnit};
use crate::store::Store;
use crate::store::verify::RepairReason;
use v1::maintenance_service_client::MaintenanceServiceClient;
use v1::verify_counters_response::Event;

/// What to do about a verification that a service did not end.
const RESUMABLE: &str = "--direct verifies in this process and can be continued with --resume";

/// Recount counters from the recorded facts and compare
#[derive(Debug, Args)]
#[command(
    long_about = "Recounts every counter from the facts that are recorded in MongoDB (messages, \
                  memberships, receipts, reactions, topics) and compares it with the stored one, \
                  dialog by dialog, each as of one moment: the service may run, and events in \
                  flight are no differences. Asks a running service, and works on MongoDB \
                  directly when none answers, and for --resume, which a service does not have.\n\n\
                  --repair sets what differs to what was counted, and nothing else, unless the \
                  dialog has changed meanwhile (then it is recounted), and records who did it and \
                  why in the journal.",
    after_help = "Exit codes:\n  \
                  0  nothing differs, or no longer\n  \
                  1  counters differ, or it was interrupted\n  \
                  2  wrong usage or configuration\n  \
                  3  a server cannot be reached or refuses, or the service is verifying already\n\n\
                  Examples:\n  \
                  chat-counters verify\n  \
                  chat-counters verify --tenant acme --dialog d1 --repair --reason 'restored backup'\n  \
                  chat-counters verify --sample 1 --rate 50 --output json\n  \
                  chat-counters verify --resume /var/tmp/verify.json"
)]
pub(super) struct Verify {
    #[command(flatten)]
    route: AdminRoute,
    /// Only this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only this dialog of it
    #[arg(long, value_name = "ID", requires = "tenant", conflicts_with_all = ["sample", "resume"])]
    dialog: Option<String>,
    /// So many percent of the dialogs, drawn anew in each run
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    sample: Option<f64>,
    /// Set what differs to what was counted
    #[arg(long)]
    repair: bool,
    /// Why, for the record of a repair
    #[arg(
        long,
        value_name = "TEXT",
        requires = "repair",
        default_value = "verify --repair",
        value_parser = reason
    )]
    reason: String,
    /// At most so many dialogs a second
    #[arg(long, value_name = "DIALOGS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Where progress is kept: an interrupted run goes on where it was; removed at the end. Works on MongoDB directly
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    resume: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("expected a number above 0, up to 100".into()),
    }
}

fn reason(text: &str) -> Result<String, String> {
    check_repair_reason(text).map(|()| text.to_owned())
}

impl Verify {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let config = global.quietly()?.config;
        let scope = self.scope()?;
        let stop = interruption()?;
        let executor = match self.resume {
            Some(_) => self.route.this_process(global, "--resume")?,
            None => self.route.executor(global, &config, "MongoDB").await?,
        };
        let mut job = VerifyJob {
            args: &self,
            output: global.output,
            begun: Instant::now(),
            bar: progress_bar(None),
            tally: SweepTally::default(),
        };
        let (ended, interrupted) = tokio::select! {
            ended = job.work(executor, scope, &config) => (ended, false),
            _ = stop => (Ok(()), true),
        };
        job.bar.finish_and_clear();
        ended?;
        job.finish(interrupted)
    }

    fn scope(&self) -> Result<SweepScope, Failure> {
        let usage = |what, error| Failure::new(ExitCode::Usage, format!("--{what}: {error}"));
        let tenant = self.tenant.as_deref().map(TenantId::new).transpose();
        let dialog = self.dialog.as_deref().map(DialogId::new).transpose();
        Ok(SweepScope {
            tenant: tenant.map_err(|error| usage("tenant", error))?,
            dialog: dialog.map_err(|error| usage("dialog", error))?,
            sample: self.sample,
            rate: self.rate,
            after: None,
        })
    }

    fn request(&self) -> v1::VerifyCountersRequest {
        v1::VerifyCountersRequest {
            tenant_id: self.tenant.clone().unwrap_or_default(),
            dialog_id: self.dialog.clone().unwrap_or_default(),
            sample_percent: self.sample.unwrap_or_default(),
            dialogs_per_second: self.rate.unwrap_or_default(),
            repair: self.repair,
            reason: self.reason.clone(),
        }
    }
}

/// A verification under way, as the person at the terminal sees it.
struct VerifyJob<'a> {
    args: &'a Verify,
    output: Output,
    begun: Instant,
    bar: ProgressBar,
    tally: SweepTally,
}

impl VerifyJob<'_> {
    async fn work(
        &mut self,
        executor: Executor,
        scope: SweepScope,
        config: &Config,
    ) -> Result<(), Failure> {
        match executor {
            Executor::Service {
                connection,
                address,
            } => self.ask(connection, &address).await,
            Executor::ThisProcess => self.sweep(scope, config).await,
        }
    }

    /// Shows what a service finds.
    async fn ask(&mut self, connection: Connection, address: &str) -> Result<(), Failure> {
        let refused = |status| not_verified(address, &status);
        let mut service = MaintenanceServiceClient::new(connection);
        let answers = service.verify_counters(self.args.request()).await;
        let mut answers = read_ahead(answers.map_err(refused)?.into_inner());
        let mut differing = (String::new(), String::new());
        while let Some(answer) = answers.recv().await {
            let answer = answer.map_err(|status| refused(status).advising(RESUMABLE))?;
            match answer.event {
                Some(Event::Difference(found)) => {
                    // Those of a dialog come one after the other.
                    let dialog = (found.tenant_id.clone(), found.dialog_id.clone());
                    if !found.dialog_id.is_empty() && dialog != differing {
                        self.tally.differing_dialogs += 1;
                        differing = dialog;
                    }
                    self.tally.differences += 1;
                    self.tally.repaired += u64::from(found.repaired);
                    self.show(&[found])?;
                }
                Some(Event::Progress(progress)) => {
                    self.advance(&progress);
                    if progress.done {
                        return Ok(());
                    }
                }
                None => {}
            }
        }
        let message = format!("the service at {address} ended before everything was verified");
        Err(Failure::new(ExitCode::Server, message).advising(RESUMABLE))
    }

    /// Moves the bar to where a service is.
    fn advance(&mut self, progress: &v1::VerifyProgress) {
        self.tally.dialogs = count(progress.dialogs);
        self.tally.messages = count(progress.messages);
        if progress.estimated_dialogs > 0 && self.bar.length().is_none() {
            let drawn = self.args.sample.unwrap_or(100.0) / 100.0;
            let dialogs = progress.estimated_dialogs as f64 * drawn;
            self.bar = progress_bar(Some(dialogs as u64));
        }
        self.bar.set_position(self.tally.dialogs);
    }

    /// Verifies in this process; goes on from a checkpoint, if there is one.
    async fn sweep(&mut self, mut scope: SweepScope, config: &Config) -> Result<(), Failure> {
        let resume = self.args.resume.as_deref();
        let checkpoint = resume.map(checkpoint::load).transpose()?;
        if let Some((after, tally)) = checkpoint.flatten() {
            scope.after = Some(after);
            self.tally = tally;
        }
        let store = Store::connect(&config.store).await?;
        if scope.tenant.is_none() && scope.after.is_none() {
            self.bar = progress_bar(Some(store.estimated_dialogs().await?));
        }
        let repair = self.args.repair.then(|| RepairReason {
            actor: operator(),
            text: self.args.reason.clone(),
        });
        let sweep = Sweep::new(Verifier::new(store, repair), scope);
        let mut sweep = sweep.counting_from(self.tally);
        while let Some((unit, verified)) = sweep.next().await? {
            self.tally = sweep.tally();
            self.bar.set_position(sweep.passed());
            let differences: Vec<_> = counter_differences(&unit, verified).collect();
            if !differences.is_empty() {
                self.show(&differences)?;
            }
            if let (Some(path), SweepUnit::Dialog(key)) = (resume, &unit) {
                checkpoint::save(path, key, self.tally)?;
            }
        }
        resume.map_or(Ok(()), checkpoint::remove)
    }

    fn show(&self, differences: &[v1::CounterDifference]) -> Result<(), Failure> {
        let mut text = String::new();
        for difference in differences {
            text += &match self.output {
                Output::Table => as_text(difference),
                Output::Json => as_json(difference)?,
            };
            text.push('\n');
        }
        self.bar.suspend(|| output::print(&text))?;
        let found = self.tally.differences;
        self.bar.set_message(format!("{found} differences"));
        Ok(())
    }

    fn finish(self, interrupted: bool) -> Result<ExitCode, Failure> {
        let tally = self.tally;
        let seconds = self.begun.elapsed().as_secs_f64();
        let text = match self.output {
            Output::Json => {
                let summary = VerifySummary {
                    tally,
                    interrupted,
                    seconds,
                };
                serde_json::json!({ "summary": summary }).to_string()
            }
            Output::Table => format!(
                "{}{} dialogs and {} messages recounted in {seconds:.1} s: {} counters differ in {} dialogs, {} repaired",
                if interrupted { "interrupted: " } else { "" },
                tally.dialogs,
                tally.messages,
                tally.differences,
                tally.differing_dialogs,
                tally.repaired,
            ),
        };
        output::print(&format!("{text}\n"))?;
        Ok(match tally.differences > tally.repaired || interrupted {
            true => ExitCode::No,
            false => ExitCode::Done,
        })
    }
}

/// Reads the answers of a service as they come, however long printing one takes
/// (`verify | less`): a service cuts the call of a caller who does not read.
fn read_ahead(
    mut answers: Streaming<v1::VerifyCountersResponse>,
) -> mpsc::UnboundedReceiver<Result<v1::VerifyCountersResponse, Status>> {
    #[allow(
        clippy::disallowed_methods,
        reason = "the number of differences is its limit"
    )]
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer.transpose(),
                () = sender.closed() => return,
            };
            let Some(answer) = answer else { return };
            let failed = answer.is_err();
            if sender.send(answer).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Why a service does not verify. That it has no time for this one is no answer
/// about the counters.
fn not_verified(address: &str, status: &Status) -> Failure {
    match status.code() {
        Code::ResourceExhausted => Failure::new(ExitCode::Server, status.message()),
        _ => work_refused(address, status),
    }
}

/// What came of a run, for programs.
#[derive(Debug, Serialize)]
struct VerifySummary {
    #[serde(flatten)]
    tally: SweepTally,
    interrupted: bool,
    seconds: f64,
}

/// Formats a difference as a line for people.
fn as_text(difference: &v1::CounterDifference) -> String {
    let v1::CounterDifference {
        tenant_id,
        dialog_id,
        user_id,
        message_id,
        counter,
        ..
    } = difference;
    let value = |value: Option<i64>| value.map_or("nothing".into(), |value| value.to_string());
    let dialog = match dialog_id.as_str() {
        "" => "(no dialog)",
        dialog => dialog,
    };
    let subject = match (user_id.as_str(), message_id.as_str()) {
        ("", "") => String::new(),
        (user, "") => format!("user {user} "),
        (_, message) => format!("message {message} "),
    };
    let (stored, counted) = (value(difference.stored), value(difference.counted));
    let line =
        format!("{tenant_id} {dialog}  {subject}{counter}: {stored} stored, {counted} counted");
    // No text of an event may drive the terminal.
    let line = line.replace(char::is_control, "\u{fffd}");
    match difference.repaired {
        true => line + "  (repaired)",
        false => line,
    }
}

/// Formats a difference as a line of JSON. The dialog of a message whose create
/// is not known is `null`.
fn as_json(difference: &v1::CounterDifference) -> Result<String, Failure> {
    let mut line = output::sorted(difference)?;
    if difference.dialog_id.is_empty() {
        line["dialog_id"] = serde_json::Value::Null;
    }
    Ok(line.to_string())
}

fn progress_bar(dialogs: Option<u64>) -> ProgressBar {
    let template = match dialogs {
        Some(_) => "{bar:30} {pos}/{len} dialogs  {msg}  {elapsed}, {eta} left",
        None => "{spinner} {pos} dialogs  {msg}  {elapsed}",
    };
    bar(dialogs, template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_line() {
        let of_user = v1::CounterDifference {
            tenant_id: "t".into(),
            dialog_id: "d\u{1b}".into(),
            user_id: "ann".into(),
            counter: "total_messages_count".into(),
            stored: None,
            counted: Some(10),
            repaired: true,
            ..Default::default()
        };
        assert_eq!(
            as_text(&of_user),
            "t d\u{fffd}  user ann total_messages_count: nothing stored, 10 counted  (repaired)"
        );
        assert_eq!(
            as_json(&of_user).unwrap(),
            concat!(
                r#"{"counted":10,"counter":"total_messages_count","dialog_id":"d\u001b","#,
                r#""repaired":true,"stored":null,"tenant_id":"t","user_id":"ann"}"#
            )
        );
        let of_message = v1::CounterDifference {
            tenant_id: "t".into(),
            message_id: "m".into(),
            counter: "status_counts.read".into(),
            stored: Some(6),
            ..Default::default()
        };
        assert_eq!(
            as_text(&of_message),
            "t (no dialog)  message m status_counts.read: 6 stored, nothing counted"
        );
        assert_eq!(
            as_json(&of_message).unwrap(),
            concat!(
                r#"{"counted":null,"counter":"status_counts.read","dialog_id":null,"#,
                r#""message_id":"m","repaired":false,"stored":6,"tenant_id":"t"}"#
            )
        );
    }

    #[test]
    fn a_service_without_time_for_it_is_no_difference() {
        let code = |status| {
            let failure = not_verified("a:1", &status).advising(RESUMABLE);
            format!("{failure:?}")
        };
        let busy = code(Status::resource_exhausted(
            "another verification is under way",
        ));
        assert!(
            busy.contains("Server") && busy.contains("under way"),
            "{busy}"
        );
        let gone = code(Status::unavailable("gone"));
        assert!(
            gone.contains("Server") && gone.contains("--direct"),
            "{gone}"
        );
    }

    #[test]
    fn a_reason_is_one_that_the_record_takes() {
        assert_eq!(reason("a test").as_deref(), Ok("a test"));
        assert!(reason(&"x".repeat(1_000)).is_ok());
        for wrong in ["", " \t", &"x".repeat(1_001)] {
            assert!(reason(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_summary_in_json() {
        let summary = VerifySummary {
            tally: SweepTally {
                dialogs: 2,
                ..Default::default()
            },
            interrupted: false,
            seconds: 0.5,
        };
        assert_eq!(
            serde_json::json!({ "summary": summary }).to_string(),
            concat!(
                r#"{"summary":{"dialogs":2,"differences":0,"differing_dialogs":0,"#,
                r#""interrupted":false,"messages":0,"repaired":0,"seconds":0.5}}"#
            )
        );
    }
}
