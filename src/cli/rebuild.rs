//! `rebuild`: all counters and facts anew from the journal, in the database
//! itself.

use std::io;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::output::{self, Output};
use super::progress::bar;
use super::{ExitCode, Failure, Global, operator};
use crate::event::TenantId;
use crate::maintenance::rebuild::{Outcome, Progress, RebuildError, abandon, rebuild};
use crate::shutdown;
use crate::store::Store;
use crate::store::rebuild::Phase;

const TEMPLATE: &str = "{bar:30} {pos}/{len} records, {per_sec}  {msg}  {elapsed}, {eta} left";

/// How often the bar is moved.
const TICK: Duration = Duration::from_millis(200);

/// Make all counters and facts anew from the journal
#[derive(Debug, Args)]
#[command(
    long_about = "Replays the journal of all events into collections beside those that are \
                  served, follows what is added meanwhile, and switches over once nothing is \
                  left: until then readers see the old counters, from then on the new ones. The \
                  service may run; its writers wait for the moment of the switch, and at most ten \
                  seconds. Works on MongoDB directly; the service need not run.\n\n\
                  Interrupting it, or killing it, harms nothing: the same command goes on where it \
                  was, --abandon gives it up. Needs the whole journal: once \
                  store.journal_retention_days has taken its oldest records it refuses, and `verify \
                  --repair` is what mends counters. Needs room for a second copy.",
    after_help = "Exit codes:\n  \
                  0  switched over (--abandon: given up, or there was none)\n  \
                  1  interrupted, or it cannot be done\n  \
                  2  wrong usage or configuration\n  \
                  3  MongoDB cannot be reached or refuses\n\n\
                  Examples:\n  \
                  chat-counters rebuild\n  \
                  chat-counters rebuild --tenant acme --output json\n  \
                  chat-counters rebuild --abandon"
)]
pub(super) struct Rebuild {
    /// Only this tenant
    #[arg(long, value_name = "ID", conflicts_with = "abandon")]
    tenant: Option<String>,
    /// Give up the rebuild that was begun, and remove what it has made
    #[arg(long)]
    abandon: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    events: u64,
    seconds: f64,
    events_per_second: f64,
    switched_over: bool,
}

impl Rebuild {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let config = global.quietly()?.config;
        let tenant = self.tenant.as_deref().map(TenantId::new).transpose();
        let tenant =
            tenant.map_err(|error| Failure::new(ExitCode::Usage, format!("--tenant: {error}")))?;
        let store = Store::connect(&config.store).await?;
        let done = match self.abandon {
            true => give_up(&store, global.output).await,
            false => replay(&store, tenant.as_ref(), global.output).await,
        };
        store.close().await;
        done
    }
}

async fn give_up(store: &Store, output: Output) -> Result<ExitCode, Failure> {
    let abandoned = abandon(store, &operator()).await?;
    let text = match (output, abandoned) {
        (Output::Json, _) => serde_json::json!({ "abandoned": abandoned }).to_string(),
        (Output::Table, true) => "abandoned; what it had made is removed".into(),
        (Output::Table, false) => "there is no rebuild to abandon".into(),
    };
    output::print(&format!("{text}\n"))?;
    Ok(ExitCode::Done)
}

async fn replay(
    store: &Store,
    tenant: Option<&TenantId>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let signal = shutdown::signal()
        .map_err(|error| Failure::new(ExitCode::No, format!("cannot handle signals: {error}")))?;
    let (trigger, stop) = shutdown::channel();
    let (progress, seen) = watch::channel(Progress::default());
    let begun = Instant::now();
    let bar = bar(None, TEMPLATE);
    let by = operator();
    let mut working = std::pin::pin!(rebuild(store, tenant, &by, stop, progress));
    let mut signal = std::pin::pin!(signal);
    let mut before = None;
    let mut tick = tokio::time::interval(TICK);
    let outcome = loop {
        tokio::select! {
            outcome = &mut working => break outcome,
            _ = &mut signal, if !bar.is_finished() => {
                bar.finish_and_clear();
                trigger.request();
            }
            _ = tick.tick() => {
                let now = *seen.borrow();
                before.get_or_insert(now.replayed);
                show(&bar, now, tenant.is_none());
            }
        }
    };
    bar.finish_and_clear();
    let events = seen.borrow().replayed.saturating_sub(before.unwrap_or(0));
    let seconds = begun.elapsed().as_secs_f64();
    finish(
        output,
        Summary {
            events,
            seconds,
            events_per_second: (events as f64 / seconds).round(),
            switched_over: outcome? == Outcome::SwitchedOver,
        },
    )
}

fn finish(output: Output, summary: Summary) -> Result<ExitCode, Failure> {
    let Summary {
        events,
        seconds,
        events_per_second,
        switched_over,
    } = summary;
    let text = match output {
        Output::Json => serde_json::to_string(&serde_json::json!({ "summary": summary }))
            .map_err(io::Error::other)?,
        Output::Table => {
            let ending = match switched_over {
                true => "readers see the new counters",
                false => "interrupted: the same command goes on, --abandon gives it up",
            };
            format!(
                "{events} records replayed in {seconds:.1} s ({events_per_second} a second); {ending}"
            )
        }
    };
    output::print(&format!("{text}\n"))?;
    Ok(match switched_over {
        true => ExitCode::Done,
        false => ExitCode::No,
    })
}

fn show(bar: &ProgressBar, now: Progress, everyone: bool) {
    if everyone && now.phase == Phase::Replaying {
        bar.set_length(now.estimated);
    }
    bar.set_position(now.replayed);
    bar.set_message(match now.phase {
        Phase::Replaying => "replaying the journal",
        Phase::Following => "following what was added",
        Phase::Cleaning => "switched over, removing what is old",
    });
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Store(error) => error.into(),
            refused => Failure::new(ExitCode::No, refused.to_string()),
        }
    }
}
