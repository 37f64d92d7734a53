//! What a replay would do, shown.

use crate::cli::output::{self, Output, or_dash, table};
use crate::cli::{ExitCode, Failure};
use crate::grpc::v1;

pub(super) fn show(plan: &v1::ReplayPlan, output: Output) -> Result<ExitCode, Failure> {
    match output {
        Output::Json => output::print_sorted_json(plan)?,
        Output::Table => output::print(&text(plan))?,
    }
    Ok(ExitCode::Done)
}

fn text(plan: &v1::ReplayPlan) -> String {
    let failing: i64 = plan.failures.iter().map(|same| same.count).sum();
    let certain = match plan.uncertain {
        0 => String::new(),
        some => {
            format!("of them, depending on others of the selection: not in the sums below ({some})")
        }
    };
    let outcomes = [
        (plan.selected, "letters selected"),
        (plan.applied, "would be counted"),
        (plan.uncertain, certain.as_str()),
        (
            plan.unchanged,
            "say nothing that changes a counter any more",
        ),
        (
            plan.duplicates,
            "are counted already, or twice in the selection",
        ),
        (plan.ignored, "are no counter events"),
        (failing, "would fail again"),
        (plan.unsendable, "cannot be sent, and stay where they are"),
        (
            plan.not_examined,
            "not looked at: too large for the index, or of the reason delivery_limit",
        ),
    ];
    let rows: Vec<_> = outcomes
        .iter()
        .filter(|(count, text)| *count > 0 || *text == "letters selected")
        .map(|(count, text)| vec![count.to_string(), (*text).to_owned()])
        .collect();
    let mut text = table(&["letters", ""], &rows);
    let mut section = |header: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&table(header, &rows));
        }
    };
    let failures = plan.failures.iter();
    let failures = failures.map(|same| {
        vec![
            same.count.to_string(),
            same.reason.clone(),
            same.cause.clone(),
        ]
    });
    section(&["would fail", "reason", "cause"], failures.collect());
    let unsendable = plan.unsendable_letters.iter();
    let unsendable = unsendable.map(|failed| vec![failed.letter_id.clone(), failed.cause.clone()]);
    section(&["cannot be sent", "cause"], unsendable.collect());
    let totals = plan.totals.iter().map(|total| {
        vec![
            total.counter.clone(),
            format!("{:+}", total.delta),
            total.subjects.to_string(),
        ]
    });
    section(&["counter", "in all", "changes for"], totals.collect());
    section(
        &[
            "largest changes",
            "delta",
            "tenant",
            "dialog",
            "user",
            "message",
        ],
        plan.changes.iter().map(change_row).collect(),
    );
    text
}

fn change_row(change: &v1::CounterChange) -> Vec<String> {
    let user = match change.user_id.as_str() {
        "*" => format!("each of {} others", change.subjects),
        user => or_dash(user),
    };
    vec![
        change.counter.clone(),
        format!("{:+}", change.delta),
        change.tenant_id.clone(),
        or_dash(&change.dialog_id),
        user,
        or_dash(&change.message_id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_would_happen() {
        let plan = v1::ReplayPlan {
            selected: 3,
            applied: 2,
            failures: vec![v1::ReplayFailure {
                reason: "undecodable".into(),
                cause: "expected JSON".into(),
                count: 1,
            }],
            totals: vec![v1::CounterTotal {
                counter: "unread_count".into(),
                delta: 8,
                subjects: 4,
            }],
            changes: vec![v1::CounterChange {
                tenant_id: "t".into(),
                dialog_id: "d".into(),
                user_id: "*".into(),
                counter: "unread_count".into(),
                delta: 2,
                subjects: 4,
                ..Default::default()
            }],
            ..Default::default()
        };
        let expected = "\
letters
      3  letters selected
      2  would be counted
      1  would fail again

would fail  reason       cause
         1  undecodable  expected JSON

counter       in all  changes for
unread_count      +8            4

largest changes  delta  tenant  dialog  user              message
unread_count        +2  t       d       each of 4 others  -
";
        assert_eq!(text(&plan), expected);
    }

    #[test]
    fn a_plan_in_json() {
        let plan = v1::ReplayPlan {
            selected: 3,
            failures: vec![v1::ReplayFailure {
                reason: "r".into(),
                cause: "c".into(),
                count: 1,
            }],
            totals: vec![v1::CounterTotal {
                counter: "unread_count".into(),
                delta: -8,
                subjects: 4,
            }],
            changes: vec![v1::CounterChange {
                tenant_id: "t".into(),
                counter: "unread_count".into(),
                delta: 2,
                ..Default::default()
            }],
            unsendable_letters: vec![v1::DeadLetterFailure {
                letter_id: "l".into(),
                cause: "c".into(),
            }],
            ..Default::default()
        };
        assert_eq!(
            output::sorted(&plan).unwrap().to_string(),
            concat!(
                r#"{"applied":0,"changes":[{"counter":"unread_count","delta":2,"dialog_id":"","#,
                r#""message_id":"","subjects":0,"tenant_id":"t","user_id":""}],"duplicates":0,"#,
                r#""failures":[{"cause":"c","count":1,"reason":"r"}],"ignored":0,"#,
                r#""not_examined":0,"selected":3,"totals":[{"counter":"unread_count","delta":-8,"#,
                r#""subjects":4}],"uncertain":0,"unchanged":0,"unsendable":0,"#,
                r#""unsendable_letters":[{"cause":"c","letter_id":"l"}]}"#
            )
        );
    }
}
