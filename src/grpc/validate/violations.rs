//! What is wrong with a request, and the checks that all requests share.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::auth::Identity;
use crate::event::{EventId, InvalidId, TenantId, UserId};
use crate::grpc::bounds::{DEFAULT_PAGE_SIZE, MAX_BATCH_IDS};
use crate::grpc::guard::Denied;
use crate::grpc::token::Resumable;

/// The violations told of one request: they travel in a header, which is bounded.
pub(super) const MAX_VIOLATIONS: usize = 16;

/// What was found to be wrong with a request.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Violations {
    told: Vec<FieldViolation>,
    /// How many there are besides.
    untold: usize,
    /// What the caller may not ask: told alone.
    denied: Option<Denied>,
}

impl Violations {
    /// Tells whether nothing was found.
    pub(in crate::grpc) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.denied.is_none()
    }

    /// Notes what the caller may not ask, which is then told alone.
    pub(in crate::grpc) fn deny(&mut self, denied: Denied) {
        self.denied = Some(denied);
    }

    /// Checks a tenant that the caller may ask about.
    pub(super) fn tenant(&mut self, id: &str, who: &Identity) -> Option<TenantId> {
        let tenant = self.id("tenant_id", id, TenantId::new)?;
        if !who.tenants().contains(tenant.as_str()) {
            self.deny(Denied::Tenant);
            return None;
        }
        Some(tenant)
    }

    /// Checks a tenant as [`tenant`](Self::tenant) does; an empty one stands for all,
    /// if the caller may ask about them.
    pub(super) fn tenant_or_all(&mut self, id: &str, who: &Identity) -> Option<TenantId> {
        if !id.is_empty() {
            return self.tenant(id, who);
        }
        if !who.tenants().are_all() {
            self.deny(Denied::AllTenants);
        }
        None
    }

    /// Checks a user that the caller may ask about.
    pub(super) fn user(&mut self, id: &str, who: &Identity) -> Option<UserId> {
        let user = self.id("user_id", id, UserId::new)?;
        if !who.reads_user(&user) {
            self.deny(Denied::User);
            return None;
        }
        Some(user)
    }

    /// Checks users that the caller may ask about, at most so many.
    pub(super) fn users(
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

    /// Notes that a field is not as it must be, and what was expected.
    pub(in crate::grpc) fn add(&mut self, field: impl Into<String>, expected: impl Into<String>) {
        if self.told.len() < MAX_VIOLATIONS {
            self.told.push(FieldViolation::new(field, expected));
        } else {
            self.untold += 1;
        }
    }

    /// Checks one id.
    pub(in crate::grpc) fn id<T>(
        &mut self,
        field: impl Into<String>,
        id: &str,
        new: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Option<T> {
        new(id).map_err(|e| self.add(field, e.to_string())).ok()
    }

    /// Checks the ids of a batch.
    pub(super) fn ids<T>(
        &mut self,
        field: &str,
        ids: &[String],
        new: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Option<Vec<T>> {
        self.ids_up_to(MAX_BATCH_IDS, field, ids, new)
    }

    /// Checks ids, at most so many.
    pub(super) fn ids_up_to<T>(
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

    /// Checks the event to wait for: none when the field is empty.
    pub(super) fn after(&mut self, id: &str) -> Option<Option<EventId>> {
        match id {
            "" => Some(None),
            id => self.id("after_event_id", id, EventId::new).map(Some),
        }
    }

    /// Checks how many entries a page is to have; 0 stands for [`DEFAULT_PAGE_SIZE`].
    pub(in crate::grpc) fn page_size(&mut self, size: i32, max: u16) -> Option<usize> {
        match u16::try_from(size) {
            Ok(0) => Some(usize::from(DEFAULT_PAGE_SIZE)),
            Ok(size) if size <= max => Some(usize::from(size)),
            _ => {
                self.add("page_size", format!("0 to {max}, found {size}"));
                None
            }
        }
    }

    /// Opens a page token: returns where the page before ended: `None` for the first
    /// page, and for a token that is not one of this query.
    pub(in crate::grpc) fn page_token<Q: Resumable>(
        &mut self,
        query: &Q,
        token: &str,
    ) -> Option<Q::Place> {
        let expected = "the next_page_token of the same query, found something else";
        self.token("page_token", query, token, expected)
    }

    /// Opens a token of a query: `None` for an empty one, and for one of something
    /// else, which is noted.
    pub(super) fn token<Q: Resumable>(
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
    pub(in crate::grpc) fn checked(self) -> Result<(), Status> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.into_status()),
        }
    }

    /// Returns the status that tells all that was found.
    pub(in crate::grpc) fn into_status(self) -> Status {
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
