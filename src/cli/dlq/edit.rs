//! `edit`: replaying one letter with another body.

mod difference;
mod editor;
mod layout;
mod patch;

use std::io::{self, Read as _};
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::client::DeadLetterClient;
use super::confirm::{can_ask, confirmed};
use crate::cli::output::{self, Output};
use crate::cli::{ExitCode, Failure, operator};
use crate::grpc::v1;

/// Correct the body of one dead letter and replay it
#[derive(Debug, Args)]
#[command(
    long_about = "Opens the body of a dead letter in $VISUAL or $EDITOR, or changes it by --set or \
                  --file; checks that it is a counter event with the same event id, shows what \
                  differs, and replays it with the new body. The audit keeps both bodies, who and \
                  why.",
    after_help = "Exit codes:\n  \
                  0  replayed, or with --dry-run: it could be\n  \
                  1  not changed, not confirmed, the new body will not do, or the letter cannot be sent\n  \
                  2  wrong usage or configuration\n  \
                  3  a server cannot be reached or refuses, or somebody else is at the queue\n\n\
                  Examples:\n  \
                  chat-counters dlq edit 5e6f7a8b --reason 'sender was a number' --set data.message.senderId='\"17\"'\n  \
                  chat-counters dlq edit 5e6f7a8b --reason 'restored by hand' --file body.json",
    group = ArgGroup::new("how").args(["set", "file"])
)]
pub(super) struct Edit {
    /// The letter's id, or the first 6 characters of it at least
    id: String,
    /// Set one value: a path of keys and numbers with dots, and JSON or a text; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Take the new body from this file; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only show and check the new body
    #[arg(long)]
    dry_run: bool,
}

/// A body for a person to read.
pub(super) fn readable(body: &[u8]) -> String {
    difference::lines(body)
}

impl Edit {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let request = v1::GetDeadLetterRequest {
            id: self.id.clone(),
        };
        let found = client.get_dead_letter(request).await?;
        let letter = found.dead_letter.unwrap_or_default();
        let (id, before) = (letter.id, found.body);
        if before.is_empty() && letter.body_bytes > 0 {
            let message = format!(
                "the body of {id} ({} bytes) is too large for the index: it can be replayed and discarded, not edited",
                letter.body_bytes
            );
            return Err(Failure::new(ExitCode::No, message));
        }
        let mut draft = before.clone();
        loop {
            let after = self.changed(&before, draft, &id).await?;
            if after == before {
                return Err(Failure::new(ExitCode::No, "the body was not changed"));
            }
            show_difference(&before, &after, output)?;
            let mut request = v1::EditDeadLetterRequest {
                id: id.clone(),
                body: after.clone(),
                actor: operator(),
                reason: self.reason.clone(),
                validate_only: true,
            };
            match client.edit_dead_letter(request.clone()).await {
                Ok(_) if self.dry_run => return Ok(ExitCode::Done),
                Ok(_) => {
                    if !self.yes && !confirmed("replay it so?").await? {
                        return Err(Failure::new(ExitCode::No, "nothing was replayed"));
                    }
                    request.validate_only = false;
                    let done = client.edit_dead_letter(request).await?;
                    return self.told(&done, output);
                }
                Err(refused) if self.by_hand() && can_ask() => {
                    refused.tell();
                    if !confirmed("edit it again?").await? {
                        return Err(Failure::new(ExitCode::No, "nothing was replayed"));
                    }
                    draft = after;
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    fn by_hand(&self) -> bool {
        self.set.is_empty() && self.file.is_none()
    }

    /// The new body: given, or made by hand out of a draft.
    async fn changed(&self, before: &[u8], draft: Vec<u8>, id: &str) -> Result<Vec<u8>, Failure> {
        let usage = |message: String| Failure::new(ExitCode::Usage, message);
        if let Some(file) = &self.file {
            let mut body = Vec::new();
            let read = match file.as_os_str() == "-" {
                true => io::stdin().lock().read_to_end(&mut body).map(|_| body),
                false => std::fs::read(file),
            };
            return read.map_err(|error| usage(format!("--file {}: {error}", file.display())));
        }
        if self.by_hand() {
            let laid_out = std::str::from_utf8(&draft).ok().and_then(layout::indented);
            let shown = laid_out.map_or_else(|| draft.clone(), String::into_bytes);
            let edited = editor::open(&shown, id).await;
            let edited = edited.map_err(|error| Failure::new(ExitCode::No, error.to_string()))?;
            // Saved as it was shown: not a change of its spacing either.
            return Ok(if edited == shown { draft } else { edited });
        }
        let text = std::str::from_utf8(before);
        let text = text.map_err(|_| usage("--set: the body is not UTF-8; use --file".into()))?;
        let mut text = text.to_owned();
        for set in &self.set {
            let Some((path, value)) = set.split_once('=') else {
                return Err(usage(format!("--set: expected PATH=VALUE, found {set:?}")));
            };
            let changed = patch::set(&text, path, value);
            text = changed.map_err(|error| usage(format!("--set {path}: {error}")))?;
        }
        Ok(text.into_bytes())
    }

    fn told(&self, done: &v1::EditDeadLetterResponse, output: Output) -> Result<ExitCode, Failure> {
        match output {
            Output::Json => output::print_sorted_json(done)?,
            Output::Table => output::aside(&format!(
                "replayed {} {} with its new body",
                done.event_type, done.event_id
            )),
        }
        Ok(ExitCode::Done)
    }
}

/// What differs: on stdout for people, aside when stdout is for a program.
fn show_difference(before: &[u8], after: &[u8], output: Output) -> Result<(), Failure> {
    let text = difference::unified(before, after);
    match output {
        Output::Table => output::print(&text)?,
        Output::Json => output::aside(&text),
    }
    Ok(())
}
