//! From requests to what is to be done about dead letters.

use std::time::Duration;

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;

use crate::auth::Identity;
use crate::deadletter::{Filter, LetterId, Reason, UNKNOWN, shortened};
use crate::grpc::bounds::MAX_LETTER_PAGE_SIZE;
use crate::grpc::guard::{Caller, Denied};
use crate::grpc::token::Resumable;
use crate::grpc::v1;
use crate::grpc::validate::{Violations, millis};
use crate::redrive::{ReplayPace, Selection};
use crate::store::dead_letters::LetterPosition;

/// The most ids that one filter names.
const MAX_FILTER_IDS: usize = 10_000;
/// The fewest hexadecimal digits that stand for an id.
const MIN_ID_DIGITS: usize = 6;
/// The longest text of a condition, an actor or a reason, in bytes.
const MAX_TEXT_BYTES: usize = 1_000;

/// A page of dead letters that is asked for.
pub(super) struct LetterPage {
    pub(super) filter: Filter,
    pub(super) after: Option<LetterPosition>,
    pub(super) limit: usize,
}

/// Checks a request for a page of dead letters.
pub(super) fn list(
    request: v1::ListDeadLettersRequest,
    who: &Identity,
) -> Result<LetterPage, Status> {
    let mut found = Violations::default();
    let filter = found.filter("filter.", request.filter.unwrap_or_default(), who);
    let limit = found.page_size(request.page_size, MAX_LETTER_PAGE_SIZE);
    let query = ListedLetters {
        filter: &filter,
        discarded: request.discarded,
    };
    let after = found.page_token(&query, &request.page_token);
    let Some(limit) = limit else {
        return Err(found.into_status());
    };
    found.checked()?;
    Ok(LetterPage {
        filter,
        after,
        limit,
    })
}

/// Dead letters that are listed: a page ends with a letter.
#[derive(Debug)]
pub(super) struct ListedLetters<'a> {
    pub(super) filter: &'a Filter,
    pub(super) discarded: bool,
}

impl Resumable for ListedLetters<'_> {
    type Place = LetterPosition;

    fn parts(&self) -> Vec<String> {
        let shelf = if self.discarded { "discarded" } else { "queue" };
        vec![
            "dead letters".to_owned(),
            shelf.to_owned(),
            self.filter.key(),
        ]
    }

    fn spell(place: &LetterPosition) -> String {
        format!("{}.{}", place.millis, place.id)
    }

    fn parse(text: &str) -> Option<LetterPosition> {
        let (millis, id) = text.split_once('.')?;
        Some(LetterPosition {
            millis: millis.parse().ok()?,
            id: LetterId::parse(id)?,
        })
    }
}

/// The audit of jobs: a page ends with the id of a job.
#[derive(Debug)]
pub(super) struct Audit;

impl Resumable for Audit {
    type Place = String;

    fn parts(&self) -> Vec<String> {
        vec!["dead letter audit".to_owned()]
    }

    fn spell(job: &String) -> String {
        job.clone()
    }

    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

/// Checks a request for the groups of dead letters.
pub(super) fn groups(
    request: v1::ListDeadLetterGroupsRequest,
    who: &Identity,
) -> Result<Filter, Status> {
    let mut found = Violations::default();
    let filter = found.filter("filter.", request.filter.unwrap_or_default(), who);
    found.checked()?;
    Ok(filter)
}

/// Checks the id of a letter, or the beginning of one.
pub(super) fn id(id: &str) -> Result<LetterId, Status> {
    let mut found = Violations::default();
    match found.letter("id", id) {
        Some(id) => Ok(id),
        None => Err(found.into_status()),
    }
}

/// Letters for a job. `reason_needed`: it takes something away.
pub(super) fn selection(
    request: Option<v1::DeadLetterSelection>,
    reason_needed: bool,
    caller: &Caller,
) -> Result<Selection, Status> {
    let mut found = Violations::default();
    let v1::DeadLetterSelection {
        filter,
        all,
        actor,
        reason,
    } = request.unwrap_or_default();
    let filter = filter.unwrap_or_default();
    let without_condition = filter == v1::DeadLetterFilter::default();
    let filter = found.filter("selection.filter.", filter, &caller.identity);
    if without_condition && !all {
        found.add(
            "selection.all",
            "true when no condition is given, so that nothing is selected by mistake",
        );
    }
    found.remark("selection.actor", &actor, false);
    found.remark("selection.reason", &reason, reason_needed);
    found.checked()?;
    Ok(on_account(caller, filter, actor, reason))
}

/// Checks an edit apart from its body: the letter, and on whose account it is.
pub(super) fn edit(
    request: &v1::EditDeadLetterRequest,
    caller: &Caller,
) -> Result<(LetterId, Selection), Status> {
    let v1::EditDeadLetterRequest { actor, reason, .. } = request;
    let mut found = Violations::default();
    let id = found.letter("id", &request.id);
    found.remark("actor", actor, false);
    found.remark("reason", reason, !request.validate_only);
    let Some(id) = id else {
        return Err(found.into_status());
    };
    found.checked()?;
    let filter = Filter {
        permitted: caller.identity.tenants().ids(),
        ..Filter::default()
    };
    Ok((
        id,
        on_account(caller, filter, actor.clone(), reason.clone()),
    ))
}

/// The actor is who the caller is; what they say of themselves is a note.
fn on_account(caller: &Caller, filter: Filter, claimed: String, reason: String) -> Selection {
    let actor = caller.described();
    Selection {
        filter,
        claimed_actor: if claimed == actor {
            String::new()
        } else {
            claimed
        },
        actor,
        reason,
    }
}

/// Returns how fast a request wants letters to be replayed.
pub(super) fn pace(request: &v1::ReplayDeadLettersRequest) -> ReplayPace {
    let default = ReplayPace::default();
    ReplayPace {
        rate: (request.rate > 0).then_some(request.rate),
        brake_at: match request.brake_at {
            0 => default.brake_at,
            depth => depth,
        },
    }
}

/// Returns the page of the audit: the job that it begins after, and how many.
pub(super) fn audit(
    request: &v1::ListDeadLetterAuditRequest,
) -> Result<(Option<String>, usize), Status> {
    let mut found = Violations::default();
    let limit = found.page_size(request.page_size, MAX_LETTER_PAGE_SIZE);
    let before = found.page_token(&Audit, &request.page_token);
    let Some(limit) = limit else {
        return Err(found.into_status());
    };
    found.checked()?;
    Ok((before, limit))
}

impl Violations {
    fn letter(&mut self, field: &str, id: &str) -> Option<LetterId> {
        let parsed = LetterId::parse(id).filter(|_| id.len() >= MIN_ID_DIGITS);
        if parsed.is_none() {
            self.add(
                field,
                format!(
                    "the {MIN_ID_DIGITS} to {} hexadecimal digits of a letter's id, found {:?}",
                    LetterId::CHARACTERS,
                    shortened(id, LetterId::CHARACTERS),
                ),
            );
        }
        parsed
    }

    fn remark(&mut self, field: &str, text: &str, needed: bool) {
        if needed && text.trim().is_empty() {
            self.add(field, "a reason for the record, found nothing");
        }
        if text.len() > MAX_TEXT_BYTES {
            self.add(field, format!("at most {MAX_TEXT_BYTES} bytes"));
        }
    }

    /// The filter, with whose letters the caller may mean: it cannot be left out.
    fn filter(&mut self, path: &str, filter: v1::DeadLetterFilter, who: &Identity) -> Filter {
        if filter.ids.len() > MAX_FILTER_IDS {
            self.add(format!("{path}ids"), format!("at most {MAX_FILTER_IDS}"));
        }
        let ids = filter.ids.iter().take(MAX_FILTER_IDS).enumerate();
        let ids = ids.filter_map(|(i, id)| self.letter(&format!("{path}ids[{i}]"), id));
        let ids = ids.collect();
        for (i, reason) in filter.reasons.iter().enumerate() {
            if Reason::named(reason).is_none() && reason != UNKNOWN {
                let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
                self.add(
                    format!("{path}reasons[{i}]"),
                    format!("one of {}, {UNKNOWN}", names.join(", ")),
                );
            }
        }
        let mut condition = |field: &str, text: String| {
            self.remark(&format!("{path}{field}"), &text, false);
            (!text.is_empty()).then_some(text)
        };
        let group = condition("group_id", filter.group_id);
        let event_type = condition("event_type", filter.event_type);
        let tenant = condition("tenant_id", filter.tenant_id);
        let event = condition("event_id", filter.event_id);
        let dialog = condition("dialog_id", filter.dialog_id);
        let error = condition("error_contains", filter.error_contains);
        if tenant
            .as_deref()
            .is_some_and(|id| !who.tenants().contains(id))
        {
            self.deny(Denied::Tenant);
        }
        Filter {
            ids,
            reasons: filter.reasons,
            group,
            event_type,
            tenant,
            event,
            dialog,
            error,
            since: self.time(&format!("{path}since"), filter.since),
            until: self.time(&format!("{path}until"), filter.until),
            younger_than: self.age(&format!("{path}younger_than"), filter.younger_than),
            older_than: self.age(&format!("{path}older_than"), filter.older_than),
            permitted: who.tenants().ids(),
        }
    }

    fn time(&mut self, field: &str, at: Option<Timestamp>) -> Option<OffsetDateTime> {
        let at = at?;
        let moment = millis(&at).and_then(|millis| {
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
        });
        if moment.is_none() {
            self.add(field, "a time that can be");
        }
        moment
    }

    fn age(&mut self, field: &str, age: Option<prost_types::Duration>) -> Option<Duration> {
        let age = Duration::try_from(age?);
        if age.is_err() {
            self.add(field, "a duration that is not negative");
        }
        age.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_selected_by_mistake() {
        let selected = |all, tenant: &str| {
            selection(
                Some(v1::DeadLetterSelection {
                    filter: Some(v1::DeadLetterFilter {
                        tenant_id: tenant.into(),
                        ..Default::default()
                    }),
                    all,
                    ..Default::default()
                }),
                false,
                &Caller::anonymous(),
            )
        };
        assert!(selected(true, "").is_ok() && selected(false, "t").is_ok());
        let refused = selected(false, "").unwrap_err();
        assert!(refused.message().contains("selection.all"), "{refused}");
    }

    #[test]
    fn what_cannot_be_a_condition_is_told_by_field() {
        let refused = groups(
            v1::ListDeadLetterGroupsRequest {
                filter: Some(v1::DeadLetterFilter {
                    ids: vec!["abcdef".into(), "abc".into(), "not hex".into()],
                    reasons: vec!["invalid_event".into(), "bad".into()],
                    error_contains: "x".repeat(1_001),
                    ..Default::default()
                }),
            },
            &Identity::anonymous(),
        );
        let refused = refused.unwrap_err();
        for field in ["ids[1]", "ids[2]", "reasons[1]", "error_contains"] {
            assert!(refused.message().contains(field), "{refused}");
        }
        assert!(!refused.message().contains("ids[0]"));
    }

    #[test]
    fn a_token_is_of_its_query() {
        let filter = Filter {
            tenant: Some("t".into()),
            ..Default::default()
        };
        let place = LetterPosition {
            millis: 5,
            id: LetterId::parse(&"ab".repeat(10)).unwrap(),
        };
        let query = ListedLetters {
            filter: &filter,
            discarded: false,
        };
        let page_token = query.token(&place);
        let asked = |tenant: &str| {
            list(
                v1::ListDeadLettersRequest {
                    filter: Some(v1::DeadLetterFilter {
                        tenant_id: tenant.into(),
                        ..Default::default()
                    }),
                    page_token: page_token.clone(),
                    ..Default::default()
                },
                &Identity::anonymous(),
            )
        };
        assert_eq!(asked("t").unwrap().after, Some(place.clone()));
        assert!(asked("u").is_err());
    }
}
