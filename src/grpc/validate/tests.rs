use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::violations::MAX_VIOLATIONS;
use super::*;
use crate::auth::{Identity, Role, Tenants};
use crate::event::{DialogId, UserId};
use crate::grpc::bounds::DEFAULT_PAGE_SIZE;
use crate::grpc::token::Resumable as _;
use crate::grpc::v1;
use crate::store::read;

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
        tenant: crate::event::TenantId::new("t").unwrap(),
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
