//! Client certificates: who is meant by them over a real handshake.

use std::path::Path;

use chat_counters::config::Auth;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Request};

use crate::auth::{refused, user, why};
use crate::command_line::{command, stderr};
use crate::events::TENANT;
use crate::kit::authority::{Authority, Pair};
use crate::kit::service::{Result, Service};
use crate::world::World;

const FILE: &str = r#"
    [[identity]]
    dns = "dashboard.chat.example"
    roles = ["reader"]
    tenants = ["tnt_1"]

    [[identity]]
    dns = "ops.chat.example"
    roles = ["admin"]
    tenants = ["*"]
"#;

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn client(
    service: &Service,
    authority: &Authority,
    own: &Pair,
) -> Result<CounterServiceClient<Channel>> {
    let (certificate, key) = (std::fs::read(&own.certificate)?, std::fs::read(&own.key)?);
    let tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .identity(Identity::from_pem(certificate, key));
    let endpoint = Channel::from_shared(format!("https://{}", service.grpc))?;
    let channel = endpoint.tls_config(tls)?.connect().await?;
    Ok(CounterServiceClient::new(channel))
}

#[tokio::test]
async fn a_certificate_is_who_its_alternative_name_says_and_nobody_by_its_common_name() -> Result<()>
{
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let authority = Authority::new("authority")?;
    let sign =
        |host: &str, name: &str| authority.sign(directory.path(), &[host], ("tests", name), 90);
    let server = sign("localhost", "server")?;
    let dashboard = sign("dashboard.chat.example", "dashboard")?;
    // The common name of somebody who may do everything.
    let pretender = sign("nobody.chat.example", "ops.chat.example")?;
    std::fs::write(at("ca.pem"), authority.pem())?;
    std::fs::write(at("mtls.toml"), FILE)?;
    let mut world = World::new("mtls");
    world.config.grpc.tls.cert_file = text(&server.certificate);
    world.config.grpc.tls.key_file = text(&server.key);
    world.config.grpc.tls.client_ca_file = text(&at("ca.pem"));
    world.config.auth = Auth {
        mode: "mtls".into(),
        mtls_file: text(&at("mtls.toml")),
        ..Auth::default()
    };
    let service = world.service().await?;

    let mut known = client(&service, &authority, &dashboard).await?;
    known.get_user_stats(user(TENANT, "ann")).await?;
    let other = known.get_user_stats(user("other", "ann")).await;
    assert_eq!(why(other), refused(Code::PermissionDenied, "TENANT_DENIED"));
    // A token is not overlooked because the certificate would do.
    let mut both = Request::new(user(TENANT, "ann"));
    both.metadata_mut()
        .insert("authorization", "Bearer x".parse()?);
    let both = why(known.get_user_stats(both).await);
    assert_eq!(both, refused(Code::Unauthenticated, "CREDENTIALS_MISSING"));

    let mut unknown = client(&service, &authority, &pretender).await?;
    let unknown = why(unknown.get_user_stats(user(TENANT, "ann")).await);
    assert_eq!(
        unknown,
        refused(Code::Unauthenticated, "CREDENTIALS_INVALID")
    );

    by_command_line(&world, &service, &at("ca.pem"), &dashboard).await?;
    service.stop().await
}

async fn by_command_line(world: &World, service: &Service, ca: &Path, own: &Pair) -> Result<()> {
    let address = format!("https://{}", service.grpc);
    let get = [
        "get",
        "user",
        "ann",
        "--tenant",
        TENANT,
        "--address",
        &address,
    ];
    let (ca, certificate, key) = (text(ca), text(&own.certificate), text(&own.key));
    let server = ["--tls-ca", &ca, "--tls-name", "localhost"];
    let client = ["--tls-cert", &certificate, "--tls-key", &key];
    let good = [&get[..], &server, &client].concat();
    let output = command(world, &good).output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = [
        (get.to_vec(), 3, "--tls-ca"),
        ([&get[..], &server].concat(), 3, "--tls-cert"),
        (
            [&get[..], &server, &client[..2]].concat(),
            2,
            "--tls-key FILE is missing",
        ),
        (
            [&get[..], &["--tls-ca", &ca], &client].concat(),
            3,
            "--tls-name",
        ),
    ];
    for (arguments, code, said) in rows {
        let output = command(world, &arguments).output().await?;
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}: {stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    Ok(())
}
