//! `list`, `groups`, `show`, `audit` and `sync`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write as _};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::client::DeadLetterClient;
use super::filter::Filter;
use crate::bus::headers;
use crate::cli::output::{self, Output, or_dash, table};
use crate::cli::{ExitCode, Failure};
use crate::grpc::bounds::MAX_LETTER_PAGE_SIZE;
use crate::grpc::{moment, v1};

/// The most tenants of a group that are named in a table.
const MAX_NAMED_TENANTS: usize = 3;

/// List dead letters, the latest failure first; touches none
#[derive(Debug, Args)]
pub(super) struct List {
    /// Those that were discarded, not those in the queue
    #[arg(long)]
    discarded: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    filter: Filter,
}

/// Count dead letters by cause, the most frequent first; touches none
#[derive(Debug, Args)]
pub(super) struct Groups {
    #[command(flatten)]
    filter: Filter,
}

/// Show one dead letter: why it is here, its headers, its body; touches none
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Its id, or the first 6 characters of it at least
    id: String,
    /// Nothing but the body, byte for byte
    #[arg(long)]
    body: bool,
}

/// Show who replayed, edited and discarded what, the latest first
#[derive(Debug, Args)]
pub(super) struct Audit {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Compare the index with the queue, letter by letter, and set it right
///
/// Needed only after another tool was at the queue, and then only to be sure: the service does so by itself.
#[derive(Debug, Args)]
pub(super) struct Sync {}

impl List {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let mut request = v1::ListDeadLettersRequest {
            filter: Some(self.filter.into()),
            discarded: self.discarded,
            ..Default::default()
        };
        let mut letters = Vec::new();
        let (mut left, mut total, mut index) = (self.limit, 0, None);
        while left > 0 {
            request.page_size = left.min(u32::from(MAX_LETTER_PAGE_SIZE)).cast_signed();
            let page = client.list_dead_letters(request.clone()).await?;
            left -= u32::try_from(page.dead_letters.len()).unwrap_or(left);
            letters.extend(page.dead_letters);
            (total, index) = (page.total, page.index);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        match output {
            Output::Json => {
                output::print_sorted_json(&v1::ListDeadLettersResponse {
                    dead_letters: letters,
                    total,
                    index,
                    ..Default::default()
                })?;
            }
            Output::Table => {
                let rows: Vec<_> = letters.iter().map(row).collect();
                if !rows.is_empty() {
                    output::print(&table(&HEADER, &rows))?;
                }
                // Of those that were discarded no copies are kept.
                let shown: i64 = letters.iter().map(|letter| letter.copies.max(1)).sum();
                output::aside(&format!("{shown} of {total}"));
                tell_disagreement(index);
            }
        }
        Ok(ExitCode::Done)
    }
}

const HEADER: [&str; 9] = [
    "id",
    "last_failed_at",
    "reason",
    "event_type",
    "tenant",
    "event_id",
    "attempts",
    "copies",
    "error",
];

fn row(letter: &v1::DeadLetter) -> Vec<String> {
    vec![
        letter.id.clone(),
        at(letter.last_failed_at),
        letter.reason.clone(),
        or_dash(&letter.event_type),
        or_dash(&letter.tenant_id),
        or_dash(&letter.event_id),
        letter.attempts.to_string(),
        letter.copies.to_string(),
        or_dash(&letter.error),
    ]
}

impl Groups {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let filter = Some(self.filter.into());
        let request = v1::ListDeadLetterGroupsRequest { filter };
        let answer = client.list_dead_letter_groups(request).await?;
        match output {
            Output::Json => output::print_sorted_json(&answer)?,
            Output::Table => {
                let v1::ListDeadLetterGroupsResponse {
                    groups,
                    total,
                    index,
                } = answer;
                let rows: Vec<_> = groups.iter().map(group_row).collect();
                if !rows.is_empty() {
                    output::print(&table(&GROUP_HEADER, &rows))?;
                }
                output::aside(&match groups.len() {
                    1 => format!("{total} dead letters of one cause"),
                    causes => format!("{total} dead letters of {causes} causes"),
                });
                tell_disagreement(index);
            }
        }
        Ok(ExitCode::Done)
    }
}

const GROUP_HEADER: [&str; 8] = [
    "group",
    "count",
    "reason",
    "first_seen_at",
    "last_seen_at",
    "tenants",
    "example",
    "cause",
];

fn group_row(group: &v1::DeadLetterGroup) -> Vec<String> {
    let named = group.tenant_ids.iter().take(MAX_NAMED_TENANTS).cloned();
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match usize::try_from(group.tenant_count) {
        Ok(count) if count > MAX_NAMED_TENANTS => format!(", ... ({count})"),
        _ => String::new(),
    };
    vec![
        group.group_id.clone(),
        group.count.to_string(),
        or_dash(&group.reason),
        at(group.first_seen_at),
        at(group.last_seen_at),
        or_dash(&(named + &more)),
        group.example_id.clone(),
        or_dash(&group.cause),
    ]
}

impl Show {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let request = v1::GetDeadLetterRequest { id: self.id };
        let found = client.get_dead_letter(request).await?;
        let known = found.dead_letter.unwrap_or_default();
        if self.body {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&found.body)?;
            stdout.flush()?;
            return Ok(ExitCode::Done);
        }
        match output {
            Output::Json => {
                let text = std::str::from_utf8(&found.body);
                output::print_sorted_json(&WholeLetter {
                    dead_letter: &known,
                    headers: &found.headers,
                    body: text.ok(),
                    body_base16: text.err().map(|_| hex::encode(&found.body)),
                })?;
            }
            Output::Table => {
                let rows = shown(&output::sorted(&known)?, found.headers);
                let body = match (found.body.is_empty(), known.body_bytes) {
                    (true, 1..) => {
                        format!("({} bytes, too many for the index)\n", known.body_bytes)
                    }
                    _ => super::edit::readable(&found.body),
                };
                output::print(&format!("{}\n{body}", table(&[], &rows)))?;
            }
        }
        Ok(ExitCode::Done)
    }
}

/// A dead letter with its headers and its body, as text or in base 16.
#[derive(Serialize)]
struct WholeLetter<'a> {
    dead_letter: &'a v1::DeadLetter,
    headers: &'a BTreeMap<String, String>,
    body: Option<&'a str>,
    body_base16: Option<String>,
}

/// What is known of a letter, what matters most first.
const SHOWN: [&str; 18] = [
    "id",
    "reason",
    "error",
    "event_type",
    "tenant_id",
    "event_id",
    "dialog_id",
    "first_failed_at",
    "last_failed_at",
    "attempts",
    "copies",
    "discarded_at",
    "group_id",
    "source_exchange",
    "source_routing_key",
    "host",
    "service_version",
    "body_bytes",
];

/// Rows of a letter's fields, then of its headers without those that say the
/// same.
fn shown(fields: &Value, others: impl IntoIterator<Item = (String, String)>) -> Vec<Vec<String>> {
    let fields = SHOWN.iter().filter_map(|name| {
        let value = match &fields[*name] {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        (!value.is_empty()).then(|| vec![(*name).to_owned(), value])
    });
    let again = |name: &str| {
        let header = name.strip_prefix("headers.");
        let ours = header.and_then(|name| name.strip_prefix(headers::OWN_PREFIX));
        let known = ours.map(|name| name.replace('-', "_"));
        known.is_some_and(|name| SHOWN.contains(&name.as_str()))
    };
    let others = others.into_iter().filter(|(name, _)| !again(name));
    fields
        .chain(others.map(|(name, value)| vec![name, value]))
        .collect()
}

impl Audit {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let mut request = v1::ListDeadLetterAuditRequest::default();
        let (mut jobs, mut left) = (Vec::new(), self.limit);
        while left > 0 {
            request.page_size = left.min(u32::from(MAX_LETTER_PAGE_SIZE)).cast_signed();
            let page = client.list_dead_letter_audit(request.clone()).await?;
            left -= u32::try_from(page.jobs.len()).unwrap_or(left);
            jobs.extend(page.jobs);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        match output {
            Output::Json => {
                output::print_sorted_json(&jobs.iter().map(AuditedJob::from).collect::<Vec<_>>())?;
            }
            Output::Table if jobs.is_empty() => output::aside("nothing was done yet"),
            Output::Table => {
                let rows: Vec<_> = jobs.iter().map(job_row).collect();
                output::print(&table(&JOB_HEADER, &rows))?;
            }
        }
        Ok(ExitCode::Done)
    }
}

const JOB_HEADER: [&str; 13] = [
    "started_at",
    "kind",
    "actor",
    "says",
    "selected",
    "done",
    "missing",
    "taken",
    "failed",
    "failed_again",
    "finished_at",
    "selection",
    "reason",
];

fn job_row(job: &v1::DeadLetterJob) -> Vec<String> {
    vec![
        at(job.started_at),
        job.kind.clone(),
        or_dash(&job.actor),
        or_dash(&job.claimed_actor),
        job.selected.to_string(),
        job.done.to_string(),
        job.missing.to_string(),
        job.taken.to_string(),
        job.failed.to_string(),
        job.failed_again.to_string(),
        match job.finished_at {
            None => "not finished".into(),
            finished => at(finished),
        },
        job.selection.clone(),
        or_dash(&job.reason),
    ]
}

/// A job of the audit; of an edit, with both bodies.
#[derive(Serialize)]
struct AuditedJob<'a> {
    #[serde(flatten)]
    job: &'a v1::DeadLetterJob,
    edit: Option<AuditedEdit<'a>>,
}

/// The letter that was edited, and its bodies as text.
#[derive(Serialize)]
struct AuditedEdit<'a> {
    letter_id: &'a str,
    body_before: Cow<'a, str>,
    body_after: Cow<'a, str>,
}

impl<'a> From<&'a v1::DeadLetterJob> for AuditedJob<'a> {
    fn from(job: &'a v1::DeadLetterJob) -> Self {
        let edit = AuditedEdit {
            letter_id: &job.letter_id,
            body_before: String::from_utf8_lossy(&job.body_before),
            body_after: String::from_utf8_lossy(&job.body_after),
        };
        let edit = (!job.letter_id.is_empty()).then_some(edit);
        Self { job, edit }
    }
}

impl Sync {
    pub(super) async fn run(
        self,
        client: &mut DeadLetterClient,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let synced = client
            .sync_dead_letters(v1::SyncDeadLettersRequest {})
            .await?;
        match output {
            Output::Json => output::print_sorted_json(&synced)?,
            Output::Table => output::print(&format!(
                "{} letters in the queue; {} entered into the index, {} taken out of it\n",
                synced.examined, synced.added, synced.removed
            ))?,
        }
        Ok(ExitCode::Done)
    }
}

fn tell_disagreement(index: Option<v1::IndexState>) {
    let Some(index) = index else { return };
    if index.unsent > 0 {
        output::aside(&format!(
            "{} more letters wait in the database until RabbitMQ takes them",
            index.unsent
        ));
    }
    match index.queued {
        None => output::aside("RabbitMQ does not answer: this is what its queue had last"),
        Some(queued) if queued != index.indexed && !index.busy => output::aside(&format!(
            "the queue holds {queued} letters, the index knows {}: it is brought up to date within seconds by a running service, or at once by `chat-counters dlq sync`",
            index.indexed
        )),
        Some(_) => {}
    }
}

/// To the second: a table is for people.
fn at(at: Option<prost_types::Timestamp>) -> String {
    let whole = at.map(|at| prost_types::Timestamp { nanos: 0, ..at });
    or_dash(&moment(whole).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos })
    }

    fn failure() -> v1::DeadLetterFailure {
        v1::DeadLetterFailure {
            letter_id: "l".into(),
            cause: "c".into(),
        }
    }

    #[test]
    fn a_letter_in_json() {
        let known = v1::DeadLetter {
            id: "i".into(),
            reason: "undecodable".into(),
            tenant_id: "t".into(),
            first_failed_at: at(1_700_000_000, 100_000_000),
            attempts: i64::MAX,
            copies: 1,
            ..Default::default()
        };
        assert_eq!(
            output::sorted(&known).unwrap().to_string(),
            concat!(
                r#"{"attempts":9223372036854775807,"body_bytes":0,"copies":1,"dialog_id":"","#,
                r#""discarded_at":null,"error":"","event_id":"","event_type":"","#,
                r#""first_failed_at":"2023-11-14T22:13:20.1Z","group_id":"","host":"","id":"i","#,
                r#""last_failed_at":null,"reason":"undecodable","service_version":"","#,
                r#""source_exchange":"","source_routing_key":"","tenant_id":"t"}"#
            )
        );
    }

    #[test]
    fn a_group_and_the_index_in_json() {
        let cause = v1::DeadLetterGroup {
            group_id: "g".into(),
            count: 7,
            last_seen_at: at(0, 0),
            tenant_ids: vec!["t".into()],
            ..Default::default()
        };
        assert_eq!(
            output::sorted(&cause).unwrap().to_string(),
            concat!(
                r#"{"cause":"","count":7,"example_id":"","first_seen_at":null,"group_id":"g","#,
                r#""last_seen_at":"1970-01-01T00:00:00Z","reason":"","tenant_count":0,"tenant_ids":["t"]}"#
            )
        );
        let index = v1::IndexState {
            indexed: 1,
            queued: None,
            busy: true,
            unsent: 2,
        };
        assert_eq!(
            output::sorted(&index).unwrap().to_string(),
            r#"{"busy":true,"indexed":1,"queued":null,"unsent":2}"#
        );
    }

    #[test]
    fn a_job_in_json_has_both_bodies_of_an_edit() {
        let json =
            |job: &v1::DeadLetterJob| output::sorted(&AuditedJob::from(job)).unwrap().to_string();
        let mut done = v1::DeadLetterJob {
            job_id: "j".into(),
            kind: "edit".into(),
            started_at: at(1_700_000_000, 123_456_000),
            failed: 1,
            failures: vec![failure()],
            taken_by: vec!["k".into()],
            ..Default::default()
        };
        let without = |edit: &str| {
            let fields = concat!(
                r#""failed":1,"failed_again":0,"failures":[{"cause":"c","letter_id":"l"}],"#,
                r#""finished_at":null,"job_id":"j","kind":"edit","missing":0,"reason":"","#,
                r#""resumed_by":[],"selected":0,"selection":"","#,
                r#""started_at":"2023-11-14T22:13:20.123456Z","taken":0,"taken_by":["k"]}"#
            );
            format!(r#"{{"actor":"","claimed_actor":"","done":0,"edit":{edit},{fields}"#)
        };
        assert_eq!(json(&done), without("null"));
        done.letter_id = "l".into();
        done.body_before = vec![b'a', 0xff];
        done.body_after = b"b".to_vec();
        assert_eq!(
            json(&done),
            without("{\"body_after\":\"b\",\"body_before\":\"a\u{fffd}\",\"letter_id\":\"l\"}")
        );
    }
}
