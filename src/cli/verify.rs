//! `verify`: counters against the recorded facts, in the database itself.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::output::{self, Output};
use super::progress::bar;
use super::{ExitCode, Failure, Global, operator};
use crate::derive::state::DialogKey;
use crate::event::{DialogId, TenantId};
use crate::maintenance::sweep::{Scope, Sweep, Tally, Unit};
use crate::maintenance::{Verified, Verifier};
use crate::shutdown;
use crate::store::Store;
use crate::store::repair::Reason;

/// Recount counters from the recorded facts and compare
#[derive(Debug, Args)]
#[command(
    long_about = "Recounts every counter from the facts that are recorded in MongoDB (messages, \
                  memberships, receipts, reactions, topics) and compares it with the stored one, \
                  dialog by dialog, each as of one moment: the service may run, and events in \
                  flight are no differences. Works on MongoDB directly; the service need not run.\n\n\
                  --repair sets what differs to what was counted, and nothing else, unless the \
                  dialog has changed meanwhile (then it is recounted), and records who did it and \
                  why in the journal.",
    after_help = "Exit codes:\n  \
                  0  nothing differs, or no longer\n  \
                  1  counters differ, or it was interrupted\n  \
                  2  wrong usage or configuration\n  \
                  3  MongoDB cannot be reached or refuses\n\n\
                  Examples:\n  \
                  chat-counters verify\n  \
                  chat-counters verify --tenant acme --dialog d1 --repair --reason 'restored backup'\n  \
                  chat-counters verify --sample 1 --rate 50 --output json\n  \
                  chat-counters verify --resume /var/tmp/verify.json"
)]
pub(super) struct Verify {
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
        default_value = "verify --repair"
    )]
    reason: String,
    /// At most so many dialogs a second
    #[arg(long, value_name = "DIALOGS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Where progress is kept: an interrupted run goes on where it was; removed at the end
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("expected a number above 0, up to 100".into()),
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    dialogs: u64,
    messages: u64,
    differing_dialogs: u64,
    differences: u64,
    repaired: u64,
    interrupted: bool,
    seconds: f64,
}

/// What a run leaves for the next one.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    tenant: String,
    dialog: String,
    dialogs: u64,
    messages: u64,
    differing_dialogs: u64,
    differences: u64,
    repaired: u64,
}

impl Verify {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let config = global.quietly()?.config;
        let usage = |what, error| Failure::new(ExitCode::Usage, format!("--{what}: {error}"));
        let tenant = self.tenant.as_deref().map(TenantId::new).transpose();
        let tenant = tenant.map_err(|error| usage("tenant", error))?;
        let dialog = self.dialog.as_deref().map(DialogId::new).transpose();
        let dialog = dialog.map_err(|error| usage("dialog", error))?;
        let stop = shutdown::signal().map_err(|error| {
            Failure::new(ExitCode::No, format!("cannot handle signals: {error}"))
        })?;
        let store = Store::connect(&config.store).await?;
        let mut scope = Scope {
            tenant,
            dialog,
            sample: self.sample,
            rate: self.rate,
            after: None,
        };
        let mut tally = Tally::default();
        if let Some(found) = self.resumed()? {
            (scope.after, tally) = (Some(found.0), found.1);
        }
        let bar = progress(match (&scope.tenant, &scope.after) {
            (None, None) => Some(store.estimated_dialogs().await?),
            _ => None,
        });
        let repair = self.repair.then(|| Reason {
            actor: operator(),
            text: self.reason.clone(),
        });
        let sweep = Sweep::new(Verifier::new(store, repair), scope);
        let mut job = Job {
            sweep: sweep.counting_from(tally),
            args: &self,
            output: global.output,
            begun: Instant::now(),
            bar,
        };
        let (ended, interrupted) = tokio::select! {
            ended = job.work() => (ended, false),
            _ = stop => (Ok(()), true),
        };
        job.bar.finish_and_clear();
        ended?;
        job.finish(interrupted)
    }

    /// The dialog after which to go on, and what was found up to it.
    fn resumed(&self) -> Result<Option<(DialogKey, Tally)>, Failure> {
        let Some(path) = &self.resume else {
            return Ok(None);
        };
        let refuse = |why: String| {
            let message = format!("--resume {}: {why}", path.display());
            Failure::new(ExitCode::Usage, message)
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(error.to_string())),
        };
        let unusable = |error: String| refuse(format!("not the progress of a run: {error}"));
        let progress: Progress =
            serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        let after = DialogKey {
            tenant: TenantId::new(&progress.tenant).map_err(|e| unusable(e.to_string()))?,
            dialog: DialogId::new(&progress.dialog).map_err(|e| unusable(e.to_string()))?,
        };
        let tally = Tally {
            dialogs: progress.dialogs,
            messages: progress.messages,
            differing_dialogs: progress.differing_dialogs,
            differences: progress.differences,
            repaired: progress.repaired,
        };
        Ok(Some((after, tally)))
    }
}

struct Job<'a> {
    sweep: Sweep,
    args: &'a Verify,
    output: Output,
    begun: Instant,
    bar: ProgressBar,
}

impl Job<'_> {
    async fn work(&mut self) -> Result<(), Failure> {
        while let Some((unit, verified)) = self.sweep.next().await? {
            self.bar.set_position(self.sweep.passed());
            if !verified.differences.is_empty() {
                self.bar.suspend(|| self.show(&unit, &verified))?;
                let differences = self.sweep.tally().differences;
                self.bar.set_message(format!("{differences} differences"));
            }
            if let Unit::Dialog(key) = &unit {
                self.remember(key)?;
            }
        }
        match &self.args.resume {
            Some(path) => remove(path),
            None => Ok(()),
        }
    }

    fn show(&self, unit: &Unit, verified: &Verified) -> io::Result<()> {
        let mut text = String::new();
        for difference in &verified.differences {
            match self.output {
                Output::Table => {
                    let dialog = unit.dialog().map_or("(no dialog)", DialogId::as_str);
                    let line = format!("{} {dialog}  {difference}", unit.tenant());
                    text.push_str(&line.replace(char::is_control, "\u{fffd}"));
                    text.push_str(if verified.repaired {
                        "  (repaired)"
                    } else {
                        ""
                    });
                }
                Output::Json => text.push_str(&line(unit, verified.repaired, difference)?),
            }
            text.push('\n');
        }
        output::print(&text)
    }

    fn remember(&self, key: &DialogKey) -> Result<(), Failure> {
        let Some(path) = &self.args.resume else {
            return Ok(());
        };
        let tally = self.sweep.tally();
        let progress = Progress {
            tenant: key.tenant.to_string(),
            dialog: key.dialog.to_string(),
            dialogs: tally.dialogs,
            messages: tally.messages,
            differing_dialogs: tally.differing_dialogs,
            differences: tally.differences,
            repaired: tally.repaired,
        };
        let text = serde_json::to_string(&progress).map_err(io::Error::other)?;
        // Never half a file, whenever the process ends.
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, path)?)
    }

    fn finish(self, interrupted: bool) -> Result<ExitCode, Failure> {
        let tally = self.sweep.tally();
        let summary = Summary {
            dialogs: tally.dialogs,
            messages: tally.messages,
            differing_dialogs: tally.differing_dialogs,
            differences: tally.differences,
            repaired: tally.repaired,
            interrupted,
            seconds: self.begun.elapsed().as_secs_f64(),
        };
        let remain = summary.differences - summary.repaired;
        match self.output {
            Output::Json => {
                let text = serde_json::to_string(&serde_json::json!({ "summary": summary }));
                output::print(&format!("{}\n", text.map_err(io::Error::other)?))?;
            }
            Output::Table => output::print(&format!(
                "{}{} dialogs and {} messages recounted in {:.1} s: {} counters differ in {} dialogs, {} repaired\n",
                if summary.interrupted {
                    "interrupted: "
                } else {
                    ""
                },
                summary.dialogs,
                summary.messages,
                summary.seconds,
                summary.differences,
                summary.differing_dialogs,
                summary.repaired,
            ))?,
        }
        Ok(match remain > 0 || summary.interrupted {
            true => ExitCode::No,
            false => ExitCode::Done,
        })
    }
}

/// A difference as one line of JSON.
fn line(unit: &Unit, repaired: bool, difference: &crate::verify::Difference) -> io::Result<String> {
    let mut object = serde_json::json!({
        "tenant_id": unit.tenant().as_str(),
        "dialog_id": unit.dialog().map(DialogId::as_str),
        "repaired": repaired,
    });
    let difference = serde_json::to_value(difference).map_err(io::Error::other)?;
    if let (Some(object), serde_json::Value::Object(fields)) = (object.as_object_mut(), difference)
    {
        object.extend(fields);
    }
    Ok(object.to_string())
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn progress(dialogs: Option<u64>) -> ProgressBar {
    let template = match dialogs {
        Some(_) => "{bar:30} {pos}/{len} dialogs  {msg}  {elapsed}, {eta} left",
        None => "{spinner} {pos} dialogs  {msg}  {elapsed}",
    };
    bar(dialogs, template)
}
