//! Client certificates: who is meant by one that the handshake has verified.
//!
//! By a name that was made for machines: the URI (a SPIFFE id) or a DNS name
//! among the subject's alternative names. Never by the common name, which an
//! authority may have let anybody choose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::identity::Grant;
use super::{Identity, Refusal};

/// The most identities of a file.
const MAX_IDENTITIES: usize = 10_000;

/// The identities of a file, by the names in their certificates.
#[derive(Debug)]
pub struct Certificates(HashMap<Name, Arc<Identity>>);

/// A name in a certificate that stands for an identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
}

impl Name {
    fn text(&self) -> &str {
        match self {
            Name::Uri(name) | Name::Dns(name) => name,
        }
    }
}

/// The TOML file of client certificates.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    identity: Vec<Entry>,
}

/// One table of the file: a name in a certificate, and what it is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    uri: Option<String>,
    dns: Option<String>,
    roles: Vec<String>,
    tenants: Vec<String>,
    user: Option<String>,
}

impl Certificates {
    /// Reads a file: TOML with a table `[[identity]]` for each.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let File { identity } = toml::from_str(text).map_err(super::file::toml_trouble(text))?;
        if identity.len() > MAX_IDENTITIES {
            return Err(format!(
                "expected at most {MAX_IDENTITIES} identities, found {}",
                identity.len()
            ));
        }
        let mut known = HashMap::with_capacity(identity.len());
        for (i, entry) in identity.into_iter().enumerate() {
            let of = |error: String| format!("identity {}: {error}", i + 1);
            let name = match (entry.uri, entry.dns) {
                (Some(uri), None) => Name::Uri(uri),
                (None, Some(dns)) => Name::Dns(dns.to_ascii_lowercase()),
                _ => return Err(of("expected uri or dns, and not both".into())),
            };
            let grant = Grant {
                roles: entry.roles,
                tenants: entry.tenants,
                user: entry.user,
            };
            let identity = grant.to("mtls", name.text()).map_err(of)?;
            if known.insert(name, identity).is_some() {
                return Err(of("its name stands above already".into()));
            }
        }
        Ok(Self(known))
    }

    /// Whose certificate this is. That it was issued by an authority that is
    /// trusted, the handshake has seen to; its time is looked at again, for the
    /// connection may be old.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn find(&self, der: &[u8], now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| Refusal::NotAnIdentity("it cannot be read"))?;
        in_time(&certificate, now)?;
        if certificate.is_ca() {
            return Err(Refusal::NotAnIdentity("it is an authority's"));
        }
        let names = names(&certificate)?;
        let mut known = names.iter().filter_map(|name| self.0.get(name));
        match (known.next(), known.next()) {
            (Some(identity), None) => Ok(Arc::clone(identity)),
            (Some(_), Some(_)) => Err(Refusal::NotAnIdentity("it names several")),
            (None, _) => Err(Refusal::UnknownCertificate),
        }
    }
}

fn in_time(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), Refusal> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    let valid = validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp();
    valid.then_some(()).ok_or(Refusal::CertificateExpired)
}

/// The one URI; without any, the DNS names.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<Name>, Refusal> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| Refusal::NotAnIdentity("its alternative names cannot be read"))?;
    let Some(extension) = extension else {
        return Err(Refusal::NotAnIdentity(
            "it has no alternative names; the common name is none",
        ));
    };
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(Name::Uri((*uri).to_owned())),
            GeneralName::DNSName(name) => dns.push(Name::Dns(name.to_ascii_lowercase())),
            _ => {}
        }
    }
    match uris.len() {
        0 => Ok(dns),
        1 => Ok(uris),
        _ => Err(Refusal::NotAnIdentity("it has more than one URI")),
    }
}

#[cfg(test)]
mod tests;
