//! Who may do what, asked of real services: static tokens, the table of
//! methods, the command line.

use std::path::Path;
use std::process::Stdio;

use chat_counters::auth::{digest_hex, generate};
use chat_counters::config::Auth;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use chat_counters::grpc::v1::maintenance_service_client::MaintenanceServiceClient;
use chat_counters::grpc::{DESCRIPTORS, v1};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tempfile::TempDir;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::command_line::{command, stderr, stdout};
use crate::events::{self, TENANT, join};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, binary};

/// Shows a token with each call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut call: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let header = format!("Bearer {token}").parse().unwrap();
            call.metadata_mut().insert("authorization", header);
        }
        Ok(call)
    }
}

pub(crate) type Shown = InterceptedService<Channel, Bearer>;

/// A connection on which every call shows this token.
pub(crate) async fn showing(address: impl ToString, token: Option<&str>) -> Result<Shown> {
    let address = format!("http://{}", address.to_string());
    let channel = Channel::from_shared(address)?.connect().await?;
    let bearer = Bearer(token.map(str::to_owned));
    Ok(InterceptedService::new(channel, bearer))
}

/// Code and reason of a refusal.
pub(crate) fn why<T: std::fmt::Debug>(answer: std::result::Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it was answered");
    let reason = status.get_details_error_info().map(|info| {
        assert_eq!(info.domain, "chatcounters");
        info.reason
    });
    (status.code(), reason.unwrap_or_default())
}

pub(crate) fn refused(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

/// An entry of a file of tokens.
pub(crate) fn entry(name: &str, token: &str, roles: &str, tenants: &str, user: &str) -> String {
    let digest = digest_hex(token);
    let user = match user {
        "" => String::new(),
        user => format!("user = {user:?}\n"),
    };
    format!(
        "[[token]]\nname = {name:?}\nsha256 = {digest:?}\nroles = [{roles}]\ntenants = [{tenants}]\n{user}"
    )
}

/// A world whose service asks for tokens of a file.
pub(crate) fn with_tokens(name: &str, directory: &TempDir, entries: &str) -> Result<World> {
    let file = directory.path().join("tokens.toml");
    std::fs::write(&file, entries)?;
    let mut world = World::new(name);
    world.config.auth = Auth {
        mode: "token".into(),
        token_file: file.display().to_string(),
        ..Auth::default()
    };
    Ok(world)
}

pub(crate) fn user(tenant: &str, user: &str) -> v1::GetUserStatsRequest {
    v1::GetUserStatsRequest {
        tenant_id: tenant.into(),
        user_id: user.into(),
        ..Default::default()
    }
}

/// `/package.Service/Method` of all methods that are ours.
fn methods() -> Vec<PathAndQuery> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.push(path.parse().unwrap());
            }
        }
    }
    paths
}

/// Calls a method with an empty request.
async fn called(to: Shown, path: PathAndQuery) -> std::result::Result<(), Status> {
    let mut client = tonic::client::Grpc::new(to);
    client
        .ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client.server_streaming(Request::new(()), path, codec);
    let mut answer = answer.await?.into_inner();
    while answer.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn without_a_credential_nobody_is_answered_but_probes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let good = generate()?;
    let tokens = entry("nothing", &good, "", "\"*\"", "");
    let world = with_tokens("nobody", &directory, &tokens)?;
    let service = world.service().await?;
    let methods = methods();
    assert!(methods.len() > 15, "{methods:?}");
    let missing = refused(Code::Unauthenticated, "CREDENTIALS_MISSING");
    let invalid = refused(Code::Unauthenticated, "CREDENTIALS_INVALID");
    let no_role = refused(Code::PermissionDenied, "ROLE_MISSING");
    for address in [service.grpc, service.admin] {
        for (token, expected) in [
            (None, &missing),
            (Some("guess"), &invalid),
            (Some(good.as_str()), &no_role),
        ] {
            let to = showing(address, token).await?;
            for path in &methods {
                let found = why(called(to.clone(), path.clone()).await);
                assert_eq!(found, *expected, "{path}");
            }
            let unknown = "/chatcounters.v1.CounterService/NoSuch".parse()?;
            let found = why(called(to.clone(), unknown).await).0;
            assert_eq!(found, Code::Unimplemented);
        }
        let mut health = HealthClient::new(showing(address, None).await?);
        health.check(HealthCheckRequest::default()).await?;
    }
    let counted = service.counter("chat_counters_auth_calls_total", "\"missing\"");
    assert_eq!(counted.await?, 2 * methods.len() as u64);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let to = showing(service.admin, Some(&good)).await?;
    assert_eq!(why(called(to, reflection.parse()?).await), no_role);
    service.stop().await
}

#[tokio::test]
async fn a_token_reads_what_its_role_and_tenants_allow() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [reader, ann, viewer] = [generate()?, generate()?, generate()?];
    let here = format!("{TENANT:?}");
    let tokens = entry("reader", &reader, "\"reader\"", &here, "")
        + &entry("ann", &ann, "\"user\"", &here, "Ann")
        + &entry("viewer", &viewer, "\"dlq.viewer\"", "\"*\"", "");
    let world = with_tokens("roles", &directory, &tokens)?;
    let service = world.service().await?;
    let events = [
        join("e1", "d", "ann", 1),
        join("e2", "d", "bob", 1),
        events::message("e3", "d", "m", "bob", 5),
    ];
    world.publish(&events).await?;
    service.has_settled(3).await?;
    let client = async |token: &str| -> Result<CounterServiceClient<Shown>> {
        let shown = showing(service.grpc, Some(token)).await?;
        Ok(CounterServiceClient::new(shown))
    };
    let mut by_reader = client(&reader).await?;
    let bob = by_reader.get_user_stats(user(TENANT, "bob")).await?;
    assert_eq!(bob.into_inner().total_messages_count, 1);
    let elsewhere = by_reader.get_user_stats(user("other", "bob")).await;
    let tenant = refused(Code::PermissionDenied, "TENANT_DENIED");
    assert_eq!(why(elsewhere), tenant);

    let mut by_ann = client(&ann).await?;
    let own = by_ann.get_user_stats(user(TENANT, "ANN ")).await?;
    assert_eq!(own.into_inner().total_unread_count, 1);
    let others = by_ann.get_user_stats(user(TENANT, "bob")).await;
    assert_eq!(why(others), refused(Code::PermissionDenied, "USER_DENIED"));
    let dialog = v1::GetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_id: "d".into(),
        ..Default::default()
    };
    let no_role = refused(Code::PermissionDenied, "ROLE_MISSING");
    assert_eq!(why(by_ann.get_dialog_stats(dialog).await), no_role);

    let mut by_viewer = client(&viewer).await?;
    let stats = by_viewer.get_user_stats(user(TENANT, "ann")).await;
    assert_eq!(why(stats), no_role);
    service.stop().await
}

#[tokio::test]
async fn a_token_that_is_withdrawn_ends_and_a_broken_file_changes_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [one, two] = [generate()?, generate()?];
    let of = |name: &str, token: &str| entry(name, token, "\"reader\"", "\"*\"", "");
    let world = with_tokens("withdrawn", &directory, &of("one", &one))?;
    let file = Path::new(&world.config.auth.token_file).to_owned();
    let service = world.service().await?;
    let asked = async |token: &str| -> Result<bool> {
        let mut client = CounterServiceClient::new(showing(service.grpc, Some(token)).await?);
        Ok(client.get_user_stats(user("t", "u")).await.is_ok())
    };
    assert!(asked(&one).await? && !asked(&two).await?);

    std::fs::write(&file, "[[token]]\nname = ")?;
    let broken = "chat_counters_auth_sources_broken";
    until("the broken file is noticed", || async {
        let told = service.counter(broken, "tokens").await.ok()?;
        (told == 1).then_some(())
    })
    .await?;
    assert!(asked(&one).await?);

    std::fs::write(&file, of("two", &two))?;
    until("the new token is taken", || async {
        asked(&two).await.ok()?.then_some(())
    })
    .await?;
    assert!(!asked(&one).await?);
    assert_eq!(service.counter(broken, "tokens").await?, 0);
    service.stop().await
}

#[tokio::test]
async fn what_is_about_all_tenants_takes_all_tenants() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [some, all] = [generate()?, generate()?];
    let tokens = entry("some", &some, "\"admin\"", &format!("{TENANT:?}"), "")
        + &entry("all", &all, "\"admin\"", "\"*\"", "");
    let world = with_tokens("all_tenants", &directory, &tokens)?;
    let service = world.service().await?;
    let denied = refused(Code::PermissionDenied, "TENANT_DENIED");
    let admin = async |token: &str| -> Result<MaintenanceServiceClient<Shown>> {
        let shown = showing(service.admin, Some(token)).await?;
        Ok(MaintenanceServiceClient::new(shown))
    };
    let verify = |tenant: &str| v1::VerifyCountersRequest {
        tenant_id: tenant.into(),
        ..Default::default()
    };
    let rebuild = |tenant: &str| v1::RebuildCountersRequest {
        tenant_id: tenant.into(),
    };
    let mut by_some = admin(&some).await?;
    for tenant in ["", "other"] {
        assert_eq!(why(by_some.verify_counters(verify(tenant)).await), denied);
        assert_eq!(why(by_some.rebuild_counters(rebuild(tenant)).await), denied);
    }
    let abandoned = by_some.abandon_rebuild(v1::AbandonRebuildRequest {});
    assert_eq!(why(abandoned.await), denied);
    let mut answers = by_some.verify_counters(verify(TENANT)).await?.into_inner();
    while answers.message().await?.is_some() {}
    let mut by_all = admin(&all).await?;
    let mut answers = by_all.verify_counters(verify("")).await?.into_inner();
    while answers.message().await?.is_some() {}
    service.stop().await
}

#[tokio::test]
async fn nobody_is_asked_only_where_nobody_else_can_come() -> Result<()> {
    let world = World::new("open");
    for (variable, key) in [
        ("CHAT_COUNTERS__GRPC__LISTEN", "grpc.listen"),
        ("CHAT_COUNTERS__ADMIN__LISTEN", "admin.listen"),
    ] {
        let mut serve = command(&world, &["serve"]);
        let output = serve.env(variable, "0.0.0.0:0").output().await?;
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.contains(key) && said.contains("auth.allow_none"),
            "{said}"
        );
        let mut allowed = command(&world, &["config", "--effective"]);
        allowed.env(variable, "0.0.0.0:0");
        let allowed = allowed.env("CHAT_COUNTERS__AUTH__ALLOW_NONE", "true");
        let output = allowed.output().await?;
        assert!(output.status.success(), "{}", stderr(&output));
    }
    // And it is told at each start.
    let log = tempfile::NamedTempFile::new()?;
    let file = Stdio::from(log.reopen()?);
    let service = Service::spawn_logging(binary(), &world.config, "warn", file).await?;
    until("the warning is in the log", || async {
        let text = std::fs::read_to_string(log.path()).ok()?;
        text.contains("auth.mode is none").then_some(())
    })
    .await?;
    service.kill().await
}

#[tokio::test]
async fn a_source_that_cannot_be_used_is_refused_at_the_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let world = with_tokens("sources", &directory, "[[token]]\nnam = 1\n")?;
    let file = world.config.auth.token_file.as_str();
    let issuer = ("AUTH__JWT__ISSUER", "https://issuer");
    let audience = ("AUTH__JWT__AUDIENCE", "counters");
    let rows: [(&[(&str, &str)], &str); 5] = [
        (&[("AUTH__MODE", "token")], "auth.token_file"),
        (
            &[("AUTH__MODE", "token"), ("AUTH__TOKEN_FILE", file)],
            "tokens.toml: line",
        ),
        (
            &[("AUTH__MODE", "mtls"), ("AUTH__MTLS_FILE", "/no/such")],
            "grpc.tls.client_ca_file",
        ),
        (
            &[
                ("AUTH__MODE", "jwt"),
                issuer,
                audience,
                ("AUTH__JWT__JWKS_FILE", file),
            ],
            "Web Key Set",
        ),
        (
            &[
                ("AUTH__MODE", "jwt"),
                issuer,
                audience,
                ("AUTH__JWT__JWKS_URL", "http://issuer"),
            ],
            "https://",
        ),
    ];
    for (variables, expected) in rows {
        let mut serve = command(&world, &["serve"]);
        for (key, value) in variables {
            serve.env(format!("CHAT_COUNTERS__{key}"), value);
        }
        let output = serve.output().await?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{expected}: {said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_command_line_makes_tokens_and_shows_them() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    let world = with_tokens("cli", &directory, "")?;
    let out = at("reader.token");
    let arguments = [
        "token", "me", "--role", "reader", "--tenant", TENANT, "--out", &out,
    ];
    let output = command(&world, &arguments).output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    let token = std::fs::read_to_string(&out)?;
    assert!(!stdout(&output).contains(token.trim()) && !stderr(&output).contains(token.trim()));
    std::fs::write(&world.config.auth.token_file, stdout(&output))?;
    // It is not written over.
    let again = command(&world, &arguments).output().await?;
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));

    let service = world.service().await?;
    let address = service.grpc.to_string();
    let get = ["get", "user", "ann", "--tenant", TENANT];
    let bare = [&get[..], &["--address", &address]].concat();
    let unknown = command(&world, &bare).output().await?;
    assert_eq!(unknown.status.code(), Some(3));
    assert!(
        stderr(&unknown).contains("--token-file"),
        "{}",
        stderr(&unknown)
    );

    let flag = [&bare[..], &["--token-file", &out]].concat();
    let by_flag = command(&world, &flag).output().await?;
    assert!(by_flag.status.success(), "{}", stderr(&by_flag));
    let mut variable = command(&world, &bare);
    let by_variable = variable
        .env("CHAT_COUNTERS_TOKEN_FILE", &out)
        .output()
        .await?;
    assert!(by_variable.status.success(), "{}", stderr(&by_variable));

    let profiles = directory.path().join("chat-counters");
    std::fs::create_dir(&profiles)?;
    let profile = format!("[here]\naddress = {address:?}\ntoken_file = \"../reader.token\"\n");
    std::fs::write(profiles.join("profiles.toml"), profile)?;
    let with_profile = async |name: &str| {
        let arguments = [&get[..], &["--profile", name]].concat();
        let mut command = command(&world, &arguments);
        command
            .env("XDG_CONFIG_HOME", directory.path())
            .output()
            .await
    };
    let by_profile = with_profile("here").await?;
    assert!(by_profile.status.success(), "{}", stderr(&by_profile));
    let no_profile = with_profile("there").await?;
    assert_eq!(no_profile.status.code(), Some(2));
    let said = stderr(&no_profile);
    assert!(said.contains("[there]") && said.contains("here"), "{said}");
    service.stop().await
}
