//! Reads of the history of a counter.

use prost_types::Timestamp;

use super::{Valid, Violations, millis};
use crate::auth::Identity;
use crate::counter::Counter;
use crate::event::{DialogId, MessageId};
use crate::grpc::bounds::MAX_PAGE_SIZE;
use crate::grpc::guard::Denied;
use crate::grpc::v1;
use crate::history::PageRequest;
use crate::store::read;

/// The most records and messages that one history may go through, some 400 bytes
/// each.
const MAX_REPLAYED: usize = 500_000;

/// Checks a `ListCounterHistoryRequest`.
pub(in crate::grpc) fn history(
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
fn belongs(counter: &Counter, scope: &read::HistoryScope) -> bool {
    use Counter::*;
    match scope {
        read::HistoryScope::UserInDialog(..) => matches!(counter, Unread | UnreadFrom(_)),
        read::HistoryScope::User(_) => matches!(
            counter,
            TotalUnread | UnreadFrom(_) | UnreadDialogs | Dialogs | Sent
        ),
        read::HistoryScope::Dialog(_) => matches!(counter, Messages | Members | Topics),
        read::HistoryScope::Message(_) => matches!(counter, Status(_) | Reaction(_)),
    }
}

impl Violations {
    /// Returns the subject whose history is asked for.
    fn scope(
        &mut self,
        request: &v1::ListCounterHistoryRequest,
        who: &Identity,
    ) -> Option<read::HistoryScope> {
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
                Some(read::HistoryScope::UserInDialog(user?, dialog?))
            }
            [true, false, false] => {
                let user = self.user(user_id, who);
                user.map(read::HistoryScope::User)
            }
            [false, true, false] => {
                let dialog = self.id("dialog_id", dialog_id, DialogId::new);
                dialog.map(read::HistoryScope::Dialog)
            }
            [false, false, true] => {
                let message = self.id("message_id", message_id, MessageId::new);
                message.map(read::HistoryScope::Message)
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
    fn counter(
        &mut self,
        name: &str,
        scope: Option<&read::HistoryScope>,
    ) -> Option<Option<Counter>> {
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
}
