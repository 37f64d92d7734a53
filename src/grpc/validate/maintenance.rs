//! What operators ask for: verifying and rebuilding.

use tonic::Status;

use super::Violations;
use crate::auth::Identity;
use crate::event::{DialogId, TenantId};
use crate::grpc::guard::Denied;
use crate::grpc::v1;
use crate::maintenance::sweep::SweepScope;

/// The longest reason of a repair, in bytes.
const MAX_REASON_BYTES: usize = 1_000;

/// Checks a `VerifyCountersRequest`, the fields of a repair among it.
pub(in crate::grpc) fn verification(
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
    if (request.repair || request.reason.len() > MAX_REASON_BYTES)
        && let Err(expected) = check_repair_reason(&request.reason)
    {
        found.add("reason", expected);
    }
    match found.is_empty() {
        true => Ok(scope),
        false => Err(found.into_status()),
    }
}

/// Checks the reason of a repair, whoever does it.
///
/// # Errors
/// What a reason has to be.
pub(crate) fn check_repair_reason(reason: &str) -> Result<(), String> {
    if reason.len() > MAX_REASON_BYTES {
        return Err(format!("at most {MAX_REASON_BYTES} bytes"));
    }
    match reason.trim().is_empty() {
        true => Err("must be there with repair: it is recorded".into()),
        false => Ok(()),
    }
}

/// Checks a `RebuildCountersRequest`: the tenant to rebuild; `None` for all.
pub(in crate::grpc) fn rebuild(
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

/// Checks that the caller may ask about all tenants.
pub(in crate::grpc) fn of_all_tenants(who: &Identity) -> Result<(), Status> {
    match who.tenants().are_all() {
        true => Ok(()),
        false => Err(Denied::AllTenants.status()),
    }
}
