//! From the configuration to an authenticator, and what keeps it up to date.

use std::path::Path;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::fetch::Fetcher;
use super::file::FileWatch;
use super::jwt::Keys;
use super::{Authenticator, Certificates, FileError, KeySet, Tokens, Verifier};
use crate::config::{self, Mode};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Explains why callers cannot be asked who they are.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that must be good at the start is not.
    #[error("{key}: {error}")]
    File {
        /// The setting that names the file.
        key: &'static str,
        /// What is wrong with the file.
        error: FileError,
    },
    /// The authorities of the server that has the keys cannot be read.
    #[error("auth.jwt.jwks_ca_file: {path}: expected certificates in PEM, {why}")]
    Authorities {
        /// The path of the file.
        path: String,
        /// What was found instead.
        why: String,
    },
    /// Keys cannot be fetched from the URL.
    #[error("auth.jwt.jwks_url: expected {0}")]
    Url(&'static str),
    /// TLS to the server that has the keys cannot be set up.
    #[error("auth.jwt.jwks_url: {0}")]
    Tls(#[from] rustls::Error),
}

/// An authenticator, and what keeps it up to date.
pub struct Started {
    /// Identifies the callers of all servers.
    pub authenticator: Authenticator,
    /// Keeps the authenticator up to date while [`Sources::run`] runs.
    pub sources: Sources,
}

/// The files and URLs that identities come from. Nothing is reread unless this runs.
#[derive(Default)]
pub struct Sources {
    tokens: Option<FileWatch<Tokens>>,
    certificates: Option<FileWatch<Certificates>>,
    keys: Option<FileWatch<KeySet>>,
    fetcher: Option<Fetcher>,
}

impl Started {
    /// Reads all that the configuration names.
    ///
    /// # Errors
    /// [`StartError`], which names the key and the file.
    pub fn new(config: &config::Auth) -> Result<Self, StartError> {
        let modes = config.modes();
        let mut sources = Sources::default();
        if modes.is_empty() {
            return Ok(Self {
                authenticator: Authenticator::open(),
                sources,
            });
        }
        let mut authenticator = Authenticator::default();
        if modes.contains(&Mode::Token) {
            let watch = open("auth.token_file", &config.token_file, Tokens::parse)?;
            authenticator.tokens = Some(watch.current());
            sources.tokens = Some(watch);
        }
        if modes.contains(&Mode::Mtls) {
            let watch = open("auth.mtls_file", &config.mtls_file, Certificates::parse)?;
            authenticator.certificates = Some(watch.current());
            sources.certificates = Some(watch);
        }
        if modes.contains(&Mode::Jwt) {
            authenticator.jwt = Some(sources.jwt(&config.jwt)?);
        }
        Ok(Self {
            authenticator,
            sources,
        })
    }
}

fn open<T: Send + Sync>(
    key: &'static str,
    path: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<FileWatch<T>, StartError> {
    FileWatch::open(Path::new(path), parse).map_err(|error| StartError::File { key, error })
}

fn key_set(text: &str) -> Result<KeySet, String> {
    KeySet::parse(text).map_err(|error| error.to_string())
}

impl Sources {
    fn jwt(&mut self, config: &config::Jwt) -> Result<Verifier, StartError> {
        let keys = if config.jwks_url.is_empty() {
            let watch = open("auth.jwt.jwks_file", &config.jwks_file, key_set)?;
            let keys = Keys::File(watch.current());
            self.keys = Some(watch);
            keys
        } else {
            let url = config::jwks_uri(&config.jwks_url).map_err(StartError::Url)?;
            let fetcher = Fetcher::new(url, roots(&config.jwks_ca_file)?)?;
            let keys = Keys::Url(fetcher.fetched());
            self.fetcher = Some(fetcher);
            keys
        };
        let lifetime = Duration::from_secs(config.max_lifetime_seconds);
        Ok(Verifier::new(
            &config.issuer,
            &config.audience,
            lifetime,
            keys,
        ))
    }

    /// Rereads and fetches until the stop.
    pub async fn run(self, metrics: Metrics, shutdown: Shutdown) {
        let broken = |source: &'static str| {
            let metrics = metrics.clone();
            metrics.auth.source_broken(source, false);
            move |broken| metrics.auth.source_broken(source, broken)
        };
        let tokens = self
            .tokens
            .map(|watch| watch.run(broken("tokens"), shutdown.clone()));
        let certificates = self
            .certificates
            .map(|watch| watch.run(broken("certificates"), shutdown.clone()));
        let keys = self
            .keys
            .map(|watch| watch.run(broken("keys"), shutdown.clone()));
        let fetched = self.fetcher.map(|fetcher| {
            let broken = broken("keys");
            let metrics = metrics.clone();
            let done = move |good: bool| {
                broken(!good);
                if good {
                    metrics.auth.keys_fetched();
                }
            };
            fetcher.run(done, shutdown.clone())
        });
        let tokens = async {
            if let Some(tokens) = tokens {
                tokens.await;
            }
        };
        let certificates = async {
            if let Some(certificates) = certificates {
                certificates.await;
            }
        };
        let keys = async {
            if let Some(keys) = keys {
                keys.await;
            }
        };
        let fetched = async {
            if let Some(fetched) = fetched {
                fetched.await;
            }
        };
        futures::join!(tokens, certificates, keys, fetched);
    }
}

/// Who may certify the keys' server: the authorities of a file, and no others;
/// without a file, the public ones.
fn roots(path: &str) -> Result<RootCertStore, StartError> {
    if path.is_empty() {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    }
    let failed = |why: String| StartError::Authorities {
        path: path.to_owned(),
        why,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in found {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(failed("found none".into())),
        false => Ok(roots),
    }
}
