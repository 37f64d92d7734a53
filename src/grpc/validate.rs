//! From requests to questions: everything that is wrong with a request is told
//! at once, but for what the caller may not ask, which is told alone.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use prost_types::Timestamp;

use crate::auth::Identity;
use crate::counter::Counter;
use crate::event::{DialogId, EventId, InvalidId, MessageId, TenantId, UserId};
use crate::history::PageRequest;
use crate::maintenance::sweep::SweepScope;
use crate::serving::watching::{Since, Subject};
use crate::store::read;

use super::bounds::{DEFAULT_PAGE_SIZE, MAX_BATCH_IDS, MAX_PAGE_SIZE, MAX_WATCHED};
use super::guard::Denied;
use super::token::{Resumable, StreamsOf};
use super::v1;

/// Oldest answer that can be asked for.
const MAX_STALENESS_MS: u64 = 60_000;
/// Between two updates about one subject of a stream, in milliseconds: at least,
/// unless asked for, and at most.
const INTERVAL_MS: (u64, u64, u64) = (10, 100, 60_000);
/// Longest reason of a repair.
const MAX_REASON_BYTES: usize = 1_000;
/// Records and messages that one history may go through. Some 400 bytes each.
const MAX_REPLAYED: usize = 500_000;

/// Violations told of one request: they travel in a header, which is bounded.
const MAX_VIOLATIONS: usize = 16;

/// A question, and the event that its answer is to include.
pub(super) type Valid<Q> = Result<(Q, Option<EventId>), Status>;

/// A question about a user's dialogs, by the order that they are to have.
#[derive(Debug)]
pub(super) enum Listing {
    /// By dialog id.
    ById(read::DialogsOfUser),
    /// In an order that moves.
    InOrder(read::DialogsInOrder),
}

/// A request of which one field is not as it must be.
pub(super) fn violated(field: &str, expected: String) -> Status {
    let mut found = Violations::default();
    found.add(field, expected);
    found.into_status()
}

/// How old an answer may be.
pub(super) fn staleness(millis: i32) -> Result<Duration, Status> {
    let mut found = Violations::default();
    match u64::try_from(millis) {
        Ok(millis) if millis <= MAX_STALENESS_MS => Ok(Duration::from_millis(millis)),
        _ => {
            let expected = format!("0 to {MAX_STALENESS_MS}, found {millis}");
            found.add("max_staleness_ms", expected);
            Err(found.into_status())
        }
    }
}

pub(super) fn user(request: &v1::GetUserStatsRequest, who: &Identity) -> Valid<read::Users> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(user), Some(after)) = (tenant, user, after) else {
        return Err(found.into_status());
    };
    let users = vec![user];
    Ok((read::Users { tenant, users }, after))
}

pub(super) fn users(request: &v1::BatchGetUserStatsRequest, who: &Identity) -> Valid<read::Users> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let users = found.users(MAX_BATCH_IDS, "user_ids", &request.user_ids, who);
    let (Some(tenant), Some(users)) = (tenant, users) else {
        return Err(found.into_status());
    };
    Ok((read::Users { tenant, users }, None))
}

pub(super) fn user_in_dialog(
    request: &v1::GetUserDialogStatsRequest,
    who: &Identity,
) -> Valid<read::UserInDialog> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let dialog = found.id("dialog_id", &request.dialog_id, DialogId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(user), Some(dialog), Some(after)) = (tenant, user, dialog, after)
    else {
        return Err(found.into_status());
    };
    let query = read::UserInDialog {
        tenant,
        user,
        dialog,
    };
    Ok((query, after))
}

pub(super) fn dialogs_of_user(
    request: &v1::ListUserDialogStatsRequest,
    who: &Identity,
) -> Valid<Listing> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let user = found.user(&request.user_id, who);
    let limit = found.page_size(request.page_size, MAX_PAGE_SIZE);
    let order = found.order(request.order_by);
    let (Some(tenant), Some(user), Some(limit), Some(order)) = (tenant, user, limit, order) else {
        return Err(found.into_status());
    };
    let (unread_only, token) = (request.unread_only, &request.page_token);
    let listing = match order {
        None => {
            let mut query = read::DialogsOfUser {
                tenant,
                user,
                unread_only,
                after: None,
                limit,
            };
            query.after = found.page_token(&query, token);
            Listing::ById(query)
        }
        Some(order) => {
            let mut query = read::DialogsInOrder {
                tenant,
                user,
                order,
                unread_only,
                after: None,
                limit,
            };
            query.after = found.page_token(&query, token);
            Listing::InOrder(query)
        }
    };
    found.checked()?;
    Ok((listing, None))
}

pub(super) fn dialog(request: &v1::GetDialogStatsRequest, who: &Identity) -> Valid<read::Dialogs> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let dialog = found.id("dialog_id", &request.dialog_id, DialogId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(dialog), Some(after)) = (tenant, dialog, after) else {
        return Err(found.into_status());
    };
    let dialogs = vec![dialog];
    Ok((read::Dialogs { tenant, dialogs }, after))
}

pub(super) fn dialogs(
    request: &v1::BatchGetDialogStatsRequest,
    who: &Identity,
) -> Valid<read::Dialogs> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let dialogs = found.ids("dialog_ids", &request.dialog_ids, DialogId::new);
    let (Some(tenant), Some(dialogs)) = (tenant, dialogs) else {
        return Err(found.into_status());
    };
    Ok((read::Dialogs { tenant, dialogs }, None))
}

pub(super) fn message(
    request: &v1::GetMessageStatsRequest,
    who: &Identity,
) -> Valid<read::Messages> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let message = found.id("message_id", &request.message_id, MessageId::new);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(message), Some(after)) = (tenant, message, after) else {
        return Err(found.into_status());
    };
    let messages = vec![message];
    Ok((read::Messages { tenant, messages }, after))
}

pub(super) fn messages(
    request: &v1::BatchGetMessageStatsRequest,
    who: &Identity,
) -> Valid<read::Messages> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let messages = found.ids("message_ids", &request.message_ids, MessageId::new);
    let (Some(tenant), Some(messages)) = (tenant, messages) else {
        return Err(found.into_status());
    };
    Ok((read::Messages { tenant, messages }, None))
}

pub(super) fn history(
    request: &v1::ListCounterHistoryRequest,
    who: &Identity,
) -> Valid<read::History> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let scope = found.scope(request, who);
    let counter = found.counter(&request.counter, scope.as_ref());
    let part = found.part(request);
    let after = found.after(&request.after_event_id);
    let (Some(tenant), Some(scope), Some(counter), Some(part), Some(after)) =
        (tenant, scope, counter, part, after)
    else {
        return Err(found.into_status());
    };
    let mut query = read::History {
        tenant,
        scope,
        counter,
        part,
        most: MAX_REPLAYED,
    };
    query.part.after = found.page_token(&query, &request.page_token);
    found.checked()?;
    Ok((query, after))
}

/// Whether a counter is one of those of a scope.
fn belongs(counter: &Counter, scope: &read::Scope) -> bool {
    use Counter::*;
    match scope {
        read::Scope::UserInDialog(..) => matches!(counter, Unread | UnreadFrom(_)),
        read::Scope::User(_) => matches!(
            counter,
            TotalUnread | UnreadFrom(_) | UnreadDialogs | Dialogs | Sent
        ),
        read::Scope::Dialog(_) => matches!(counter, Messages | Members | Topics),
        read::Scope::Message(_) => matches!(counter, Status(_) | Reaction(_)),
    }
}

/// In milliseconds, rounded up: what is kept has no more.
pub(super) fn millis(at: &Timestamp) -> Option<i64> {
    let nanos = i64::from(at.nanos);
    let millis = at.seconds.checked_mul(1_000)?;
    (0..1_000_000_000)
        .contains(&nanos)
        .then(|| millis.checked_add((nanos + 999_999) / 1_000_000))?
}

/// What to verify. Fields of a repair are checked as well.
pub(super) fn verification(
    request: &v1::VerifyCountersRequest,
    who: &Identity,
) -> Result<SweepScope, Status> {
    let mut found = Violations::default();
    let mut scope = SweepScope {
        tenant: found.tenant_or_all(&request.tenant_id, who),
        ..SweepScope::default()
    };
    if !request.dialog_id.is_empty() {
        scope.dialog = found.id("dialog_id", &request.dialog_id, DialogId::new);
        if request.tenant_id.is_empty() {
            found.add("tenant_id", "must be there with dialog_id");
        }
    }
    match request.sample_percent {
        0.0 => {}
        percent if percent > 0.0 && percent <= 100.0 => scope.sample = Some(percent),
        other => found.add(
            "sample_percent",
            format!("above 0, up to 100, or 0 for all; found {other}"),
        ),
    }
    if request.dialogs_per_second > 0 {
        scope.rate = Some(request.dialogs_per_second);
    }
    if request.repair && request.reason.trim().is_empty() {
        found.add("reason", "must be there with repair: it is recorded");
    }
    if request.reason.len() > MAX_REASON_BYTES {
        found.add("reason", format!("at most {MAX_REASON_BYTES} bytes"));
    }
    match found.is_empty() {
        true => Ok(scope),
        false => Err(found.into_status()),
    }
}

/// The tenant to rebuild; `None`: all.
pub(super) fn rebuild(
    request: &v1::RebuildCountersRequest,
    who: &Identity,
) -> Result<Option<TenantId>, Status> {
    let mut found = Violations::default();
    let tenant = found.tenant_or_all(&request.tenant_id, who);
    match found.is_empty() {
        true => Ok(tenant),
        false => Err(found.into_status()),
    }
}

/// For what is about all tenants.
pub(super) fn of_all_tenants(who: &Identity) -> Result<(), Status> {
    match who.tenants().are_all() {
        true => Ok(()),
        false => Err(Denied::AllTenants.status()),
    }
}

/// Whom a stream watches, and how.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) tenant: TenantId,
    pub(super) subjects: Vec<Subject>,
    pub(super) interval: Duration,
    pub(super) since: Option<Since>,
}

/// How a stream is to be changed.
#[derive(Debug)]
pub(super) struct WatchChange {
    pub(super) tenant: TenantId,
    pub(super) add: Vec<Subject>,
    pub(super) remove: Vec<Subject>,
}

pub(super) fn watched_users(
    request: &v1::WatchUserStatsRequest,
    who: &Identity,
) -> Result<Watched, Status> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let users = found.watched_users("user_ids", &request.user_ids, who);
    found.watched(
        tenant,
        users,
        request.min_interval_ms,
        &request.resume_token,
    )
}

pub(super) fn watched_dialogs(
    request: &v1::WatchDialogStatsRequest,
    who: &Identity,
) -> Result<Watched, Status> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let dialogs = found.watched_dialogs("dialog_ids", &request.dialog_ids, who);
    found.watched(
        tenant,
        dialogs,
        request.min_interval_ms,
        &request.resume_token,
    )
}

pub(super) fn watch_change(
    request: &v1::ChangeWatchRequest,
    who: &Identity,
) -> Result<WatchChange, Status> {
    let mut found = Violations::default();
    let tenant = found.tenant(&request.tenant_id, who);
    let mut all = |which: [(&str, &Vec<String>); 2]| {
        let [(users, user_ids), (dialogs, dialog_ids)] = which;
        let mut subjects = found.watched_users(users, user_ids, who)?;
        subjects.extend(found.watched_dialogs(dialogs, dialog_ids, who)?);
        Some(subjects)
    };
    let add = all([
        ("add_user_ids", &request.add_user_ids),
        ("add_dialog_ids", &request.add_dialog_ids),
    ]);
    let remove = all([
        ("remove_user_ids", &request.remove_user_ids),
        ("remove_dialog_ids", &request.remove_dialog_ids),
    ]);
    match (tenant, add, remove) {
        (Some(tenant), Some(add), Some(remove)) => Ok(WatchChange {
            tenant,
            add,
            remove,
        }),
        _ => Err(found.into_status()),
    }
}

/// What is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Violations {
    told: Vec<FieldViolation>,
    untold: usize,
    denied: Option<Denied>,
}

impl Violations {
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.denied.is_none()
    }

    pub(super) fn deny(&mut self, denied: Denied) {
        self.denied = Some(denied);
    }

    /// A tenant that the caller may ask about.
    fn tenant(&mut self, id: &str, who: &Identity) -> Option<TenantId> {
        let tenant = self.id("tenant_id", id, TenantId::new)?;
        if !who.tenants().contains(tenant.as_str()) {
            self.deny(Denied::Tenant);
            return None;
        }
        Some(tenant)
    }

    /// As [`tenant`](Self::tenant); empty: all, if the caller may.
    fn tenant_or_all(&mut self, id: &str, who: &Identity) -> Option<TenantId> {
        if !id.is_empty() {
            return self.tenant(id, who);
        }
        if !who.tenants().are_all() {
            self.deny(Denied::AllTenants);
        }
        None
    }

    /// A user that the caller may ask about.
    fn user(&mut self, id: &str, who: &Identity) -> Option<UserId> {
        let user = self.id("user_id", id, UserId::new)?;
        if !who.reads_user(&user) {
            self.deny(Denied::User);
            return None;
        }
        Some(user)
    }

    /// Users that the caller may ask about, at most so many.
    fn users(
        &mut self,
        most: usize,
        field: &str,
        ids: &[String],
        who: &Identity,
    ) -> Option<Vec<UserId>> {
        let users = self.ids_up_to(most, field, ids, UserId::new)?;
        if !users.iter().all(|user| who.reads_user(user)) {
            self.deny(Denied::User);
            return None;
        }
        Some(users)
    }

    fn watched_users(
        &mut self,
        field: &str,
        ids: &[String],
        who: &Identity,
    ) -> Option<Vec<Subject>> {
        let users = self.users(MAX_WATCHED, field, ids, who)?;
        Some(users.into_iter().map(Subject::User).collect())
    }

    fn watched_dialogs(
        &mut self,
        field: &str,
        ids: &[String],
        who: &Identity,
    ) -> Option<Vec<Subject>> {
        // What is not one user's is nothing for who reads their own alone.
        if !ids.is_empty() && !who.reads_everybody() {
            self.deny(Denied::User);
            return None;
        }
        let dialogs = self.ids_up_to(MAX_WATCHED, field, ids, DialogId::new)?;
        Some(dialogs.into_iter().map(Subject::Dialog).collect())
    }

    /// How it is watched, and from where on.
    fn watched(
        mut self,
        tenant: Option<TenantId>,
        subjects: Option<Vec<Subject>>,
        interval_ms: i32,
        resume_token: &str,
    ) -> Result<Watched, Status> {
        let (least, usual, most) = INTERVAL_MS;
        let interval = match u64::try_from(interval_ms) {
            Ok(0) => Some(usual),
            Ok(millis) if (least..=most).contains(&millis) => Some(millis),
            _ => None,
        };
        if interval.is_none() {
            let expected = format!("{least} to {most}, or 0 for {usual}; found {interval_ms}");
            self.add("min_interval_ms", expected);
        }
        let expected = "a resume_token of a stream about the same tenant, found something else";
        let since = tenant.as_ref().and_then(|tenant| {
            self.token("resume_token", &StreamsOf(tenant), resume_token, expected)
        });
        match (tenant, subjects, interval) {
            (Some(tenant), Some(subjects), Some(interval)) if self.is_empty() => Ok(Watched {
                tenant,
                subjects,
                interval: Duration::from_millis(interval),
                since,
            }),
            _ => Err(self.into_status()),
        }
    }

    pub(super) fn add(&mut self, field: impl Into<String>, expected: impl Into<String>) {
        if self.told.len() < MAX_VIOLATIONS {
            self.told.push(FieldViolation::new(field, expected));
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn id<T>(
        &mut self,
        field: impl Into<String>,
        id: &str,
        new: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Option<T> {
        new(id).map_err(|e| self.add(field, e.to_string())).ok()
    }

    fn ids<T>(
        &mut self,
        field: &str,
        ids: &[String],
        new: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Option<Vec<T>> {
        self.ids_up_to(MAX_BATCH_IDS, field, ids, new)
    }

    fn ids_up_to<T>(
        &mut self,
        most: usize,
        field: &str,
        ids: &[String],
        new: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Option<Vec<T>> {
        if ids.len() > most {
            self.add(field, format!("at most {most} ids, found {}", ids.len()));
            return None;
        }
        let mut valid = Vec::with_capacity(ids.len());
        for (i, id) in ids.iter().enumerate() {
            match new(id) {
                Ok(id) => valid.push(id),
                Err(e) => self.add(format!("{field}[{i}]"), e.to_string()),
            }
        }
        (valid.len() == ids.len()).then_some(valid)
    }

    /// Whose history.
    fn scope(
        &mut self,
        request: &v1::ListCounterHistoryRequest,
        who: &Identity,
    ) -> Option<read::Scope> {
        let v1::ListCounterHistoryRequest {
            user_id,
            dialog_id,
            message_id,
            ..
        } = request;
        let given = [user_id, dialog_id, message_id].map(|id| !id.is_empty());
        // What is not one user's is nothing for who reads their own alone.
        if matches!(given, [false, true, false] | [false, false, true]) && !who.reads_everybody() {
            self.deny(Denied::User);
            return None;
        }
        match given {
            [true, true, false] => {
                let user = self.user(user_id, who);
                let dialog = self.id("dialog_id", dialog_id, DialogId::new);
                Some(read::Scope::UserInDialog(user?, dialog?))
            }
            [true, false, false] => {
                let user = self.user(user_id, who);
                user.map(read::Scope::User)
            }
            [false, true, false] => {
                let dialog = self.id("dialog_id", dialog_id, DialogId::new);
                dialog.map(read::Scope::Dialog)
            }
            [false, false, true] => {
                let message = self.id("message_id", message_id, MessageId::new);
                message.map(read::Scope::Message)
            }
            [_, _, false] => {
                self.add(
                    "user_id",
                    "a user, a dialog, both, or a message, found none",
                );
                None
            }
            [_, _, true] => {
                self.add("message_id", "a message alone, without user and dialog");
                None
            }
        }
    }

    /// The counter asked for: none when the field is empty.
    fn counter(&mut self, name: &str, scope: Option<&read::Scope>) -> Option<Option<Counter>> {
        if name.is_empty() {
            return Some(None);
        }
        let counter = name.parse().ok();
        let counter = counter.filter(|counter| scope.is_none_or(|scope| belongs(counter, scope)));
        match (&counter, name) {
            (Some(_), _) => {}
            (None, "read_count") => self.add(
                "counter",
                "a counter with a history: read_count is not kept, but counted when asked for; \
                 see status_counts.read of the message, or read_until of its readers",
            ),
            (None, _) => self.add("counter", "the name of a counter of what is asked for"),
        }
        counter.map(Some)
    }

    fn part(&mut self, request: &v1::ListCounterHistoryRequest) -> Option<PageRequest> {
        let limit = self.page_size(request.page_size, MAX_PAGE_SIZE);
        let mut time = |field: &str, at: &Option<Timestamp>| match at {
            None => Some(None),
            Some(at) => {
                let millis = millis(at);
                if millis.is_none() {
                    self.add(field, "a time that can be");
                }
                millis.map(Some)
            }
        };
        let (since, until) = (time("since", &request.since), time("until", &request.until));
        Some(PageRequest {
            since: since?,
            until: until?,
            newest_first: request.newest_first,
            after: None,
            limit: limit?,
        })
    }

    /// The event to wait for: none when the field is empty.
    fn after(&mut self, id: &str) -> Option<Option<EventId>> {
        match id {
            "" => Some(None),
            id => self.id("after_event_id", id, EventId::new).map(Some),
        }
    }

    /// How many entries a page is to have; 0 stands for [`DEFAULT_PAGE_SIZE`].
    pub(super) fn page_size(&mut self, size: i32, max: u16) -> Option<usize> {
        match u16::try_from(size) {
            Ok(0) => Some(usize::from(DEFAULT_PAGE_SIZE)),
            Ok(size) if size <= max => Some(usize::from(size)),
            _ => {
                self.add("page_size", format!("0 to {max}, found {size}"));
                None
            }
        }
    }

    /// Where the page before ended: `None` for the first page, and for a token that
    /// is not one of this query.
    pub(super) fn page_token<Q: Resumable>(&mut self, query: &Q, token: &str) -> Option<Q::Place> {
        let expected = "the next_page_token of the same query, found something else";
        self.token("page_token", query, token, expected)
    }

    fn token<Q: Resumable>(
        &mut self,
        field: &str,
        query: &Q,
        token: &str,
        expected: &str,
    ) -> Option<Q::Place> {
        if token.is_empty() {
            return None;
        }
        let place = query.place(token);
        if place.is_none() {
            self.add(field, expected);
        }
        place
    }

    /// Nothing, if nothing was found.
    ///
    /// # Errors
    /// The status that tells what was found.
    pub(super) fn checked(self) -> Result<(), Status> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.into_status()),
        }
    }

    /// The order of a user's dialogs: none is by dialog id.
    fn order(&mut self, order_by: i32) -> Option<Option<read::DialogOrder>> {
        use v1::UserDialogOrder::{LastMessage, UnreadFirst, Unspecified};
        match v1::UserDialogOrder::try_from(order_by) {
            Ok(Unspecified) => Some(None),
            Ok(LastMessage) => Some(Some(read::DialogOrder::LastMessage)),
            Ok(UnreadFirst) => Some(Some(read::DialogOrder::UnreadFirst)),
            Err(_) => {
                let expected = format!("a UserDialogOrder, 0 to 2, found {order_by}");
                self.add("order_by", expected);
                None
            }
        }
    }

    pub(super) fn into_status(self) -> Status {
        if let Some(denied) = self.denied {
            return denied.status();
        }
        let mut message = "invalid request".to_owned();
        for violation in &self.told {
            let separator = if message.contains(':') { ";" } else { ":" };
            message += &format!("{separator} {}: {}", violation.field, violation.description);
        }
        if self.untold > 0 {
            message += &format!("; and {} more", self.untold);
        }
        Status::with_error_details(
            Code::InvalidArgument,
            message,
            ErrorDetails::with_bad_request(self.told),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::auth::{Role, Tenants};

    /// By somebody who may ask everything.
    fn asked<R, Q>(of: impl Fn(&R, &Identity) -> Valid<Q>, request: &R) -> Valid<Q> {
        of(request, &Identity::anonymous())
    }

    /// Somebody with a role in the tenants `a` and `b`, who is the user `ann`.
    fn somebody(role: Role) -> Identity {
        let tenants = ["a", "b"].map(String::from);
        let (roles, tenants) = ([role].into_iter().collect(), Tenants::Only(tenants.into()));
        Identity::new("test", "x", roles, tenants, UserId::new("ann").ok()).unwrap()
    }

    fn denied<T: std::fmt::Debug>(asked: Result<T, Status>) -> String {
        let status = asked.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        status.get_details_error_info().unwrap().reason
    }

    #[test]
    fn a_tenant_is_the_callers_or_the_call_is_denied() {
        let reader = somebody(Role::Reader);
        let of = |tenant: &str, after: &str| v1::GetDialogStatsRequest {
            tenant_id: tenant.into(),
            dialog_id: "d".into(),
            after_event_id: after.into(),
            ..Default::default()
        };
        assert!(dialog(&of("a", ""), &reader).is_ok());
        assert_eq!(denied(dialog(&of("c", ""), &reader)), "TENANT_DENIED");
        // Nothing else is told of it.
        let both = dialog(&of("A", &"x".repeat(513)), &reader);
        assert_eq!(denied(both), "TENANT_DENIED");
        let admin = somebody(Role::Admin);
        let verify = |tenant: &str| {
            let tenant_id = tenant.into();
            let request = v1::VerifyCountersRequest {
                tenant_id,
                ..Default::default()
            };
            verification(&request, &admin)
        };
        assert!(verify("a").is_ok());
        assert_eq!(denied(verify("c")), "TENANT_DENIED");
        assert_eq!(denied(verify("")), "TENANT_DENIED");
        let rebuilt = |tenant: &str| {
            let tenant_id = tenant.into();
            rebuild(&v1::RebuildCountersRequest { tenant_id }, &admin)
        };
        assert!(rebuilt("b").is_ok());
        assert_eq!(denied(rebuilt("c")), "TENANT_DENIED");
        assert_eq!(denied(rebuilt("")), "TENANT_DENIED");
        assert_eq!(denied(of_all_tenants(&admin)), "TENANT_DENIED");
    }

    #[test]
    fn a_user_asks_about_themselves() {
        let ann = somebody(Role::User);
        let of = |user: &str| v1::GetUserStatsRequest {
            tenant_id: "a".into(),
            user_id: user.into(),
            ..Default::default()
        };
        assert!(user(&of(" Ann"), &ann).is_ok());
        assert_eq!(denied(user(&of("bob"), &ann)), "USER_DENIED");
        assert!(user(&of("bob"), &somebody(Role::Reader)).is_ok());
        let batch = |ids: &[&str]| v1::BatchGetUserStatsRequest {
            tenant_id: "a".into(),
            user_ids: ids.iter().map(ToString::to_string).collect(),
        };
        assert!(users(&batch(&["ann", "ANN"]), &ann).is_ok());
        assert_eq!(denied(users(&batch(&["ann", "bob"]), &ann)), "USER_DENIED");
        let of = |user: &str, dialog: &str, message: &str| v1::ListCounterHistoryRequest {
            tenant_id: "a".into(),
            user_id: user.into(),
            dialog_id: dialog.into(),
            message_id: message.into(),
            ..Default::default()
        };
        assert!(history(&of("ann", "", ""), &ann).is_ok());
        assert!(history(&of("ann", "d", ""), &ann).is_ok());
        for request in [
            of("bob", "d", ""),
            of("bob", "", ""),
            of("", "d", ""),
            of("", "", "m"),
        ] {
            assert_eq!(denied(history(&request, &ann)), "USER_DENIED");
        }
    }

    fn fields(status: &Status) -> Vec<String> {
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad_request = status.get_details_bad_request().expect("details");
        let fields = bad_request.field_violations.into_iter().map(|v| v.field);
        fields.collect()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_by_field() {
        let status = asked(
            user_in_dialog,
            &v1::GetUserDialogStatsRequest {
                tenant_id: String::new(),
                user_id: "  ".into(),
                dialog_id: "a\nb".into(),
                after_event_id: "x".repeat(513),
                ..Default::default()
            },
        )
        .unwrap_err();
        assert_eq!(
            fields(&status),
            ["tenant_id", "user_id", "dialog_id", "after_event_id"]
        );
        assert!(
            status
                .message()
                .starts_with("invalid request: tenant_id: an id of 1")
        );
        assert!(
            status.message().contains("; user_id: an id"),
            "{}",
            status.message()
        );
    }

    #[test]
    fn ids_of_a_batch_are_named_by_their_place() {
        let ids = ["a", "", "c", "\u{7f}"].map(String::from).to_vec();
        let status = asked(
            dialogs,
            &v1::BatchGetDialogStatsRequest {
                tenant_id: "t".into(),
                dialog_ids: ids,
            },
        )
        .unwrap_err();
        assert_eq!(fields(&status), ["dialog_ids[1]", "dialog_ids[3]"]);
    }

    #[test]
    fn a_batch_has_at_most_a_thousand_ids_and_its_status_fits_a_header() {
        let batch = |count, id: &str| v1::BatchGetUserStatsRequest {
            tenant_id: "t".into(),
            user_ids: vec![id.to_owned(); count],
        };
        assert_eq!(
            asked(users, &batch(1_000, " Ann")).unwrap().0.users[999].as_str(),
            "ann"
        );
        assert!(asked(users, &batch(0, "")).unwrap().0.users.is_empty());
        let status = asked(users, &batch(1_001, "a")).unwrap_err();
        assert_eq!(fields(&status), ["user_ids"]);
        let status = asked(users, &batch(1_000, "")).unwrap_err();
        assert_eq!(fields(&status).len(), MAX_VIOLATIONS);
        assert!(status.message().ends_with("; and 984 more"));
        assert!(status.message().len() + status.details().len() < 4_096);
    }

    #[test]
    fn a_page_has_1_to_500_dialogs_and_a_token_of_the_same_query() {
        let list = |page_size, page_token: &str| {
            listed(page_size, page_token, 0).map(|listing| match listing {
                Listing::ById(query) => query,
                Listing::InOrder(query) => panic!("{query:?}"),
            })
        };
        assert_eq!(list(0, "").unwrap().limit, usize::from(DEFAULT_PAGE_SIZE));
        assert_eq!(list(500, "").unwrap().limit, 500);
        for size in [-1, 501, i32::MIN, i32::MAX] {
            assert_eq!(
                fields(&list(size, "").unwrap_err()),
                ["page_size"],
                "{size}"
            );
        }
        assert_eq!(fields(&list(1, "junk").unwrap_err()), ["page_token"]);
        let last = DialogId::new("d").unwrap();
        let query = |unread_only| read::DialogsOfUser {
            tenant: TenantId::new("t").unwrap(),
            user: UserId::new("u").unwrap(),
            unread_only,
            after: None,
            limit: 1,
        };
        let after = list(1, &query(true).token(&last)).unwrap().after;
        assert_eq!(after, Some(last.clone()));
        let other = list(1, &query(false).token(&last)).unwrap_err();
        assert_eq!(fields(&other), ["page_token"]);
    }

    /// Unread dialogs of the user `u`, in an order by its number.
    fn listed(page_size: i32, page_token: &str, order_by: i32) -> Result<Listing, Status> {
        let request = v1::ListUserDialogStatsRequest {
            tenant_id: "t".into(),
            user_id: "U ".into(),
            unread_only: true,
            page_size,
            page_token: page_token.into(),
            order_by,
        };
        asked(dialogs_of_user, &request).map(|(listing, _)| listing)
    }

    #[test]
    fn an_order_is_known_and_a_token_of_another_one_is_refused() {
        use read::DialogOrder::{LastMessage, UnreadFirst};

        for unknown in [-1, 3, i32::MIN, i32::MAX] {
            let status = listed(0, "", unknown).unwrap_err();
            assert_eq!(fields(&status), ["order_by"], "{unknown}");
        }
        let both = listed(501, "", 3).unwrap_err();
        assert_eq!(fields(&both), ["page_size", "order_by"]);
        let by_id = match listed(1, "", 0).unwrap() {
            Listing::ById(query) => query,
            Listing::InOrder(query) => panic!("{query:?}"),
        };
        let in_order = |order| read::DialogsInOrder {
            tenant: by_id.tenant.clone(),
            user: by_id.user.clone(),
            order,
            unread_only: true,
            after: None,
            limit: 1,
        };
        let last = read::PlaceInOrder {
            unread: true,
            last_message_at: None,
            dialog: DialogId::new("d").unwrap(),
        };
        let tokens = [
            by_id.token(&last.dialog),
            in_order(LastMessage).token(&last),
            in_order(UnreadFirst).token(&last),
        ];
        for (order_by, order) in [(1, LastMessage), (2, UnreadFirst)] {
            for (of, token) in (0..).zip(&tokens) {
                match listed(7, token, order_by) {
                    Ok(Listing::InOrder(query)) => {
                        assert_eq!((of, query.order, query.limit), (order_by, order, 7));
                        assert_eq!((query.after, query.unread_only), (Some(last.clone()), true));
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(status) => {
                        assert_eq!(fields(&status), ["page_token"]);
                        assert_ne!(of, order_by, "{status}");
                    }
                }
            }
            let by_id = listed(7, &tokens[order_by as usize], 0).unwrap_err();
            assert_eq!(fields(&by_id), ["page_token"]);
        }
    }
}
