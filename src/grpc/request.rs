//! Checking what callers send: all that is wrong with a request at once, each
//! by the name of its field.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::v1::ListUserDialogStatsRequest;
use crate::event::{DialogId, EventId, InvalidId, TenantId, UserId};
use crate::store::read::Listing;

/// Most ids in one request.
pub const MAX_BATCH: usize = 1_000;
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: i32 = 500;
/// What every page token begins with; changes with its form.
const TOKEN_VERSION: &str = "1";

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub struct Check {
    violations: Vec<FieldViolation>,
}

impl Check {
    /// Notes what is wrong with a field.
    pub fn refuse(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.violations.push(FieldViolation::new(field, why));
    }

    /// A required id.
    pub fn id<T>(
        &mut self,
        field: &str,
        value: &str,
        parse: fn(&str) -> Result<T, InvalidId>,
    ) -> Option<T> {
        match parse(value) {
            Ok(id) => Some(id),
            Err(e) => {
                self.refuse(field, format!("expected {e}"));
                None
            }
        }
    }

    /// Several ids, at most [`MAX_BATCH`].
    pub fn ids<T>(
        &mut self,
        field: &str,
        values: &[String],
        parse: fn(&str) -> Result<T, InvalidId>,
    ) -> Vec<T> {
        if values.len() > MAX_BATCH {
            let found = values.len();
            self.refuse(
                field,
                format!("expected at most {MAX_BATCH} ids, found {found}"),
            );
            return Vec::new();
        }
        let ids = values.iter().enumerate();
        ids.filter_map(|(i, value)| self.id(&format!("{field}[{i}]"), value, parse))
            .collect()
    }

    /// The event to wait for, where there is one.
    pub fn after(&mut self, value: &str) -> Option<EventId> {
        match value {
            "" => None,
            value => self.id("after_event_id", value, EventId::new),
        }
    }

    /// Everything asked for, if nothing was wrong.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with all violations.
    pub fn done<T>(self, values: Option<T>) -> Result<T, Status> {
        match values {
            Some(values) if self.violations.is_empty() => Ok(values),
            _ => {
                let first = self.violations.first();
                let text = first.map_or_else(String::new, |violation| {
                    format!("{}: {}", violation.field, violation.description)
                });
                let details = ErrorDetails::with_bad_request(self.violations);
                Err(Status::with_error_details(
                    Code::InvalidArgument,
                    text,
                    details,
                ))
            }
        }
    }
}

/// A request for a page, checked.
///
/// # Errors
/// INVALID_ARGUMENT with all violations.
pub fn listing(request: &ListUserDialogStatsRequest) -> Result<Listing, Status> {
    let mut check = Check::default();
    let tenant = check.id("tenant_id", &request.tenant_id, TenantId::new);
    let user = check.id("user_id", &request.user_id, UserId::new);
    let limit = match request.page_size {
        0 => DEFAULT_PAGE,
        // In range, so that it fits.
        size @ 1..=MAX_PAGE => size as usize,
        size => {
            check.refuse(
                "page_size",
                format!("expected 0 to {MAX_PAGE}, found {size}"),
            );
            0
        }
    };
    let mut listing = tenant.zip(user).map(|(tenant, user)| Listing {
        tenant,
        user,
        unread_only: request.unread_only,
        after: None,
        limit,
    });
    if let (Some(listing), false) = (&mut listing, request.page_token.is_empty()) {
        match dialog_of(&request.page_token, listing) {
            Some(dialog) => listing.after = Some(dialog),
            None => check.refuse(
                "page_token",
                "expected the next_page_token of an answer to the same request",
            ),
        }
    }
    check.done(listing)
}

/// A token for the page after a dialog: its id, bound to the rest of the
/// request.
pub fn token(listing: &Listing, dialog: &str) -> String {
    format!("{TOKEN_VERSION}.{:016x}.{dialog}", binding(listing))
}

fn dialog_of(token: &str, listing: &Listing) -> Option<DialogId> {
    let mut parts = token.splitn(3, '.');
    let (version, bound, dialog) = (parts.next()?, parts.next()?, parts.next()?);
    let is_ours = version == TOKEN_VERSION && bound == format!("{:016x}", binding(listing));
    is_ours.then(|| DialogId::new(dialog).ok()).flatten()
}

/// Not a secret: it notices a mistake, it does not keep anyone out.
fn binding(listing: &Listing) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&listing.tenant, &listing.user, listing.unread_only).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(token: &str) -> ListUserDialogStatsRequest {
        ListUserDialogStatsRequest {
            tenant_id: "t".into(),
            user_id: "U".into(),
            unread_only: true,
            page_size: 0,
            page_token: token.into(),
        }
    }

    #[test]
    fn a_token_goes_with_its_own_request_only() {
        let first = listing(&request("")).unwrap();
        assert_eq!((first.limit, first.user.as_str()), (DEFAULT_PAGE, "u"));
        let token = token(&first, "a.b.👍");
        let next = listing(&request(&token)).unwrap();
        assert_eq!(
            next.after.map(|dialog| dialog.to_string()),
            Some("a.b.👍".into())
        );

        let mut other = request(&token);
        other.unread_only = false;
        let refused = listing(&other).unwrap_err();
        let details = refused.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, "page_token");
    }
}
