//! Streams that watch users or dialogs.

use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::Status;

use super::Violations;
use crate::auth::Identity;
use crate::event::{DialogId, TenantId};
use crate::grpc::bounds::MAX_WATCHED;
use crate::grpc::guard::Denied;
use crate::grpc::token::StreamsOf;
use crate::grpc::v1;
use crate::serving::watching::{ResumePoint, Subject};

/// The time between two updates about one subject of a stream, in milliseconds.
const INTERVAL_MS: RangeInclusive<u64> = 10..=60_000;
/// The same unless the request says another.
const DEFAULT_INTERVAL_MS: u64 = 100;

/// Whom a stream watches, and how.
#[derive(Debug)]
pub(in crate::grpc) struct Watched {
    pub(in crate::grpc) tenant: TenantId,
    pub(in crate::grpc) subjects: Vec<Subject>,
    /// The shortest time between two updates about one subject.
    pub(in crate::grpc) interval: Duration,
    /// Where the client was when it lost its stream, if it had one.
    pub(in crate::grpc) since: Option<ResumePoint>,
}

/// How a stream is to be changed.
#[derive(Debug)]
pub(in crate::grpc) struct WatchChange {
    pub(in crate::grpc) tenant: TenantId,
    pub(in crate::grpc) add: Vec<Subject>,
    pub(in crate::grpc) remove: Vec<Subject>,
}

/// Checks a `WatchUserStatsRequest`.
pub(in crate::grpc) fn watched_users(
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

/// Checks a `WatchDialogStatsRequest`.
pub(in crate::grpc) fn watched_dialogs(
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

/// Checks a `ChangeWatchRequest`.
pub(in crate::grpc) fn watch_change(
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

impl Violations {
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
        let interval = match u64::try_from(interval_ms) {
            Ok(0) => Some(DEFAULT_INTERVAL_MS),
            Ok(millis) if INTERVAL_MS.contains(&millis) => Some(millis),
            _ => None,
        };
        if interval.is_none() {
            let (least, most) = (INTERVAL_MS.start(), INTERVAL_MS.end());
            let expected =
                format!("{least} to {most}, or 0 for {DEFAULT_INTERVAL_MS}; found {interval_ms}");
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
}
