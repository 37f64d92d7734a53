//! Certificates and private keys in files: read whole, so that what is wrong
//! with one shows where it is read and not as a handshake that fails.

mod name;

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why a file is of no use. No text ever holds what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({path}): expected {expected}; found {found}")]
pub struct FileError {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// Where it is.
    pub path: String,
    /// What should be in it.
    pub expected: &'static str,
    /// What is in its place.
    pub found: String,
}

/// A file that a key of the configuration names.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// The key.
    pub key: &'static str,
    /// The path.
    pub path: &'a str,
}

impl File<'_> {
    /// The certificates in it, one at least.
    ///
    /// # Errors
    /// When there is none, or one cannot be read: one that is passed over in
    /// silence would be missed much later.
    pub async fn certificates(self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let expected = "certificates in PEM (-----BEGIN CERTIFICATE-----)";
        let text = self.read(expected).await?;
        let refused = |found: String| self.refused(expected, found);
        let mut certificates = Vec::new();
        for (number, section) in (1..).zip(CertificateDer::pem_slice_iter(&text)) {
            let damaged = |why: String| refused(format!("number {number} damaged ({why})"));
            let certificate = section.map_err(|error| damaged(error.to_string()))?;
            Certificate::of("", &certificate).ok_or_else(|| damaged("no X.509".into()))?;
            certificates.push(certificate);
        }
        match certificates.is_empty() {
            true => Err(refused("none".into())),
            false => Ok(certificates),
        }
    }

    /// The private key in it.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub async fn private_key(self) -> Result<PrivateKeyDer<'static>, FileError> {
        let expected = "a private key in PEM, not encrypted";
        let text = self.read(expected).await?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let found = match error {
                pem::Error::NoItemsFound if holds_encrypted(&text) => "an encrypted one".into(),
                pem::Error::NoItemsFound => "none".into(),
                error => error.to_string(),
            };
            self.refused(expected, found)
        })
    }

    /// What it is not.
    pub fn refused(self, expected: &'static str, found: impl Into<String>) -> FileError {
        FileError {
            key: self.key,
            path: self.path.into(),
            expected,
            found: found.into(),
        }
    }

    async fn read(self, expected: &'static str) -> Result<Vec<u8>, FileError> {
        let read = tokio::fs::read(Path::new(self.path)).await;
        read.map_err(|error| self.refused(expected, error.to_string()))
    }
}

fn holds_encrypted(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).contains("ENCRYPTED")
}

/// What a certificate says, as far as people ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whose it is to whoever is told, in words.
    pub of: String,
    /// Its subject, written as RabbitMQ writes it.
    pub subject: String,
    /// The end of its validity, RFC 3339.
    pub not_after: String,
    /// Seconds until then.
    #[serde(skip)]
    pub seconds_left: i64,
}

impl Certificate {
    /// Looks into one; `None` when it is none.
    pub fn of(whose: &str, certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let not_after = parsed.validity().not_after.to_datetime();
        Some(Self {
            of: whose.into(),
            subject: name::of_rabbitmq(parsed.subject()),
            not_after: not_after.format(&Rfc3339).ok()?,
            seconds_left: (not_after - OffsetDateTime::now_utc()).whole_seconds(),
        })
    }

    /// Looks into those of a file, unless it is a bundle that nobody would read
    /// through.
    pub fn of_few(whose: &str, certificates: &[CertificateDer<'_>]) -> Vec<Self> {
        const FEW: usize = 8;
        let few = certificates.len() <= FEW;
        let looked = certificates.iter().filter(|_| few);
        looked.filter_map(|one| Self::of(whose, one)).collect()
    }

    /// What to say of one that ends within weeks.
    pub fn ends_soon(&self) -> Option<String> {
        const SOON: i64 = 30 * 24 * 60 * 60;
        let Self {
            of,
            subject,
            not_after,
            seconds_left,
        } = self;
        (*seconds_left < SOON)
            .then(|| format!("{of} ({subject}) is valid until {not_after}: renew it before"))
    }
}
