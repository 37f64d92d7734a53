//! What is listened on for calls, and by which keys it is configured.

use super::{Config, Tls};

/// A listener for calls, as it is configured.
#[derive(Debug, Clone, Copy)]
pub struct Listener<'c> {
    /// Its section.
    pub section: &'static str,
    /// Of the address.
    pub key: &'static str,
    /// The address; empty = off.
    pub listen: &'c str,
    /// The files of its TLS.
    pub tls: &'c Tls,
    /// Of the certificate, of its key, and of the clients' authorities.
    pub tls_keys: [&'static str; 3],
}

macro_rules! listener {
    ($config:ident.$section:ident) => {
        Listener {
            section: stringify!($section),
            key: concat!(stringify!($section), ".listen"),
            listen: &$config.$section.listen,
            tls: &$config.$section.tls,
            tls_keys: [
                concat!(stringify!($section), ".tls.cert_file"),
                concat!(stringify!($section), ".tls.key_file"),
                concat!(stringify!($section), ".tls.client_ca_file"),
            ],
        }
    };
}

impl Config {
    /// All listeners for calls, those that are off included.
    pub fn listeners(&self) -> [Listener<'_>; 3] {
        [
            listener!(self.grpc),
            listener!(self.admin),
            listener!(self.http),
        ]
    }
}
