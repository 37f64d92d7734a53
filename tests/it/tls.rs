//! TLS of the listeners: what is spoken, who is let in, and how certificates
//! are renewed under calls.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service as Tower, http};
use tonic::transport::{Channel, Endpoint};

use crate::events::TENANT;
use crate::kit::authority::{Authority, Pair};
use crate::kit::raw_http2::PREFACE;
use crate::kit::service::{Result, Service, command, until_for};
use crate::world::{World, binary};

/// As long as files that have changed may go unnoticed.
const NOTICED: Duration = Duration::from_secs(15);

/// A client that trusts one authority, perhaps with a certificate of its own.
fn trusting(
    authority: &Authority,
    own: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_auth_cert(
            vec![certificate(&pair.certificate)?],
            PrivateKeyDer::from_pem_file(&pair.key)?,
        )?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_file(path)?)
}

async fn connected(address: SocketAddr, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

/// The certificate that a server shows.
async fn shown(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<CertificateDer<'static>> {
    let stream = connected(address, config.clone()).await?;
    let chain = stream.get_ref().1.peer_certificates().ok_or("none")?;
    Ok(chain[0].clone().into_owned())
}

/// What tonic connects with.
#[derive(Clone)]
struct Connector(SocketAddr, Arc<ClientConfig>);

impl Tower<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Connector(address, config) = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connected(address, config).await?)) })
    }
}

async fn client(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<CounterServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let connector = Connector(address, config.clone());
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(CounterServiceClient::new(channel))
}

async fn ask(client: &mut CounterServiceClient<Channel>) -> Result<()> {
    let request = v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "ann".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    client.get_user_stats(request).await?;
    Ok(())
}

/// A call on a connection of its own.
async fn asked(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<()> {
    ask(&mut client(address, config).await?).await
}

/// Sends this, and returns what comes back until the end.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // An end with what was not read is a reset.
    let _ = tokio::time::timeout(Duration::from_secs(3), reading).await?;
    Ok(answer)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn tls_is_spoken_and_nothing_older_or_plainer() -> Result<()> {
    let mut world = World::new("tls");
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    let pair = authority.sign(directory.path(), &["localhost"], ("tests", "server"), 90)?;
    world.config.grpc.tls.cert_file = text(&pair.certificate);
    world.config.grpc.tls.key_file = text(&pair.key);
    let service = world.service().await?;
    for version in [&TLS12, &TLS13] {
        let config = trusting(&authority, None, &[version])?;
        asked(service.grpc, &config).await?;
        assert_eq!(
            shown(service.grpc, &config).await?,
            certificate(&pair.certificate)?
        );
    }

    let began = Instant::now();
    let answer = answer_to(service.grpc, &[PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat()).await?;
    // An alert at most: not a byte of HTTP/2.
    assert!(answer.is_empty() || answer[0] == 0x15, "{answer:x?}");
    // A hello of TLS 1.1: an alert "protocol version", and the end.
    let mut hello = b"\x16\x03\x01\0\x37\x01\0\0\x33\x03\x02".to_vec();
    hello.extend_from_slice(&[7; 32]);
    // A cipher of that time, and RSA with SHA-256 for signatures.
    hello.extend_from_slice(b"\0\0\x02\xc0\x13\x01\0\0\x08\0\x0d\0\x04\0\x02\x04\x01");
    let answer = answer_to(service.grpc, &hello).await?;
    assert!(
        matches!(answer[..], [0x15, 3, _, 0, 2, 2, 70]),
        "{answer:x?}"
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    let refused = service.counter("chat_counters_connections_refused_total", "handshake");
    assert_eq!(refused.await?, 2);

    // The other listener is not concerned.
    v1::dead_letter_service_client::DeadLetterServiceClient::connect(format!(
        "http://{}",
        service.admin
    ))
    .await?;
    let ends = service.counter(
        "chat_counters_certificate_not_after_timestamp_seconds",
        "grpc",
    );
    let days = (ends.await? as i64 - time::OffsetDateTime::now_utc().unix_timestamp()) / 86_400;
    assert!((89..=90).contains(&days), "{days}");
    let found = check(&world).await?;
    assert!(
        found.contains("grpc.listen") && found.contains("CN=server"),
        "{found}"
    );
    service.stop().await
}

/// What `check` prints.
async fn check(world: &World) -> Result<String> {
    let output = command(binary(), &world.config)
        .arg("check")
        .output()
        .await?;
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn files_that_are_of_no_use_end_the_start_by_name() -> Result<()> {
    let mut world = World::new("tlsfiles");
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    let sign = |name| authority.sign(directory.path(), &["localhost"], ("tests", name), 90);
    let (pair, other) = (sign("server")?, sign("other")?);
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "")?;
    let missing = directory.path().join("missing");
    let none = std::path::PathBuf::new();
    for (certificate, key, client_ca, words) in [
        (
            &missing,
            &pair.key,
            &none,
            ["grpc.tls.cert_file", "missing", "No such file"],
        ),
        (
            &empty,
            &pair.key,
            &none,
            ["grpc.tls.cert_file", "empty", "found none"],
        ),
        (
            &pair.certificate,
            &pair.certificate,
            &none,
            ["grpc.tls.key_file", "server.crt", "private key"],
        ),
        (
            &pair.certificate,
            &other.key,
            &none,
            ["grpc.tls.key_file", "other.key", "of the certificate"],
        ),
        (
            &pair.certificate,
            &pair.key,
            &empty,
            ["grpc.tls.client_ca_file", "empty", "found none"],
        ),
        (
            &pair.certificate,
            &none,
            &none,
            ["grpc.tls.key_file", "", "go together"],
        ),
    ] {
        let tls = &mut world.config.grpc.tls;
        tls.cert_file = text(certificate);
        tls.key_file = text(key);
        tls.client_ca_file = text(client_ca);
        let log = directory.path().join("log");
        let stderr = Stdio::from(std::fs::File::create(&log)?);
        let mut service = Service::spawn_logging(binary(), &world.config, "error", stderr).await?;
        let ended = until_for(NOTICED, "the end", || {
            let ended = service.ended();
            async move { ended }
        });
        assert!(!ended.await?.success());
        let said = std::fs::read_to_string(&log)?;
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn certificates_are_renewed_under_calls() -> Result<()> {
    let mut world = World::new("renew");
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let (authority, clients) = (Authority::new("authority")?, Authority::new("clients")?);
    let others = Authority::new("others")?;
    let sign = |name: &str| authority.sign(path, &["localhost"], ("tests", name), 90);
    let (first, second, third) = (sign("first")?, sign("second")?, sign("third")?);
    // As an orchestrator mounts a secret: files that are links into `..data`,
    // which is a link that is put in the place of the last.
    let mount = |version: &str, certificate: &Path, key: &Path, client_ca: String| -> Result<()> {
        let of = path.join(version);
        std::fs::create_dir(&of)?;
        std::fs::copy(certificate, of.join("tls.crt"))?;
        std::fs::copy(key, of.join("tls.key"))?;
        std::fs::write(of.join("ca.crt"), client_ca)?;
        std::os::unix::fs::symlink(version, path.join("..new"))?;
        Ok(std::fs::rename(path.join("..new"), path.join("..data"))?)
    };
    mount("..1", &first.certificate, &first.key, clients.pem())?;
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), path.join(file))?;
    }
    world.config.grpc.tls.cert_file = text(&path.join("tls.crt"));
    world.config.grpc.tls.key_file = text(&path.join("tls.key"));
    world.config.grpc.tls.client_ca_file = text(&path.join("ca.crt"));
    let service = world.service().await?;
    let address = service.grpc;

    // Who is let in.
    let ours = clients.sign(path, &[], ("tests", "ours"), 90)?;
    let theirs = others.sign(path, &[], ("tests", "theirs"), 90)?;
    let expired = clients.sign(path, &[], ("tests", "expired"), -1)?;
    let versions = &[&TLS13, &TLS12];
    let trusted = trusting(&authority, Some(&ours), versions)?;
    asked(address, &trusted).await?;
    for stranger in [None, Some(&theirs), Some(&expired)] {
        for version in versions {
            let stranger = trusting(&authority, stranger, &[*version])?;
            assert!(asked(address, &stranger).await.is_err(), "{stranger:?}");
        }
    }

    // Renewed under calls, on connections old and new.
    let (ends, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calling = async {
        let mut old = client(address, &trusted).await?;
        while !ends.load(Ordering::Relaxed) {
            ask(&mut old).await?;
            asked(address, &trusted).await?;
            calls.fetch_add(2, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Result::Ok(())
    };
    let unusable = || async {
        let name = "chat_counters_certificate_unusable";
        service.counter(name, "grpc").await.unwrap_or_default()
    };
    let renewing = async {
        assert_eq!(
            shown(address, &trusted).await?,
            certificate(&first.certificate)?
        );
        mount("..2", &second.certificate, &second.key, clients.pem())?;
        let expected = certificate(&second.certificate)?;
        until_for(NOTICED, "the new certificate", || async {
            (shown(address, &trusted).await.ok()? == expected).then_some(())
        })
        .await?;
        assert_eq!(unusable().await, 0);
        // The key of another pair: told, and the old one stays.
        mount("..3", &third.certificate, &second.key, clients.pem())?;
        until_for(NOTICED, "the failure", || async {
            (unusable().await == 1).then_some(())
        })
        .await?;
        assert_eq!(shown(address, &trusted).await?, expected);
        Result::Ok(())
    };
    let renewing = async {
        let renewed = renewing.await;
        ends.store(true, Ordering::Relaxed);
        renewed
    };
    let (called, renewed) = tokio::join!(calling, renewing);
    renewed?;
    called?;
    assert!(calls.into_inner() > 20);

    // The clients' authority is another: a session of the last one is refused.
    mount("..4", &third.certificate, &third.key, others.pem())?;
    let now_trusted = trusting(&authority, Some(&theirs), versions)?;
    until_for(NOTICED, "the new authority", || async {
        asked(address, &now_trusted).await.ok()
    })
    .await?;
    assert_eq!(unusable().await, 0);
    assert!(asked(address, &trusted).await.is_err());
    service.stop().await
}
