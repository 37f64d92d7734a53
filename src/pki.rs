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

/// Explains why a file of certificates or keys is of no use, without any of its
/// contents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({path}): expected {expected}; found {found}")]
pub struct FileError {
    /// The setting that names the file.
    pub key: &'static str,
    /// The path of the file.
    pub path: String,
    /// What the file should hold.
    pub expected: &'static str,
    /// What was found instead, without any of the contents.
    pub found: String,
}

/// A file that a setting names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File<'a> {
    /// The setting that names the file.
    pub key: &'static str,
    /// The path of the file.
    pub path: &'a str,
}

impl File<'_> {
    /// Reads the certificates in the file, one at least.
    ///
    /// # Errors
    /// When there is none, or one cannot be read: one that is passed over in
    /// silence would be missed much later.
    pub(crate) async fn certificates(self) -> Result<Vec<CertificateDer<'static>>, FileError> {
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

    /// Reads the private key in the file.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub(crate) async fn private_key(self) -> Result<PrivateKeyDer<'static>, FileError> {
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

    /// Makes the error that says what is wrong with the file.
    pub(crate) fn refused(self, expected: &'static str, found: impl Into<String>) -> FileError {
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

/// What a certificate says, for logs and `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whose certificate it is, in words.
    pub of: String,
    /// The subject, written as RabbitMQ writes it.
    pub subject: String,
    /// The end of the validity, in RFC 3339.
    pub not_after: String,
    /// The seconds that are left until [`not_after`](Self::not_after); negative once it
    /// has passed.
    #[serde(skip)]
    pub seconds_left: i64,
}

impl Certificate {
    /// Parses a certificate; `None` when it is none.
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
        const MAX_TOLD: usize = 8;
        let few = certificates.len() <= MAX_TOLD;
        let looked = certificates.iter().filter(|_| few);
        looked.filter_map(|one| Self::of(whose, one)).collect()
    }

    /// Returns a warning about a certificate that ends within 30 days.
    pub fn ends_soon(&self) -> Option<String> {
        const SOON_SECONDS: i64 = 30 * 24 * 60 * 60;
        let Self {
            of,
            subject,
            not_after,
            seconds_left,
        } = self;
        (*seconds_left < SOON_SECONDS)
            .then(|| format!("{of} ({subject}) is valid until {not_after}: renew it before"))
    }
}
