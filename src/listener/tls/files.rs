//! The files of a listener's TLS, and what is made of them.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::LoadedTls;
use crate::config;
use crate::pki::{Certificate, File, FileError};

/// The protocols that are offered for gRPC (ALPN).
const HTTP2: &[u8] = b"h2";
/// The name of HTTP/1.1 in ALPN.
const HTTP1: &[u8] = b"http/1.1";

/// The paths of the files of a listener's TLS.
#[derive(Debug)]
pub(super) struct Files {
    /// The section of the configuration.
    pub(super) section: &'static str,
    keys: [&'static str; 3],
    paths: config::Tls,
}

impl Files {
    /// Returns the files of a listener; `None` without TLS.
    pub(super) fn of(listener: &config::Listener) -> Option<Self> {
        (!listener.tls.cert_file.is_empty()).then(|| Self {
            section: listener.section,
            keys: listener.tls_keys,
            paths: listener.tls.clone(),
        })
    }

    fn file<'a>(&'a self, number: usize, path: &'a str) -> File<'a> {
        File {
            key: self.keys[number],
            path,
        }
    }

    /// Returns a hash of what is in the files, readable or not.
    pub(super) async fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let config::Tls {
            cert_file,
            key_file,
            client_ca_file,
        } = &self.paths;
        for path in [cert_file, key_file, client_ca_file] {
            let found = tokio::fs::read(path).await;
            hash.update([u8::from(found.is_ok())]);
            hash.update(Sha256::digest(found.unwrap_or_default()));
        }
        hash.finalize().into()
    }

    /// Makes a configuration from nothing.
    pub(super) async fn load(&self) -> Result<LoadedTls, FileError> {
        let certificates = self.file(0, &self.paths.cert_file);
        let chain = certificates.certificates().await?;
        let key_file = self.file(1, &self.paths.key_file);
        let key = key_file.private_key().await?;
        let own = chain[0].clone();
        let unusable = || certificates.refused("the server's certificate first", "something else");
        let not_after = parsed(&own).ok_or_else(unusable)?.validity().not_after;
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| key_file.refused("a key for TLS 1.2 and 1.3", error.to_string()))?
            .with_client_cert_verifier(self.verifier().await?)
            .with_single_cert(chain, key)
            .map_err(|error| {
                let expected = "the private key of the certificate";
                key_file.refused(expected, error.to_string())
            })?;
        config.alpn_protocols = match self.section {
            "http" => vec![HTTP2.into(), HTTP1.into()],
            _ => vec![HTTP2.into()],
        };
        let of = format!("the certificate of {}.listen", self.section);
        Ok(LoadedTls {
            config,
            certificate: Certificate::of(&of, &own).ok_or_else(unusable)?,
            not_after: not_after.to_datetime(),
        })
    }

    /// Whom the clients' certificates must be signed by, if they need one.
    async fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
        if self.paths.client_ca_file.is_empty() {
            return Ok(WebPkiClientVerifier::no_client_auth());
        }
        let file = self.file(2, &self.paths.client_ca_file);
        let refused =
            |error: &dyn std::fmt::Display| file.refused("authorities", error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in file.certificates().await? {
            roots.add(authority).map_err(|error| refused(&error))?;
        }
        let provider = ring::default_provider().into();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let verifier = verifier.build().map_err(|error| refused(&error))?;
        Ok(verifier)
    }
}

/// Parses a certificate; `None` when it is none.
pub(super) fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed)
}
