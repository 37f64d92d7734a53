//! Which letters, as flags.

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::cli::when::{When, timestamp, when};
use crate::cli::{ExitCode, Failure, operator};
use crate::deadletter::{Reason, UNKNOWN};
use crate::grpc::v1;

fn reason_names() -> PossibleValuesParser {
    let names = Reason::ALL.iter().map(|reason| reason.as_str());
    PossibleValuesParser::new(names.chain([UNKNOWN]))
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which letters (all conditions must hold)")]
pub(super) struct Filter {
    /// Letters with these ids, or ids that begin so (6 characters at least)
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Given up for this reason; may be repeated
    #[arg(long = "why", value_name = "REASON", value_parser = reason_names())]
    reasons: Vec<String>,
    /// Of this group (`dlq groups`)
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    group: String,
    /// Of this event type, as message.create
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    event_type: String,
    /// Of this tenant
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    tenant: String,
    /// With this event id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    event: String,
    /// Of this dialog
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    dialog: String,
    /// With this text in the error, capitals or not
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    error: String,
    /// That last failed since: RFC 3339, or so long ago (90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<When>,
    /// That last failed before: RFC 3339, or longer ago than that
    #[arg(long, visible_alias = "older-than", value_name = "TIME", value_parser = when)]
    until: Option<When>,
}

fn at(when: When) -> Option<prost_types::Timestamp> {
    match when {
        When::At(at) => Some(timestamp(at)),
        When::Ago(_) => None,
    }
}

fn ago(when: When) -> Option<prost_types::Duration> {
    match when {
        When::At(_) => None,
        // No more than a person can type: it fits.
        When::Ago(ago) => ago.try_into().ok(),
    }
}

impl From<Filter> for v1::DeadLetterFilter {
    fn from(filter: Filter) -> Self {
        Self {
            ids: filter.ids,
            reasons: filter.reasons,
            group_id: filter.group,
            event_type: filter.event_type,
            tenant_id: filter.tenant,
            event_id: filter.event,
            dialog_id: filter.dialog,
            error_contains: filter.error,
            since: filter.since.and_then(at),
            until: filter.until.and_then(at),
            younger_than: filter.since.and_then(ago),
            older_than: filter.until.and_then(ago),
        }
    }
}

/// Letters for a job.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    #[command(flatten)]
    filter: Filter,
    /// All letters: needed when there is no condition
    #[arg(long)]
    all: bool,
}

impl Selection {
    /// On account of whoever runs this. Nothing is selected by mistake.
    pub(super) fn on_account(self, reason: &str) -> Result<v1::DeadLetterSelection, Failure> {
        let filter: v1::DeadLetterFilter = self.filter.into();
        if !self.all && filter == v1::DeadLetterFilter::default() {
            let message = "which letters? Give a condition (--help lists them), or --all";
            return Err(Failure::new(ExitCode::Usage, message));
        }
        Ok(v1::DeadLetterSelection {
            filter: Some(filter),
            all: self.all,
            actor: operator(),
            reason: reason.to_owned(),
        })
    }
}
