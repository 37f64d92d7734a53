//! What can go wrong with the broker, in words for the person reading the log.

use std::fmt;

use lapin::ErrorKind;
use lapin::types::ShortString;

use crate::config::SecretError;
use crate::pki::FileError;

/// A failure of the broker or of the way to it. No text ever holds a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// `bus.url` cannot be parsed.
    #[error(
        "bus.url is not an AMQP URL: {why}. Expected amqp://user:password@host:5672/vhost (amqps for TLS), with %2f as the vhost for /"
    )]
    Url {
        /// What is wrong with the URL.
        why: String,
    },
    /// A file with the URL or a password is of no use.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file with certificates or a key is of no use.
    #[error(transparent)]
    File(#[from] FileError),
    /// TLS is configured for a URL without it.
    #[error(
        "bus.tls is set, and the URL begins with amqp://, which is without TLS: write amqps:// (port 5671 unless the URL names one), or take bus.tls away"
    )]
    NoTls,
    /// TLS cannot be made at all.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The TLS handshake failed, for a reason that does not go by itself.
    #[error("the TLS handshake with RabbitMQ at {url} failed: {fault}")]
    Handshake {
        /// The broker, without user information.
        url: String,
        /// Whose fault it is, and what to do.
        fault: String,
    },
    /// The broker lets nobody in by this certificate.
    #[error(
        "RabbitMQ at {url} lets nobody in as {name:?}, which is who bus.tls.cert_file says that we are (SASL EXTERNAL; {answer}). Create that user (rabbitmqctl add_user, clear_password, set_permissions) with just this name, unless the broker's ssl_cert_login_from says otherwise; see that its plugin rabbitmq_auth_mechanism_ssl is on and auth_mechanisms has EXTERNAL; or put a user into bus.url"
    )]
    External {
        /// The broker, without user information.
        url: String,
        /// The subject of the certificate as the broker writes it.
        name: String,
        /// What the broker said.
        answer: String,
    },
    /// A configured name does not fit into an AMQP short string.
    #[error("{what} is {bytes} bytes long; RabbitMQ takes at most 255")]
    NameTooLong {
        /// The key of the configuration that has the name.
        what: &'static str,
        /// The length of the name in bytes.
        bytes: usize,
    },
    /// The host of `bus.url` is unknown to the resolver.
    #[error(
        "the host {host:?} of bus.url does not resolve: {why}. Correct it, or have DNS know it"
    )]
    UnknownHost {
        /// The host that the URL names.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// The broker refuses user or password.
    #[error(
        "RabbitMQ at {url} refuses the user {user:?} or its password ({answer}). Correct {key}, or create the user (rabbitmqctl add_user) or change its password (rabbitmqctl change_password)"
    )]
    Credentials {
        /// The broker, without user information.
        url: String,
        /// The user who was refused.
        user: String,
        /// The key of the configuration that has the password.
        key: &'static str,
        /// What the broker said.
        answer: String,
    },
    /// The virtual host is missing or closed to this user.
    #[error(
        "RabbitMQ at {url} does not open the virtual host to this user ({answer}). Create it (rabbitmqctl add_vhost), grant access (rabbitmqctl set_permissions), or correct the path of bus.url"
    )]
    VirtualHost {
        /// The broker, without user information.
        url: String,
        /// What the broker said.
        answer: String,
    },
    /// The user may not do what the service must do.
    #[error(
        "RabbitMQ forbids {doing} ({answer}). Grant the user of bus.url the permissions configure, write and read on the exchange and both queues (rabbitmqctl set_permissions)"
    )]
    Forbidden {
        /// What the service tried to do.
        doing: String,
        /// What the broker said.
        answer: String,
    },
    /// An exchange or a queue exists in a form that the service cannot use.
    #[error(transparent)]
    Incompatible(Box<Mismatch>),
    /// The broker cannot be reached at the moment.
    #[error("RabbitMQ at {url} cannot be reached: {why}. {cure}")]
    Unreachable {
        /// The broker, without user information.
        url: String,
        /// Why the broker cannot be reached.
        why: String,
        /// What to do, should the broker not come back by itself.
        cure: &'static str,
    },
    /// A connection or channel was lost.
    #[error("lost RabbitMQ while {doing}: {why}")]
    Lost {
        /// What was being done.
        doing: String,
        /// Why the connection or channel was lost.
        why: String,
    },
    /// The consumer was cancelled by the broker.
    #[error(
        "RabbitMQ cancelled the consumer: the queue {queue:?} was deleted, or it lost its leader"
    )]
    Cancelled {
        /// The queue that was consumed.
        queue: String,
    },
    /// Publishing ended before everything was confirmed.
    #[error(
        "{confirmed} events were confirmed, {unconfirmed} more may or may not have arrived: {cause}"
    )]
    Interrupted {
        /// Events that the broker has taken responsibility for.
        confirmed: u64,
        /// Events that were sent and not confirmed.
        unconfirmed: u64,
        /// What ended the publishing.
        cause: Box<BusError>,
    },
}

impl BusError {
    /// Whether it stays until a person acts (a wrong URL, password, permission
    /// or queue); otherwise trying again later may succeed.
    pub fn is_for_operator(&self) -> bool {
        match self {
            BusError::Url { .. }
            | BusError::Secret(_)
            | BusError::File(_)
            | BusError::NoTls
            | BusError::Tls(_)
            | BusError::Handshake { .. }
            | BusError::External { .. }
            | BusError::NameTooLong { .. }
            | BusError::UnknownHost { .. }
            | BusError::Credentials { .. }
            | BusError::VirtualHost { .. }
            | BusError::Forbidden { .. }
            | BusError::Incompatible(_) => true,
            BusError::Unreachable { .. } | BusError::Lost { .. } | BusError::Cancelled { .. } => {
                false
            }
            BusError::Interrupted { cause, .. } => cause.is_for_operator(),
        }
    }

    /// An error of an operation on an open connection.
    pub(super) fn while_doing(doing: impl Into<String>, error: &lapin::Error) -> Self {
        let doing = doing.into();
        match amqp_code(error) {
            Some(403) => BusError::Forbidden {
                doing,
                answer: answer(error),
            },
            _ => BusError::Lost {
                doing,
                why: answer(error),
            },
        }
    }
}

/// The reply code of an error that the broker itself sent.
pub(super) fn amqp_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What the broker, or the network, said.
pub(super) fn answer(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// A name as AMQP wants it; `what` says where it is configured.
pub(super) fn short(what: &'static str, name: &str) -> Result<ShortString, BusError> {
    ShortString::try_new(name).map_err(|_| BusError::NameTooLong {
        what,
        bytes: name.len(),
    })
}

/// The broker's word for an argument that is absent.
const NOT_SET: &str = "none";

/// An exchange or queue that exists in another form than the service needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What it is: `exchange` or `queue`.
    pub kind: &'static str,
    /// The name of the exchange or queue.
    pub name: String,
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// The first argument or property that differs; more may.
    pub argument: String,
    /// What the service needs, in the broker's words; `none` = not set.
    pub needed: String,
    /// What was found, in the broker's words; `none` = not set.
    pub found: String,
}

impl Mismatch {
    /// Reads the broker's answer to a declaration that it refused, such as
    /// `inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received
    /// none but current is the value '5000' of type 'signedint'`.
    pub(super) fn parse(kind: &'static str, name: &str, key: &'static str, answer: &str) -> Self {
        let quoted = |after: &str| {
            let (_, rest) = answer.split_once(after)?;
            rest.split_once('\'').map(|(argument, _)| argument)
        };
        let (needed, found) = answer
            .split_once(": received ")
            .and_then(|(_, values)| values.split_once(" but current is "))
            .unwrap_or(("another form", answer));
        Mismatch {
            kind,
            name: name.into(),
            key,
            argument: quoted("inequivalent arg '").unwrap_or("its form").into(),
            needed: value(needed),
            found: value(found),
        }
    }

    /// Says why the difference matters.
    pub fn why(&self) -> &'static str {
        match self.argument.as_str() {
            "x-message-ttl" => "a message TTL throws away events that wait too long",
            "x-expires" => "a queue that expires takes its events with it",
            "x-max-length" | "x-max-length-bytes" => {
                "a length limit drops or refuses events when the service is behind"
            }
            "x-queue-type" | "durable" | "auto_delete" | "exclusive" => {
                "only a durable quorum queue keeps its events through a crash of the broker and counts deliveries"
            }
            "x-dead-letter-exchange"
            | "x-dead-letter-routing-key"
            | "x-dead-letter-strategy"
            | "x-overflow" => {
                "an event that the broker gives up would be lost instead of dead-lettered at least once"
            }
            "x-delivery-limit" => {
                "the limit decides when an event that crashes the service is given up"
            }
            "type" => "events are routed by topic",
            _ => "the service relies on the form that it declares",
        }
    }

    /// Says what to do about the difference.
    pub fn cure(&self) -> String {
        let Mismatch {
            kind,
            name,
            key,
            found,
            ..
        } = self;
        match (*kind, self.argument.as_str()) {
            ("exchange", _) => format!(
                "publish to a topic exchange and name it in {key}, or delete the exchange {name:?} so that the service declares it"
            ),
            (_, "x-delivery-limit") if found != NOT_SET => format!(
                "set bus.delivery_limit to what was found ({found}), or drain and delete the queue so that the service declares it again, or name another queue in {key}"
            ),
            (_, "x-dead-letter-routing-key") if found != NOT_SET => format!(
                "set bus.dead_letter_queue to what was found ({found}), or drain and delete the queue so that the service declares it again, or name another queue in {key}"
            ),
            _ => format!(
                "drain and delete the {kind} {name:?} so that the service declares it again, or name another one in {key}"
            ),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            kind,
            name,
            argument,
            needed,
            found,
            ..
        } = self;
        let needed = match needed.as_str() {
            NOT_SET => "must not be set".into(),
            value => format!("must be {value}"),
        };
        let found = match found.as_str() {
            NOT_SET => "is not set".into(),
            value => format!("is {value}"),
        };
        write!(
            f,
            "the {kind} {name:?} exists in a form that the service cannot use: {argument} {needed} and {found} (the first difference; there may be more). Why it matters: {}. To cure it: {}",
            self.why(),
            self.cure()
        )
    }
}

impl std::error::Error for Mismatch {}

impl From<Mismatch> for BusError {
    fn from(mismatch: Mismatch) -> Self {
        BusError::Incompatible(Box::new(mismatch))
    }
}

/// `the value '5000' of type 'signedint'` -> `'5000'`.
fn value(words: &str) -> String {
    let words = words.trim();
    let words = words.strip_prefix("the value ").unwrap_or(words);
    let words = words.split(" of type ").next().unwrap_or(words);
    words.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_refusals_are_understood() {
        let rows = [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value '5000' of type 'signedint'",
                ("x-message-ttl", "none", "'5000'"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current is 'classic'",
                ("x-queue-type", "'quorum'", "'classic'"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                ("durable", "'true'", "'false'"),
            ),
        ];
        for (answer, (argument, needed, found)) in rows {
            let mismatch = Mismatch::parse("queue", "q", "bus.queue", answer);
            assert_eq!(mismatch.argument, argument);
            assert_eq!(mismatch.needed, needed);
            assert_eq!(mismatch.found, found);
            assert!(mismatch.to_string().contains("bus.queue"));
        }
    }

    #[test]
    fn an_answer_cut_short_is_still_shown() {
        let mismatch = Mismatch::parse("queue", "q", "bus.queue", "PRECONDITION_FAILED - odd");
        assert!(mismatch.to_string().contains("PRECONDITION_FAILED - odd"));
    }
}
