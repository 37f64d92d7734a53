//! What it takes to get to MongoDB, read from the configuration and its files.

use mongodb::options::{ClientOptions, Tls, TlsOptions};
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::StoreError;
use crate::config::{self, Url};
use crate::pki::{Certificate, File};

/// The options of the URL that let anybody pose as the server.
const INSECURE_OPTIONS: [&str; 3] = [
    "tlsInsecure",
    "tlsAllowInvalidCertificates",
    "tlsAllowInvalidHostnames",
];

/// All that the driver is started with.
pub(super) struct Access {
    pub(super) options: ClientOptions,
    pub(super) url: Url,
    /// The certificates in the files that the URL names.
    pub(super) certificates: Vec<Certificate>,
    pub(super) fingerprint: Fingerprint,
    /// Whether any of this is in a file, and may change.
    pub(super) has_files: bool,
}

/// A digest that changes with the URL and with what is in its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// Reads all files anew. The driver passes over certificates that it cannot
/// read, so they are looked at here.
pub(super) async fn read(store: &config::Store) -> Result<Access, StoreError> {
    let url = store.present_url().await?;
    if let Some(option) = insecure(url.expose()).filter(|_| !store.allow_insecure_tls) {
        return Err(StoreError::Insecure { option });
    }
    let options = ClientOptions::parse(url.expose()).await?;
    let mut hash = Sha256::new_with_prefix(url.expose());
    let mut has_files = !store.url_file.is_empty() || !store.password_file.is_empty();
    let mut certificates = Vec::new();
    if let Some(Tls::Enabled(tls)) = &options.tls {
        has_files |= tls.ca_file_path.is_some() || tls.cert_key_file_path.is_some();
        read_tls_files(tls, &mut hash, &mut certificates).await?;
    }
    Ok(Access {
        options,
        url,
        certificates,
        fingerprint: Fingerprint(hash.finalize().into()),
        has_files,
    })
}

/// Reads the files that the options name, into the digest and the list of certificates.
async fn read_tls_files(
    tls: &TlsOptions,
    hash: &mut Sha256,
    seen: &mut Vec<Certificate>,
) -> Result<(), StoreError> {
    let shown = |path: &std::path::Path| path.display().to_string();
    if let Some(path) = tls.cert_key_file_path.as_deref().map(shown) {
        let file = File {
            key: "tlsCertificateKeyFile of the store's URL",
            path: &path,
        };
        let chain = file.certificates().await?;
        let key = file.private_key().await?;
        chain.iter().for_each(|one| hash.update(one));
        hash.update(key.secret_der());
        seen.extend(Certificate::of("the client's certificate", &chain[0]));
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
            file.refused("a certificate and its private key", error.to_string())
        })?;
    }
    if let Some(path) = tls.ca_file_path.as_deref().map(shown) {
        let file = File {
            key: "tlsCAFile of the store's URL",
            path: &path,
        };
        let authorities = file.certificates().await?;
        authorities.iter().for_each(|one| hash.update(one));
        seen.extend(Certificate::of_few(
            "an authority of tlsCAFile",
            &authorities,
        ));
    }
    Ok(())
}

/// Returns the option of a URL that switches verification off, if one does.
fn insecure(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query
        .split(['&', ';'])
        .filter_map(|pair| pair.split_once('='));
    let (name, _) = pairs.find(|(name, value)| {
        let known = INSECURE_OPTIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name));
        known && !value.eq_ignore_ascii_case("false")
    })?;
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::insecure;

    #[test]
    fn options_that_switch_verification_off_are_found() {
        for (url, expected) in [
            (
                "mongodb://h/?tls=true&tlsInsecure=true",
                Some("tlsInsecure"),
            ),
            ("mongodb://h/?TLSINSECURE=true", Some("TLSINSECURE")),
            (
                "mongodb://h/d?tlsAllowInvalidCertificates=true&tls=true",
                Some("tlsAllowInvalidCertificates"),
            ),
            (
                "mongodb://h/?tlsAllowInvalidHostnames=yes",
                Some("tlsAllowInvalidHostnames"),
            ),
            ("mongodb://h/?tls=true&tlsInsecure=false", None),
            ("mongodb://h/?tls=true", None),
            ("mongodb://h", None),
        ] {
            assert_eq!(insecure(url).as_deref(), expected, "{url}");
        }
    }
}
