//! AMQP by hand: messages as the protocol lets a producer write them, of which
//! a client library would refuse many.

use std::collections::BTreeSet;

use chat_counters::config;
use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::service::Result;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 206;
/// Largest frame that is agreed upon, in bytes: RabbitMQ's default.
pub(crate) const FRAME_MAX: usize = 131_072;

/// A channel in confirm mode, on a connection of its own.
pub(crate) struct RawChannel {
    stream: TcpStream,
    published: u64,
    unconfirmed: BTreeSet<u64>,
}

/// A message as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawMessage {
    pub routing_key: Vec<u8>,
    /// Flags and properties in AMQP's encoding.
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

impl RawChannel {
    /// Connects as the URL says, without TLS.
    ///
    /// # Errors
    /// With what the broker said.
    pub(crate) async fn open(bus: &config::Bus) -> Result<Self> {
        let uri: AMQPUri = bus.url.expose().parse()?;
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut channel = Self {
            stream,
            published: 0,
            unconfirmed: BTreeSet::new(),
        };
        channel.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        channel.answer(10, 10).await?;
        let user = uri.authority.userinfo;
        let secret = format!("\0{}\0{}", user.username, user.password);
        let start_ok = [
            &[0, 0, 0, 0][..],
            &short(b"PLAIN"),
            &long(secret.as_bytes()),
            &short(b"en_US"),
        ];
        channel.call(0, 10, 11, &start_ok.concat()).await?;
        channel.answer(10, 30).await?;
        let tune_ok = [&[7, 255][..], &(FRAME_MAX as u32).to_be_bytes(), &[0, 0]];
        channel.call(0, 10, 31, &tune_ok.concat()).await?;
        let open = [&short(uri.vhost.as_bytes())[..], &[0, 0]];
        channel.call(0, 10, 40, &open.concat()).await?;
        channel.answer(10, 41).await?;
        channel.call(1, 20, 10, &[0]).await?;
        channel.answer(20, 11).await?;
        channel.call(1, 85, 10, &[0]).await?;
        channel.answer(85, 11).await?;
        Ok(channel)
    }

    /// Publishes a message; [`confirmed`](Self::confirmed) awaits its confirm.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn publish(&mut self, exchange: &str, message: &RawMessage) -> Result<()> {
        let fields = [
            &[0, 0][..],
            &short(exchange.as_bytes()),
            &short(&message.routing_key),
            // Mandatory: what no queue takes is returned, and is no success.
            &[1],
        ];
        let mut frames = frame(METHOD, 1, &method(60, 40, &fields.concat()));
        let size = (message.body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &size, &message.properties].concat();
        frames.extend(frame(HEADER, 1, &header));
        for part in message.body.chunks(FRAME_MAX - 8) {
            frames.extend(frame(BODY, 1, part));
        }
        self.stream.write_all(&frames).await?;
        self.published += 1;
        self.unconfirmed.insert(self.published);
        Ok(())
    }

    /// Waits until all that was published is confirmed.
    ///
    /// # Errors
    /// With the broker's words, when it refuses.
    pub(crate) async fn confirmed(&mut self) -> Result<()> {
        while !self.unconfirmed.is_empty() {
            let (class, method, fields) = self.method().await?;
            let ([a, b, c, d, e, f, g, h, multiple], (60, 80)) =
                (fields.get(..9).ok_or("short")?, (class, method))
            else {
                return Err(format!("expected basic.ack, found {class}.{method}").into());
            };
            let tag = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            if *multiple == 1 {
                self.unconfirmed = self.unconfirmed.split_off(&(tag + 1));
            } else {
                self.unconfirmed.remove(&tag);
            }
        }
        Ok(())
    }

    /// Takes the first message out of a queue, if there is one.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn take(&mut self, queue: &str) -> Result<Option<RawMessage>> {
        let fields = [&[0, 0][..], &short(queue.as_bytes()), &[1]];
        self.call(1, 60, 70, &fields.concat()).await?;
        let (60, 71, got) = self.method().await? else {
            return Ok(None);
        };
        // Tag, redelivered, exchange, routing key.
        let after_exchange = 10 + usize::from(got[9]);
        let length = usize::from(got[after_exchange]);
        let routing_key = got[after_exchange + 1..][..length].to_vec();
        let (_, header) = self.frame().await?;
        let (skeleton, properties) = header.split_at(12);
        let size = u64::from_be_bytes(skeleton[4..].try_into()?);
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            body.extend(self.frame().await?.1);
        }
        Ok(Some(RawMessage {
            routing_key,
            properties: properties.to_vec(),
            body,
        }))
    }

    async fn call(&mut self, channel: u16, class: u16, id: u16, fields: &[u8]) -> Result<()> {
        let frame = frame(METHOD, channel, &method(class, id, fields));
        Ok(self.stream.write_all(&frame).await?)
    }

    async fn answer(&mut self, class: u16, method: u16) -> Result<()> {
        let (found_class, found, _) = self.method().await?;
        if (found_class, found) == (class, method) {
            return Ok(());
        }
        Err(format!("expected method {class}.{method}, found {found_class}.{found}").into())
    }

    /// The next method, heartbeats apart; an error when the broker hangs up.
    async fn method(&mut self) -> Result<(u16, u16, Vec<u8>)> {
        loop {
            let (kind, payload) = self.frame().await?;
            let (METHOD, [a, b, c, d, fields @ ..]) = (kind, &payload[..]) else {
                continue;
            };
            let (class, method) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            if let (10, 50) | (20, 40) = (class, method) {
                let text = fields.get(3..).unwrap_or_default();
                return Err(format!("refused: {}", String::from_utf8_lossy(text)).into());
            }
            return Ok((class, method, fields.to_vec()));
        }
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).await?;
        payload.pop();
        Ok((head[0], payload))
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

fn method(class: u16, method: u16, fields: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes()[..], &method.to_be_bytes(), fields].concat()
}

/// A short string.
fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8][..], text].concat()
}

/// A long string, without its type.
fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// An entry of a table: its name, its type, and a value that has its length
/// before it.
pub(crate) fn entry(name: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[tag], &long(value)].concat()
}

/// Properties of a persistent message with these headers.
pub(crate) fn headers(entries: &[Vec<u8>]) -> Vec<u8> {
    [&[0x30, 0][..], &long(&entries.concat()), &[2]].concat()
}

/// Properties of one short string: the flag's place, 15 for `content_type`.
fn text(flag: u8, text: &[u8]) -> Vec<u8> {
    [&(1_u16 << flag).to_be_bytes()[..], &short(text)].concat()
}

/// A table or array (`F`, `A`) as a value, with so many others one in the other.
pub(crate) fn nested(tag: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if tag == b'F' { &[1, b'k'] } else { &[] };
    // From the outside in: each is as long as what is in it.
    let step = name.len() + 5;
    let mut value = Vec::new();
    for inner in (0..depth).rev() {
        if inner + 1 < depth {
            value.extend(name);
            value.push(tag);
        }
        value.extend(((inner * step) as u32).to_be_bytes());
    }
    value
}

/// Properties and routing keys that RabbitMQ takes, and that lapin does not.
pub(crate) fn odd() -> Vec<(String, RawMessage)> {
    let plain = |name: &str, properties: Vec<u8>| {
        let routing_key = b"message.create.odd".to_vec();
        let body = Vec::new();
        let message = RawMessage {
            routing_key,
            properties,
            body,
        };
        (name.to_owned(), message)
    };
    let mut odd = Vec::new();
    for (flag, name) in [
        (15, "content_type"),
        (14, "content_encoding"),
        (10, "correlation_id"),
        (9, "reply_to"),
        (7, "message_id"),
        (5, "type"),
        (3, "app_id"),
        (2, "cluster_id"),
    ] {
        odd.push(plain(name, text(flag, b"J\xf6rg")));
    }
    let named = headers(&[entry(b"J\xf6rg", b'S', b"v"), entry(b"k", b'S', b"J\xf6rg")]);
    odd.push(plain("header", named));
    let mut routed = plain("routing_key", headers(&[]));
    routed.1.routing_key = b"message.J\xf6rg.odd".to_vec();
    odd.push(routed);
    for depth in [64, 65, 1_200, 1_300, 18_000] {
        for (tag, kind) in [(b'F', "tables"), (b'A', "arrays")] {
            let deep = [&short(b"deep")[..], &[tag], &nested(tag, depth)].concat();
            odd.push(plain(&format!("{kind} {depth} deep"), headers(&[deep])));
        }
    }
    odd
}

/// Properties of 130,800 bytes, as one header or as many.
pub(crate) fn large() -> Vec<(String, RawMessage)> {
    let message = |name: &str, entries: Vec<Vec<u8>>| {
        let message = RawMessage {
            routing_key: b"message.create.large".to_vec(),
            properties: headers(&entries),
            body: Vec::new(),
        };
        assert_eq!(message.properties.len(), 130_800);
        (name.to_owned(), message)
    };
    // Flags, the table's length and the delivery mode take 7 bytes.
    let one = vec![entry(b"big", b'S', &vec![b'b'; 130_800 - 7 - 9])];
    let mut many: Vec<_> = (0..100)
        .map(|n| entry(format!("big-{n:02}").as_bytes(), b'S', &[b'b'; 1_290]))
        .collect();
    let left = 130_800 - 7 - many.concat().len();
    many.push(entry(b"rest", b'S', &vec![b'r'; left - 10]));
    vec![
        message("one large header", one),
        message("many headers", many),
    ]
}
