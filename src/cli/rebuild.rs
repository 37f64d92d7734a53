//! `rebuild`: all counters and facts anew from the journal, by a running service
//! or in the database itself.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::admin::{AdminRoute, Executor};
use super::output::{self, Output};
use super::progress::bar;
use super::remote::{Connection, count, work_refused};
use super::{ExitCode, Failure, Global, interruption, operator};
use crate::config::Config;
use crate::event::TenantId;
use crate::grpc::v1;
use crate::maintenance::rebuild::{
    RebuildError, RebuildOutcome, RebuildProgress, abandon, rebuild,
};
use crate::shutdown;
use crate::store::Store;
use crate::store::rebuild::RebuildPhase;
use v1::maintenance_service_client::MaintenanceServiceClient;

const TEMPLATE: &str = "{bar:30} {pos}/{len} records, {per_sec}  {msg}  {elapsed}, {eta} left";

/// What is said to who interrupts a service that has switched over.
const CLEANING: &str = "it has switched over: readers see the new counters already, and the service removes the old; Ctrl-C again does not wait for that";

/// How often the bar is moved.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Make all counters and facts anew from the journal
#[derive(Debug, Args)]
#[command(
    long_about = "Replays the journal of all events into collections beside those that are \
                  served, follows what is added meanwhile, and switches over once nothing is \
                  left: until then readers see the old counters, from then on the new ones. The \
                  service may run; its writers wait for the moment of the switch, and at most ten \
                  seconds. Asks a running service, and works on MongoDB directly when none \
                  answers.\n\n\
                  Interrupting it, or killing it, harms nothing: the same command goes on where it \
                  was, --abandon gives it up. Needs the whole journal: once \
                  store.journal_retention_days has taken its oldest records it refuses, and `verify \
                  --repair` is what mends counters. Needs room for a second copy.",
    after_help = "Exit codes:\n  \
                  0  switched over (--abandon: given up, or there was none)\n  \
                  1  interrupted, or it cannot be done\n  \
                  2  wrong usage or configuration\n  \
                  3  a server cannot be reached or refuses\n\n\
                  Examples:\n  \
                  chat-counters rebuild\n  \
                  chat-counters rebuild --tenant acme --output json\n  \
                  chat-counters rebuild --abandon"
)]
pub(super) struct Rebuild {
    #[command(flatten)]
    route: AdminRoute,
    /// Only this tenant
    #[arg(long, value_name = "ID", conflicts_with = "abandon")]
    tenant: Option<String>,
    /// Give up the rebuild that was begun, and remove what it has made
    #[arg(long)]
    abandon: bool,
}

/// What came of a rebuild, for programs.
#[derive(Debug, Serialize)]
struct RebuildSummary {
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
        let executor = self.route.executor(global, &config, "MongoDB").await?;
        if self.abandon {
            let abandoned = give_up(executor, &config).await?;
            return tell_abandoned(abandoned, global.output);
        }
        let mut job = RebuildJob {
            output: global.output,
            begun: Instant::now(),
            bar: bar(None, TEMPLATE),
            everyone: tenant.is_none(),
            before: None,
            replayed: 0,
            phase: None,
        };
        let ended = match executor {
            Executor::Service {
                connection,
                address,
            } => job.ask(connection, &address, self.tenant).await,
            Executor::ThisProcess => {
                let outcome = job.replay(tenant.as_ref(), &config).await;
                outcome.map(RebuildEnding::from)
            }
        };
        job.bar.finish_and_clear();
        job.finish(ended?)
    }
}

/// Gives up the rebuild that was begun; `false` when there is none.
async fn give_up(executor: Executor, config: &Config) -> Result<bool, Failure> {
    match executor {
        Executor::Service {
            connection,
            address,
        } => {
            let mut service = MaintenanceServiceClient::new(connection);
            let answer = service.abandon_rebuild(v1::AbandonRebuildRequest {}).await;
            let answer = answer.map_err(|status| work_refused(&address, &status))?;
            Ok(answer.into_inner().abandoned)
        }
        Executor::ThisProcess => {
            let store = Store::connect(&config.store).await?;
            let abandoned = abandon(&store, &operator()).await;
            store.close().await;
            Ok(abandoned?)
        }
    }
}

fn tell_abandoned(abandoned: bool, output: Output) -> Result<ExitCode, Failure> {
    let text = match (output, abandoned) {
        (Output::Json, _) => serde_json::json!({ "abandoned": abandoned }).to_string(),
        (Output::Table, true) => "abandoned; what it had made is removed".into(),
        (Output::Table, false) => "there is no rebuild to abandon".into(),
    };
    output::print(&format!("{text}\n"))?;
    Ok(ExitCode::Done)
}

/// How this command ends, once a rebuild was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RebuildEnding {
    /// Readers see the new counters, and what was old is removed.
    SwitchedOver,
    /// Interrupted in this process, where the same command goes on.
    Interrupted,
    /// Interrupted while a service rebuilds.
    ServiceStops,
    /// Interrupted while a service removes what is old.
    ServiceCleans,
}

impl RebuildEnding {
    /// How it ends when it is interrupted while a service is in this phase, of
    /// what it has told.
    fn of_interrupted_service(told: Option<RebuildPhase>) -> Self {
        match told {
            Some(RebuildPhase::Cleaning) => Self::ServiceCleans,
            Some(RebuildPhase::Replaying | RebuildPhase::Following) | None => Self::ServiceStops,
        }
    }

    fn has_switched_over(self) -> bool {
        matches!(self, Self::SwitchedOver | Self::ServiceCleans)
    }

    /// What follows from it, for the person at the terminal.
    fn text(self) -> &'static str {
        match self {
            Self::SwitchedOver => "readers see the new counters",
            Self::Interrupted => "interrupted: the same command goes on, --abandon gives it up",
            Self::ServiceStops => {
                "interrupted: the service stops at its next checkpoint; the same command goes on, --abandon gives it up"
            }
            Self::ServiceCleans => {
                "readers see the new counters already; the service goes on removing the old"
            }
        }
    }
}

impl From<RebuildOutcome> for RebuildEnding {
    fn from(outcome: RebuildOutcome) -> Self {
        match outcome {
            RebuildOutcome::SwitchedOver => Self::SwitchedOver,
            RebuildOutcome::Interrupted => Self::Interrupted,
        }
    }
}

/// A rebuild under way, as the person at the terminal sees it.
struct RebuildJob {
    output: Output,
    begun: Instant,
    bar: ProgressBar,
    /// Whether all tenants are rebuilt: only then is it known how many records
    /// there are.
    everyone: bool,
    /// Records that earlier runs had replayed.
    before: Option<u64>,
    replayed: u64,
    /// The last phase that was told.
    phase: Option<RebuildPhase>,
}

impl RebuildJob {
    /// Shows how a service rebuilds. It stops where it can be gone on with once
    /// nobody listens any more; after the switch only a second signal ends this.
    async fn ask(
        &mut self,
        connection: Connection,
        address: &str,
        tenant: Option<String>,
    ) -> Result<RebuildEnding, Failure> {
        let mut interrupt = std::pin::pin!(interruption()?);
        let mut interrupted = false;
        let refused = |status| work_refused(address, &status);
        let mut service = MaintenanceServiceClient::new(connection);
        let request = v1::RebuildCountersRequest {
            tenant_id: tenant.unwrap_or_default(),
        };
        let answers = tokio::select! {
            answers = service.rebuild_counters(request) => answers,
            _ = &mut interrupt => return Ok(RebuildEnding::ServiceStops),
        };
        let mut answers = answers.map_err(refused)?.into_inner();
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer.map_err(refused)?,
                _ = &mut interrupt => {
                    let ending = RebuildEnding::of_interrupted_service(self.phase);
                    if interrupted || !ending.has_switched_over() {
                        return Ok(ending);
                    }
                    interrupted = true;
                    interrupt.set(interruption()?);
                    self.bar.suspend(|| output::aside(CLEANING));
                    continue;
                }
            };
            let Some(answer) = answer else {
                let message = format!(
                    "the service at {address} ended before the counters were rebuilt: the same command goes on"
                );
                return Err(Failure::new(ExitCode::Server, message));
            };
            self.show(progress_of(&answer));
            if answer.done {
                return Ok(RebuildEnding::SwitchedOver);
            }
        }
    }

    /// Rebuilds in this process.
    async fn replay(
        &mut self,
        tenant: Option<&TenantId>,
        config: &Config,
    ) -> Result<RebuildOutcome, Failure> {
        let store = Store::connect(&config.store).await?;
        let outcome = self.drive(&store, tenant).await;
        store.close().await;
        outcome
    }

    async fn drive(
        &mut self,
        store: &Store,
        tenant: Option<&TenantId>,
    ) -> Result<RebuildOutcome, Failure> {
        let mut signal = std::pin::pin!(interruption()?);
        let (trigger, stop) = shutdown::channel();
        let (progress, seen) = watch::channel(RebuildProgress::default());
        let by = operator();
        let mut working = std::pin::pin!(rebuild(store, tenant, &by, stop, progress));
        let mut tick = tokio::time::interval(BAR_INTERVAL);
        let outcome = loop {
            tokio::select! {
                outcome = &mut working => break outcome,
                _ = &mut signal, if !self.bar.is_finished() => {
                    self.bar.finish_and_clear();
                    trigger.request();
                }
                _ = tick.tick() => self.show(*seen.borrow()),
            }
        };
        self.replayed = seen.borrow().replayed;
        Ok(outcome?)
    }

    fn show(&mut self, now: RebuildProgress) {
        self.before.get_or_insert(now.replayed);
        self.replayed = now.replayed;
        self.phase = Some(now.phase);
        if self.everyone && now.phase == RebuildPhase::Replaying {
            self.bar.set_length(now.estimated);
        }
        self.bar.set_position(now.replayed);
        self.bar.set_message(match now.phase {
            RebuildPhase::Replaying => "replaying the journal",
            RebuildPhase::Following => "following what was added",
            RebuildPhase::Cleaning => "switched over, removing what is old",
        });
    }

    fn finish(self, ending: RebuildEnding) -> Result<ExitCode, Failure> {
        let events = self.replayed.saturating_sub(self.before.unwrap_or(0));
        let seconds = self.begun.elapsed().as_secs_f64();
        let summary = RebuildSummary {
            events,
            seconds,
            events_per_second: (events as f64 / seconds).round(),
            switched_over: ending.has_switched_over(),
        };
        let text = match self.output {
            Output::Json => serde_json::json!({ "summary": summary }).to_string(),
            Output::Table => format!(
                "{events} records replayed in {seconds:.1} s ({} a second); {}",
                summary.events_per_second,
                ending.text()
            ),
        };
        output::print(&format!("{text}\n"))?;
        Ok(match ending.has_switched_over() {
            true => ExitCode::Done,
            false => ExitCode::No,
        })
    }
}

fn progress_of(answer: &v1::RebuildCountersResponse) -> RebuildProgress {
    RebuildProgress {
        phase: match answer.phase() {
            v1::RebuildPhase::Unspecified | v1::RebuildPhase::Replaying => RebuildPhase::Replaying,
            v1::RebuildPhase::Following => RebuildPhase::Following,
            v1::RebuildPhase::Cleaning => RebuildPhase::Cleaning,
        },
        replayed: count(answer.replayed),
        estimated: count(answer.estimated_records),
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Store(error) => error.into(),
            refused => Failure::new(ExitCode::No, refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_says_what_becomes_of_the_rebuild() {
        for before in [
            None,
            Some(RebuildPhase::Replaying),
            Some(RebuildPhase::Following),
        ] {
            let ending = RebuildEnding::of_interrupted_service(before);
            assert!(!ending.has_switched_over(), "{before:?}");
            assert!(ending.text().contains("next checkpoint"), "{before:?}");
        }
        let after = RebuildEnding::of_interrupted_service(Some(RebuildPhase::Cleaning));
        assert!(after.has_switched_over());
        assert!(!after.text().contains("interrupted"), "{}", after.text());
    }
}
