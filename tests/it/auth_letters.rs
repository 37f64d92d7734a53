//! Dead letters by tenant and role, and whose name stands in the audit.

use std::process::Stdio;

use chat_counters::auth::generate;
use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use chat_counters::grpc::v1::*;
use futures::TryStreamExt as _;
use tonic::{Code, Streaming};

use crate::auth::{Shown, entry, refused, showing, why, with_tokens};
use crate::dlq::poison;
use crate::events::TENANT;
use crate::kit::service::{Result, Service, until};
use crate::world::binary;

type Client = DeadLetterServiceClient<Shown>;

fn of_tenant(tenant: &str) -> DeadLetterFilter {
    DeadLetterFilter {
        tenant_id: tenant.into(),
        ..Default::default()
    }
}

/// All letters, for a job, by somebody who says to be root.
fn everything() -> Option<DeadLetterSelection> {
    Some(DeadLetterSelection {
        all: true,
        actor: "root".into(),
        reason: "a test".into(),
        ..Default::default()
    })
}

async fn listed(client: &mut Client, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>> {
    let request = ListDeadLettersRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let page = client.list_dead_letters(request).await?.into_inner();
    // A letter may have come between the page and the count.
    match page.total == page.dead_letters.len() as i64 {
        true => Ok(page.dead_letters),
        false => Err(format!("{} letters of {}", page.dead_letters.len(), page.total).into()),
    }
}

fn tenants(letters: &[DeadLetter]) -> Vec<&str> {
    let mut tenants: Vec<_> = letters.iter().map(|l| l.tenant_id.as_str()).collect();
    tenants.sort_unstable();
    tenants
}

async fn jobs(client: &mut Client) -> Result<Vec<DeadLetterJob>> {
    let asked = client.list_dead_letter_audit(ListDeadLetterAuditRequest::default());
    Ok(asked.await?.into_inner().jobs)
}

async fn last<T>(stream: Streaming<T>) -> Result<T> {
    let all: Vec<T> = stream.try_collect().await?;
    Ok(all.into_iter().next_back().ok_or("nothing was told")?)
}

async fn discarded(client: &mut Client) -> Result<i64> {
    let request = DiscardDeadLettersRequest {
        selection: everything(),
        dry_run: false,
    };
    let told = client.discard_dead_letters(request).await?.into_inner();
    let progress = last(told).await?.progress.ok_or("no progress")?;
    assert!(progress.finished);
    Ok(progress.done)
}

#[tokio::test]
async fn letters_are_seen_and_touched_by_those_of_their_tenant_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [operator, viewer, all] = [generate()?, generate()?, generate()?];
    let tokens = entry(
        "t2-ops",
        &operator,
        "\"dlq.operator\"",
        "\"t2\", \"t9\"",
        "",
    ) + &entry("viewer", &viewer, "\"dlq.viewer\"", "\"*\"", "")
        + &entry("ops", &all, "\"dlq.operator\"", "\"*\"", "");
    let world = with_tokens("letters_of", &directory, &tokens)?;
    let log = tempfile::NamedTempFile::new()?;
    let file = Stdio::from(log.reopen()?);
    let service = Service::spawn_logging(binary(), &world.config, "info", file).await?;
    until("ready", || async { service.is_ready().await.then_some(()) }).await?;
    world.publish(&poison()).await?;
    let client = async |token: &str| -> Result<Client> {
        let shown = showing(service.admin, Some(token)).await?;
        Ok(DeadLetterServiceClient::new(shown))
    };
    let mut all_client = client(&all).await?;
    let letters = until("all letters listed", || async {
        let letters = listed(&mut all_client.clone(), of_tenant("")).await.ok()?;
        (letters.len() == 5).then_some(letters)
    })
    .await?;
    // Of what cannot be read the headers say whose it is.
    assert_eq!(tenants(&letters), ["t2", "t3", TENANT, TENANT, TENANT]);

    let mut own = client(&operator).await?;
    looks_at_its_own(&mut own, &letters).await?;
    edits_for_no_other_tenant(&mut own, &letters).await?;
    assert_eq!(discarded(&mut own).await?, 1);
    let left = listed(&mut all_client, of_tenant("")).await?;
    assert_eq!(tenants(&left), ["t3", TENANT, TENANT, TENANT]);
    let synced = own.sync_dead_letters(SyncDeadLettersRequest {}).await;
    let denied = refused(Code::PermissionDenied, "TENANT_DENIED");
    assert_eq!(why(synced), denied);

    views_without_bodies(&mut client(&viewer).await?, &letters).await?;

    let replay = ReplayDeadLettersRequest {
        selection: everything(),
        ..Default::default()
    };
    last(all_client.replay_dead_letters(replay).await?.into_inner()).await?;
    audited(&mut own, &mut all_client).await?;
    service.stop().await?;
    let log = std::fs::read_to_string(log.path())?;
    for said in [
        "a job on dead letters begins",
        "token:t2-ops",
        "has ended",
        "\"root\"",
    ] {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    for secret in [&operator, &viewer, &all] {
        assert!(!log.contains(secret.as_str()));
    }
    Ok(())
}

async fn looks_at_its_own(own: &mut Client, letters: &[DeadLetter]) -> Result<()> {
    assert_eq!(tenants(&listed(own, of_tenant("")).await?), ["t2"]);
    assert_eq!(tenants(&listed(own, of_tenant("t2")).await?), ["t2"]);
    assert!(listed(own, of_tenant("t9")).await?.is_empty());
    let denied = refused(Code::PermissionDenied, "TENANT_DENIED");
    let others = own.list_dead_letters(ListDeadLettersRequest {
        filter: Some(of_tenant("t3")),
        ..Default::default()
    });
    assert_eq!(why(others.await), denied);
    let groups = own.list_dead_letter_groups(ListDeadLetterGroupsRequest::default());
    let groups = groups.await?.into_inner();
    assert_eq!((groups.total, groups.index), (1, None));
    assert_eq!(groups.groups[0].tenant_ids, ["t2"]);
    for letter in letters {
        let id = letter.id.clone();
        let one = own.get_dead_letter(GetDeadLetterRequest { id }).await;
        match letter.tenant_id.as_str() {
            "t2" => assert!(!one?.into_inner().body.is_empty()),
            _ => assert_eq!(why(one).0, Code::NotFound),
        }
    }
    Ok(())
}

async fn edits_for_no_other_tenant(own: &mut Client, letters: &[DeadLetter]) -> Result<()> {
    let letter = letters.iter().find(|letter| letter.tenant_id == "t2");
    let id = &letter.ok_or("no letter of t2")?.id;
    let edited = |tenant: &str| {
        EditDeadLetterRequest {
        id: id.clone(),
        body: format!(
            r#"{{"eventId": "p3", "tenantId": "{tenant}", "eventType": "message.create", "createdAt": 5,
            "data": {{"context": {{"dialogId": "d9"}}, "message": {{"messageId": "m", "senderId": "s"}}}}}}"#
        )
        .into_bytes(),
        validate_only: true,
        ..Default::default()
    }
    };
    own.edit_dead_letter(edited("t2")).await?;
    let moved = own.edit_dead_letter(edited("t3")).await;
    let status = moved.expect_err("an event of another tenant was made");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("tenantId"), "{status}");
    Ok(())
}

async fn views_without_bodies(viewer: &mut Client, letters: &[DeadLetter]) -> Result<()> {
    let id = letters[0].id.clone();
    let one = viewer.get_dead_letter(GetDeadLetterRequest { id }).await?;
    let one = one.into_inner();
    assert!(one.body.is_empty());
    assert!(one.dead_letter.is_some_and(|letter| letter.body_bytes > 0));
    let discard = viewer.discard_dead_letters(DiscardDeadLettersRequest {
        selection: everything(),
        dry_run: true,
    });
    let no_role = refused(Code::PermissionDenied, "ROLE_MISSING");
    assert_eq!(why(discard.await), no_role);
    Ok(())
}

/// Each sees the jobs on letters that are theirs, under the names of those who
/// have shown a token.
async fn audited(own: &mut Client, all: &mut Client) -> Result<()> {
    let of_own = jobs(own).await?;
    assert_eq!(of_own.len(), 1, "{of_own:?}");
    let of_all = jobs(all).await?;
    let told: Vec<_> = of_all
        .iter()
        .map(|job| {
            let actor = job.actor.split(' ').next().unwrap_or_default();
            (job.kind.as_str(), actor, job.claimed_actor.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("replay", "token:ops", "root"),
            ("discard", "token:t2-ops", "root")
        ]
    );
    Ok(())
}
