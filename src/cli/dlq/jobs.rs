//! `replay`, `discard` and `undiscard`: jobs, with their progress.

use clap::Args;
use futures::StreamExt as _;
use indicatif::ProgressBar;

use super::client::{AnswerStream, DeadLetterClient};
use super::confirm::confirmed;
use super::filter::Selection;
use super::plan;
use crate::cli::output::{self, Output};
use crate::cli::progress::bar;
use crate::cli::remote::count;
use crate::cli::{ExitCode, Failure, interruption};
use crate::grpc::v1;
use v1::replay_dead_letters_response::Event;

const TEMPLATE: &str = "{bar:20} {pos}/{len}, {rate}, {eta} left; {msg}";

/// Send dead letters to the service once more
#[derive(Debug, Args)]
#[command(
    long_about = "Sends dead letters to the service's queue once more. Which is decided when the \
                  command starts: letters that arrive later stay. Each leaves the dead-letter \
                  queue only after RabbitMQ has confirmed the replayed event. An event that was \
                  counted meanwhile changes nothing. Ctrl-C stops in order; the same command goes \
                  on with the same letters.",
    after_help = "Exit codes:\n  \
                  0  all replayed, or the plan shown\n  \
                  1  interrupted, or some were not replayed or have failed again\n  \
                  2  wrong usage or configuration\n  \
                  3  a server cannot be reached or refuses, or somebody else is at the queue\n\n\
                  Examples:\n  \
                  chat-counters dlq replay --why rejected_by_store --dry-run\n  \
                  chat-counters dlq replay --why rejected_by_store --rate 200\n  \
                  chat-counters dlq replay --all --older-than 1h"
)]
pub(super) struct Replay {
    /// Only say what would happen: counters and failures
    #[arg(long)]
    dry_run: bool,
    /// Letters a second at most; 0 = as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// Wait while more events than this are in the service's queue
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    brake_at: u32,
    #[command(flatten)]
    audit: AuditReason,
    #[command(flatten)]
    selection: Selection,
}

/// Take dead letters out of the queue without replaying them
///
/// They are kept, with their bodies, for store.journal_retention_days: `dlq list --discarded` shows them, `dlq undiscard` puts them back.
#[derive(Debug, Args)]
pub(super) struct Discard {
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    selection: Selection,
}

/// Put discarded letters back into the dead-letter queue, as they were
#[derive(Debug, Args)]
pub(super) struct Undiscard {
    #[command(flatten)]
    audit: AuditReason,
    #[command(flatten)]
    selection: Selection,
}

/// The reason of a job that needs none.
#[derive(Debug, Args)]
struct AuditReason {
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

impl Replay {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let request = v1::ReplayDeadLettersRequest {
            selection: Some(self.selection.on_account(&self.audit.reason)?),
            rate: self.rate,
            brake_at: self.brake_at,
            dry_run: self.dry_run,
        };
        let mut events = client.replay_dead_letters(request).await?;
        if self.dry_run {
            while let Some(event) = events.next().await {
                if let Some(Event::Plan(plan)) = event?.event {
                    return plan::show(&plan, output);
                }
            }
            return Err(Failure::new(ExitCode::Server, "the service told no plan"));
        }
        let told = events.filter_map(async |event| match event.map(|event| event.event) {
            Ok(Some(Event::Progress(progress))) => Some(Ok(progress)),
            Ok(_) => None,
            Err(failure) => Some(Err(failure)),
        });
        follow(Box::pin(told), "replayed", output).await
    }
}

impl Discard {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let mut request = v1::DiscardDeadLettersRequest {
            selection: Some(self.selection.on_account(&self.reason)?),
            dry_run: true,
        };
        let mut plan = client.discard_dead_letters(request.clone()).await?;
        let mut selected = 0;
        while let Some(told) = plan.next().await {
            selected = told?.progress.map_or(0, |progress| progress.selected);
        }
        if selected > 1 && !self.yes && !confirmed(&format!("discard {selected} letters?")).await? {
            return Err(Failure::new(ExitCode::No, "nothing was discarded"));
        }
        request.dry_run = false;
        let told = client.discard_dead_letters(request).await?;
        let told = told.filter_map(async |told| told.map(|told| told.progress).transpose());
        follow(Box::pin(told), "discarded", output).await
    }
}

impl Undiscard {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let request = v1::UndiscardDeadLettersRequest {
            selection: Some(self.selection.on_account(&self.audit.reason)?),
        };
        let told = client.undiscard_dead_letters(request).await?;
        let told = told.filter_map(async |told| told.map(|told| told.progress).transpose());
        follow(Box::pin(told), "put back", output).await
    }
}

/// Shows how far a job is until it ends, or is to be stopped.
async fn follow(
    mut told: AnswerStream<v1::JobProgress>,
    done: &'static str,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut signal = std::pin::pin!(interruption()?);
    let bar = bar(None, TEMPLATE);
    // At once: a long selection is being made.
    bar.tick();
    let mut last = v1::JobProgress::default();
    let ended = loop {
        tokio::select! {
            progress = told.next() => match progress {
                Some(Ok(progress)) => {
                    show(&bar, &progress);
                    last = progress;
                }
                Some(Err(failure)) => break Err(failure),
                None => break Ok(()),
            },
            _ = &mut signal => break Ok(()),
        }
    };
    bar.finish_and_clear();
    // The job ends in order when nobody reads its progress any more.
    drop(told);
    summarize(&last, done, output)?;
    ended?;
    let all_done = last.finished && last.done >= last.selected;
    Ok(match all_done && last.failed_again == 0 {
        true => ExitCode::Done,
        false => ExitCode::No,
    })
}

fn summarize(last: &v1::JobProgress, done: &str, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        output::print_sorted_json(last)?;
        return Ok(());
    }
    let mut text = format!("{} of {} {done}", last.done, last.selected);
    if last.resumed {
        text += ", with what was done before an interruption";
    }
    if last.missing > 0 {
        text += &format!(
            ", {} were no longer there: other hands took them",
            last.missing
        );
    }
    if last.taken > 0 {
        text += &format!(
            ", {} were taken by another job: `chat-counters dlq audit` says what became of them",
            last.taken
        );
    }
    if last.failed > 0 {
        text += &format!(", {} left where they are", last.failed);
    }
    if last.failed_again > 0 {
        text += &format!(
            ", {} have failed again: `chat-counters dlq groups` says why",
            last.failed_again
        );
    }
    if !last.finished {
        text += "; interrupted: the same command goes on";
    }
    output::print(&format!("{text}\n"))?;
    for failed in &last.failures {
        output::aside(&format!("{}: {}", failed.letter_id, failed.cause));
    }
    let more = last.failed - last.failures.len() as i64;
    if last.finished && more > 0 {
        output::aside(&format!("and {more} more"));
    }
    Ok(())
}

/// Letters of which the job has nothing more to do.
fn settled(progress: &v1::JobProgress) -> i64 {
    progress.done + progress.missing + progress.taken + progress.failed
}

fn show(bar: &ProgressBar, progress: &v1::JobProgress) {
    if bar.length() != Some(count(progress.selected)) {
        bar.set_length(count(progress.selected));
        // What earlier calls have done is not this one's speed.
        bar.set_position(count(settled(progress)));
        bar.reset_eta();
    }
    bar.set_position(count(settled(progress)));
    bar.set_message(match progress.braking {
        true => "waiting for live traffic".to_owned(),
        false => format!("{} looked at", progress.examined),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_did_in_json() {
        let last = v1::JobProgress {
            job_id: "j".into(),
            selected: 3,
            examined: 9,
            braking: true,
            finished: true,
            failures: vec![v1::DeadLetterFailure {
                letter_id: "l".into(),
                cause: "c".into(),
            }],
            ..Default::default()
        };
        assert_eq!(
            output::sorted(&last).unwrap().to_string(),
            concat!(
                r#"{"done":0,"failed":0,"failed_again":0,"failures":[{"cause":"c","#,
                r#""letter_id":"l"}],"finished":true,"job_id":"j","missing":0,"resumed":false,"#,
                r#""selected":3,"taken":0}"#
            )
        );
    }
}
