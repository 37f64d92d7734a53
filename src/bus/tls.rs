//! TLS towards the broker, made below the filter: of files that are read anew
//! for each connection, with failures that say which of them is to blame.

use std::io;
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use rustls::client::ClientConfig;
use rustls::crypto::ring;
use rustls::{AlertDescription, CertificateError, RootCertStore};

use super::error::BusError;
use crate::config;
use crate::pki::{Certificate, File};

/// What a TLS connection is made of.
pub(super) struct Tls {
    pub(super) connector: RustlsConnector,
    /// Of our files, the client's own first.
    pub(super) certificates: Vec<Certificate>,
    /// Who the client's certificate says that we are.
    pub(super) name: Option<String>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them is of no use.
    pub(super) async fn read(files: &config::BusTls) -> Result<Self, BusError> {
        let mut certificates = Vec::new();
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        if files.ca_file.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        } else {
            let file = File {
                key: "bus.tls.ca_file",
                path: &files.ca_file,
            };
            authorities = file.certificates().await?;
            for authority in &authorities {
                let added = roots.add(authority.clone());
                added.map_err(|error| file.refused("authorities", error.to_string()))?;
            }
        }
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| BusError::Tls(error.to_string()))?
            .with_root_certificates(roots);
        let (config, name) = if files.cert_file.is_empty() {
            (builder.with_no_client_auth(), None)
        } else {
            let file = File {
                key: "bus.tls.cert_file",
                path: &files.cert_file,
            };
            let chain = file.certificates().await?;
            certificates.extend(Certificate::of("the client's certificate", &chain[0]));
            let name = Certificate::of("", &chain[0]).map(|certificate| certificate.subject);
            let file = File {
                key: "bus.tls.key_file",
                path: &files.key_file,
            };
            let key = file.private_key().await?;
            let expected = "the private key of bus.tls.cert_file";
            let config = builder.with_client_auth_cert(chain, key);
            let config = config.map_err(|error| file.refused(expected, error.to_string()))?;
            (config, name)
        };
        let of = "an authority of bus.tls.ca_file";
        certificates.extend(Certificate::of_few(of, &authorities));
        Ok(Self {
            connector: Arc::new(config).into(),
            certificates,
            name,
        })
    }
}

/// What a failed handshake, or the alert that the broker sends after it, means.
/// `None` for what has nothing to do with TLS.
pub(super) fn fault(error: &io::Error, host: &str, files: &config::BusTls) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let trusted = match files.ca_file.as_str() {
        "" => "a public authority; name another one in bus.tls.ca_file".into(),
        path => format!("an authority of bus.tls.ca_file ({path})"),
    };
    let own = match files.cert_file.as_str() {
        "" => "no bus.tls.cert_file is configured".into(),
        path => format!("the client's certificate is bus.tls.cert_file ({path})"),
    };
    Some(match error {
        rustls::Error::InvalidCertificate(why) => refused(why, host, &trusted),
        rustls::Error::AlertReceived(alert) => format!(
            "the broker ended it with the alert {alert:?}: {}; {own}",
            alerted(*alert)
        ),
        rustls::Error::InvalidMessage(_) => {
            "what listens there speaks no TLS: correct the port (5671 unless the broker says otherwise), or write amqp:// where no TLS is wanted".into()
        }
        error => error.to_string(),
    })
}

/// Why we refuse the broker's certificate.
fn refused(why: &CertificateError, host: &str, trusted: &str) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            format!("the broker's certificate is not signed by {trusted}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the broker's certificate has expired: renew it, and look at the clocks".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet: look at the clocks".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the broker's certificate is not for {host:?}, the host of bus.url, but for {}",
            presented
                .iter()
                .map(|name| bare(name))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        why => format!("the broker's certificate cannot be accepted: {why}"),
    }
}

/// `DnsName("rabbit")` -> `rabbit`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

fn alerted(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => "the client's certificate has expired: renew it",
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it demands a client's certificate: set bus.tls.cert_file and bus.tls.key_file"
        }
        AlertDescription::UnknownCA => {
            "it does not trust the authority that signed the client's certificate"
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked => "it does not accept the client's certificate",
        AlertDescription::ProtocolVersion => "it speaks no TLS 1.2 or 1.3",
        _ => "its log says more",
    }
}

/// What was agreed with the broker.
pub(super) struct Agreed {
    /// `TLSv1_3`, say.
    pub(super) version: String,
    /// The broker's own certificate.
    pub(super) broker: Option<Certificate>,
}

impl Agreed {
    pub(super) fn of(connection: &rustls::CommonState) -> Self {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version: connection
                .protocol_version()
                .and_then(|version| version.as_str().map(Into::into))
                .unwrap_or_default(),
            broker: certificate
                .and_then(|certificate| Certificate::of("the broker's certificate", certificate)),
        }
    }
}
