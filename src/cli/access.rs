//! How a running service is reached, and who one is there: by flags, the
//! environment, and a profile in a file, in this order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{ExitCode, Failure, output};
use crate::auth::MAX_BEARER_BYTES;

/// Flags of all commands that ask a service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection to a service")]
pub(super) struct Access {
    /// Take what is not given from this profile: a table of profiles.toml in chat-counters/ below $XDG_CONFIG_HOME (~/.config)
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "CHAT_COUNTERS_PROFILE"
    )]
    profile: Option<String>,
    #[command(flatten)]
    given: ConnectionSettings,
}

/// What can be said of a service by a flag, a variable, or in a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConnectionSettings {
    /// Of a profile alone: the address for reading counters.
    #[arg(skip)]
    address: Option<String>,
    /// Of a profile alone: the address for dead letters.
    #[arg(skip)]
    admin_address: Option<String>,
    /// PEM with the authorities that may certify the service; with it, TLS is used
    #[arg(long, global = true, value_name = "FILE", env = "CHAT_COUNTERS_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// PEM with your client certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CHAT_COUNTERS_TLS_CERT"
    )]
    tls_cert: Option<PathBuf>,
    /// PEM with the key of it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CHAT_COUNTERS_TLS_KEY"
    )]
    tls_key: Option<PathBuf>,
    /// The name in the service's certificate, if it is not that of the address
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "CHAT_COUNTERS_TLS_NAME"
    )]
    tls_name: Option<String>,
    /// File with the bearer token that says who you are
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CHAT_COUNTERS_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
}

/// Which of the two gRPC ports of a service is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServicePort {
    /// The port for counters (`grpc.listen`).
    Counters,
    /// The port for dead letters and maintenance (`admin.listen`).
    Admin,
}

/// Where to connect, and how.
pub(super) struct Target {
    /// The address, host and port.
    pub(super) address: String,
    /// Whether somebody has named the service: then no other will do.
    pub(super) named: bool,
    pub(super) tls: Option<ClientTlsConfig>,
    pub(super) token: Option<MetadataValue<Ascii>>,
}

impl Access {
    /// Whether what was given makes sense for a service only: a profile, how to
    /// connect, or who calls.
    pub(super) fn asks_for_a_service(&self) -> bool {
        self.profile.is_some() || self.given.asks_for_tls() || self.given.token_file.is_some()
    }

    /// The service at `address`, if that was given, else that of the profile,
    /// else the one of the configuration.
    ///
    /// # Errors
    /// What was missing or wrong, and where.
    pub(super) fn target(
        &self,
        address: Option<&str>,
        side: ServicePort,
        configured: &str,
    ) -> Result<Target, Failure> {
        let given = match &self.profile {
            None => self.given.clone(),
            Some(name) => self.given.clone().over(profile(name)?),
        };
        let of_profile = match side {
            ServicePort::Counters => given.address.as_deref(),
            ServicePort::Admin => given.admin_address.as_deref(),
        };
        let named = address.or(of_profile);
        let address = named.unwrap_or(configured);
        if address.is_empty() {
            return Err(usage(
                "--address: expected host:port, since the configuration has no address to connect to",
            ));
        }
        let (scheme, address) = match address.split_once("://") {
            Some((scheme, address)) => (Some(scheme), address),
            None => (None, address),
        };
        let tls = given.tls(scheme)?;
        let token = given.token()?;
        if token.is_some() && tls.is_none() && !is_local(address) {
            output::aside(
                "the token goes over the network unencrypted: --tls-ca FILE has TLS used",
            );
        }
        Ok(Target {
            address: address.to_owned(),
            named: named.is_some() || self.asks_for_a_service(),
            tls,
            token,
        })
    }
}

impl ConnectionSettings {
    /// What is given here, and for the rest what is given there.
    fn over(self, other: Self) -> Self {
        // A certificate goes with its own key.
        let (tls_cert, tls_key) = match (self.tls_cert, self.tls_key) {
            (None, None) => (other.tls_cert, other.tls_key),
            own => own,
        };
        Self {
            address: self.address.or(other.address),
            admin_address: self.admin_address.or(other.admin_address),
            tls_ca: self.tls_ca.or(other.tls_ca),
            tls_cert,
            tls_key,
            tls_name: self.tls_name.or(other.tls_name),
            token_file: self.token_file.or(other.token_file),
        }
    }

    fn asks_for_tls(&self) -> bool {
        let files = [&self.tls_ca, &self.tls_cert, &self.tls_key];
        files.iter().any(|file| file.is_some()) || self.tls_name.is_some()
    }

    fn tls(&self, scheme: Option<&str>) -> Result<Option<ClientTlsConfig>, Failure> {
        match (scheme, self.asks_for_tls()) {
            (Some("http"), true) => {
                return Err(usage(
                    "--address: found http://, which is without TLS, and --tls-...: leave one of them out",
                ));
            }
            (Some("http") | None, false) => return Ok(None),
            (Some("https") | None, _) => {}
            (Some(other), _) => {
                let message = format!("--address: expected host:port, found the scheme {other:?}");
                return Err(usage(message));
            }
        }
        let mut tls = match &self.tls_ca {
            Some(path) => {
                let pem = pem("--tls-ca", path, "CERTIFICATE")?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let certificate = pem("--tls-cert", certificate, "CERTIFICATE")?;
                let key = pem("--tls-key", key, "PRIVATE KEY")?;
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            (Some(_), None) => return Err(usage("--tls-key FILE is missing: --tls-cert needs it")),
            (None, Some(_)) => return Err(usage("--tls-cert FILE is missing: --tls-key needs it")),
        }
        if let Some(name) = &self.tls_name {
            tls = tls.domain_name(name);
        }
        Ok(Some(tls))
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = read("--token-file", path)?;
        let token = text.trim();
        let good = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let header: Result<MetadataValue<Ascii>, _> = format!("Bearer {token}").parse();
        match header {
            Ok(mut header) if good && token.len() <= MAX_BEARER_BYTES => {
                header.set_sensitive(true);
                Ok(Some(header))
            }
            _ => Err(usage(format!(
                "--token-file: {}: expected one token of at most {MAX_BEARER_BYTES} visible ASCII characters",
                path.display()
            ))),
        }
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Usage, message)
}

fn read(flag: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        usage(format!(
            "{flag}: {} cannot be read: {error}",
            path.display()
        ))
    })
}

/// The text of a file with a section of this kind.
fn pem(flag: &str, path: &Path, kind: &str) -> Result<String, Failure> {
    let text = read(flag, path)?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains(kind);
    match text.lines().any(begins) {
        true => Ok(text),
        false => Err(usage(format!(
            "{flag}: {}: expected PEM with a {kind}, found none",
            path.display()
        ))),
    }
}

fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Reads the profile of a name.
fn profile(name: &str) -> Result<ConnectionSettings, Failure> {
    let path = profiles()?;
    let text = read("--profile", &path)?;
    let shown = path.display();
    let mut all: BTreeMap<String, ConnectionSettings> = toml::from_str(&text)
        .map_err(|error| usage(format!("--profile: {shown}: {}", error.message())))?;
    match all.remove(name) {
        Some(profile) => Ok(profile.below(&path)),
        None => {
            let names: Vec<_> = all.into_keys().collect();
            Err(usage(format!(
                "--profile: {shown}: expected the table [{name}], found {}",
                match names.as_slice() {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                }
            )))
        }
    }
}

fn profiles() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || Some(PathBuf::from(set("HOME")?).join(".config"));
    let directory = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    match directory {
        Some(directory) => Ok(directory.join("chat-counters/profiles.toml")),
        None => Err(usage(
            "--profile: neither XDG_CONFIG_HOME nor HOME is set: where is profiles.toml?",
        )),
    }
}

impl ConnectionSettings {
    /// File names in a profile are meant from where the profile is.
    fn below(mut self, profiles: &Path) -> Self {
        let directory = profiles.parent().unwrap_or(Path::new(""));
        let files = [
            &mut self.tls_ca,
            &mut self.tls_cert,
            &mut self.tls_key,
            &mut self.token_file,
        ];
        for file in files.into_iter().flatten() {
            *file = directory.join(&*file);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_goes_before_the_profile_and_pairs_stay_together() {
        let path = |text: &str| Some(PathBuf::from(text));
        let profile = ConnectionSettings {
            address: Some("a:1".into()),
            tls_ca: path("ca"),
            tls_cert: path("cert"),
            tls_key: path("key"),
            token_file: path("token"),
            ..ConnectionSettings::default()
        };
        let given = ConnectionSettings {
            tls_cert: path("other"),
            token_file: path("mine"),
            ..ConnectionSettings::default()
        };
        let both = given.over(profile.clone().below(Path::new("/etc/x/profiles.toml")));
        assert_eq!(both.tls_ca, path("/etc/x/ca"));
        assert_eq!((both.tls_cert, both.tls_key), (path("other"), None));
        assert_eq!(both.token_file, path("mine"));
        assert_eq!(both.address.as_deref(), Some("a:1"));
        assert_eq!(ConnectionSettings::default().over(profile.clone()), profile);
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |given: ConnectionSettings, scheme| match given.tls(scheme) {
            Err(failure) => format!("{failure:?}"),
            Ok(tls) => format!("{}", tls.is_some()),
        };
        let none = Path::new("/no/such/file").to_owned();
        let ca = ConnectionSettings {
            tls_ca: Some(none.clone()),
            ..ConnectionSettings::default()
        };
        assert!(message(ca.clone(), None).contains("--tls-ca: /no/such/file"));
        assert!(message(ca, Some("http")).contains("without TLS"));
        let cert = ConnectionSettings {
            tls_cert: Some(none),
            ..ConnectionSettings::default()
        };
        assert!(message(cert, None).contains("--tls-key FILE is missing"));
        assert_eq!(message(ConnectionSettings::default(), None), "false");
        assert_eq!(
            message(ConnectionSettings::default(), Some("https")),
            "true"
        );
        assert!(message(ConnectionSettings::default(), Some("ftp")).contains("ftp"));
    }
}
