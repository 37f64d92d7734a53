//! Between the broker's bytes and lapin: rewrites the frames that lapin cannot take.
//!
//! RabbitMQ hands a message's properties on as its producer wrote them. lapin's
//! parser wants UTF-8 where AMQP has bytes, knows fewer types, recurses into
//! tables without a limit on a thread of 2 MiB, and ends the connection over a
//! frame that is larger than negotiated, which the broker sends when it adds an
//! `x-death`. Each of these ends the session, or the process, again at each
//! redelivery. So a [`Filter`] stands in the stream of every connection.
//!
//! Bodies and heartbeats pass as they are; of header and method frames, those
//! that lapin takes pass byte for byte too. The others are written anew
//! ([`properties`], [`methods`]): what had to change is told in a header,
//! and what was there before stands, as bytes, in headers of ours.

mod methods;
mod notes;
mod properties;
mod stream;
mod table;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use self::methods::Method;
pub(super) use self::notes::named;
pub(super) use self::properties::without_depths;
pub(super) use self::stream::{Wire, runtime};
use super::intake::Scales;

/// Tables and arrays within the headers that are let through. Deeper ones are cut.
pub(super) const MAX_DEPTH: usize = 64;
/// Largest header frame that is held to be looked at, in bytes. Of a larger one
/// the properties are let go.
const MAX_HELD_BYTES: usize = 1 << 20;
/// What a body weighs at most, whatever its header frame says: more than any
/// broker takes.
const MAX_WEIGHT_BYTES: u64 = 1 << 30;
/// Bytes of a frame before its payload: type, channel and size.
const HEAD: usize = 7;
/// Bytes of a frame besides its payload: head and end.
pub(super) const OVERHEAD: usize = HEAD + 1;
/// Bytes of a header frame's payload before the properties: class, weight and size of the
/// body.
const SKELETON: usize = 12;
/// Bytes of a frame with a message's properties besides these.
pub(super) const AROUND_PROPERTIES: usize = OVERHEAD + SKELETON;
const FRAME_END: u8 = 206;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// The first byte of a broker's own protocol header, which it sends, to hang up,
/// to clients of another version.
const PROTOCOL: u8 = b'A';
/// The least that a frame may measure, whatever was negotiated.
const FRAME_MIN: u32 = 4096;

/// Reads a broker's bytes in whatever pieces they come.
#[derive(Debug)]
pub(super) struct Filter {
    /// The `frame_max` that our side asked for; 0 leaves it to the broker.
    asked: u32,
    /// The largest frame that lapin takes, in bytes.
    limit: usize,
    state: State,
    /// The beginning of a frame that is to be looked at.
    held: Vec<u8>,
    /// What the header frame to come on a channel is to tell of its method.
    told: HashMap<u16, Originals>,
    /// Where messages are weighed, if they are.
    scales: Option<Arc<Scales>>,
    /// Bytes to come of the body that was announced last.
    body: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// At the beginning of a frame, or within one that is held.
    Holding,
    /// Within a frame that passes: so many bytes of it are to come.
    Passing(usize),
    /// Within one that is let go.
    Skipping(usize),
}

/// Names that were not UTF-8, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Originals {
    exchange: Option<Vec<u8>>,
    routing_key: Option<Vec<u8>>,
}

impl Originals {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Filter {
    /// `asked` is the `frame_max` of the URL; 0 for none.
    pub(super) fn new(asked: u32, scales: Option<Arc<Scales>>) -> Self {
        Self {
            scales,
            body: 0,
            asked,
            limit: negotiated(asked, 0),
            state: State::Holding,
            held: Vec::new(),
            told: HashMap::new(),
        }
    }

    /// Whether a message has begun to pass and not ended: lapin must have the
    /// rest of it.
    pub(super) fn is_within_message(&self) -> bool {
        self.body > 0 || !matches!(self.state, State::Holding)
    }

    /// Takes the next bytes of the broker, and adds what lapin is to read to `out`.
    /// Returns how many were taken: all of them, or those of the message with
    /// which the scales are full.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut left = bytes;
        while !left.is_empty() && (out.is_empty() || !self.is_full()) {
            let bytes = left;
            let taken = match self.state {
                State::Holding => self.hold(bytes, out),
                State::Passing(left) => {
                    let passed = left.min(bytes.len());
                    out.extend_from_slice(&bytes[..passed]);
                    self.state = rest(left - passed, State::Passing);
                    passed
                }
                State::Skipping(left) => {
                    let skipped = left.min(bytes.len());
                    self.state = rest(left - skipped, State::Skipping);
                    skipped
                }
            };
            left = &bytes[taken..];
        }
        bytes.len() - left.len()
    }

    /// Whether no further message may begin.
    fn is_full(&self) -> bool {
        !self.is_within_message() && self.scales.as_ref().is_some_and(|scales| scales.is_full())
    }

    /// Takes as much as lets the next frame be acted upon, or all there is.
    fn hold(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        // Mostly a frame is there as a whole, and need not be copied.
        let whole = wanted(bytes);
        if self.held.is_empty() && whole <= bytes.len() {
            self.act(&bytes[..whole], out);
            return whole;
        }
        let mut taken = 0;
        while taken < bytes.len() {
            let missing = wanted(&self.held) - self.held.len();
            let more = missing.min(bytes.len() - taken);
            self.held.extend_from_slice(&bytes[taken..taken + more]);
            taken += more;
            if self.held.len() == wanted(&self.held) {
                let frame = std::mem::take(&mut self.held);
                self.act(&frame, out);
                break;
            }
        }
        taken
    }

    /// Decides what becomes of a frame of which as much is there as is wanted.
    fn act(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let size = size(frame);
        match frame[0] {
            PROTOCOL => {
                out.extend_from_slice(frame);
                self.state = State::Passing(usize::MAX);
            }
            HEADER if size > MAX_HELD_BYTES => {
                self.let_go(frame, size, out);
                self.state = State::Skipping(size - SKELETON + 1);
            }
            HEADER => self.header(frame, out),
            METHOD if size <= MAX_HELD_BYTES => self.method(frame, out),
            kind => {
                if kind == BODY {
                    self.body = self.body.saturating_sub(size as u64);
                }
                out.extend_from_slice(frame);
                self.state = State::Passing(size + 1);
            }
        }
    }

    fn header(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        self.weigh(frame);
        let told = self.told.remove(&channel(frame)).unwrap_or_default();
        let (skeleton, properties) = match payload(frame).split_at_checked(SKELETON) {
            Some(parts) => parts,
            None => return out.extend_from_slice(frame),
        };
        match properties::readable(properties, told, self.room()) {
            None => out.extend_from_slice(frame),
            Some(properties) => write(frame, &[skeleton, &properties], out),
        }
    }

    /// Of a header frame that is too large to be held, the skeleton goes on.
    fn let_go(&mut self, frame: &[u8], size: usize, out: &mut Vec<u8>) {
        self.weigh(frame);
        let told = self.told.remove(&channel(frame)).unwrap_or_default();
        let properties = properties::let_go(size - SKELETON, told, self.room());
        write(frame, &[&frame[HEAD..], &properties], out);
    }

    /// Weighs the message whose header frame begins so.
    fn weigh(&mut self, frame: &[u8]) {
        let Some((skeleton, _)) = frame[HEAD..].split_first_chunk::<SKELETON>() else {
            return;
        };
        let [_, _, _, _, body @ ..] = *skeleton;
        self.body = u64::from_be_bytes(body);
        if let Some(scales) = &self.scales {
            let body = self.body.min(MAX_WEIGHT_BYTES) as usize;
            scales.weigh(body + size(frame));
        }
    }

    fn method(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let mut originals = Originals::default();
        match methods::read(payload(frame), &mut originals) {
            Method::AsItIs => out.extend_from_slice(frame),
            Method::Tune { frame_max } => {
                self.limit = negotiated(self.asked, frame_max);
                out.extend_from_slice(frame);
            }
            Method::Anew(payload) => write(frame, &[&payload], out),
        }
        if !originals.is_empty() {
            self.told.insert(channel(frame), originals);
        }
    }

    /// Bytes that properties may have in a frame that lapin takes.
    fn room(&self) -> usize {
        self.limit - AROUND_PROPERTIES
    }
}

/// How much of the frame that begins here must be there to act upon it.
fn wanted(frame: &[u8]) -> usize {
    match frame.first() {
        Some(&PROTOCOL) => 1,
        _ if frame.len() < HEAD => HEAD,
        Some(&HEADER) if size(frame) > MAX_HELD_BYTES => HEAD + SKELETON,
        Some(&(HEADER | METHOD)) if size(frame) <= MAX_HELD_BYTES => OVERHEAD + size(frame),
        _ => HEAD,
    }
}

/// The size that a frame says its payload has, in bytes; 0 where it says none.
fn size(frame: &[u8]) -> usize {
    match frame {
        [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    }
}

fn channel(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[1], frame[2]])
}

/// Of a whole frame.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[HEAD..frame.len() - 1]
}

/// Writes a frame like this one with another payload.
fn write(like: &[u8], payload: &[&[u8]], out: &mut Vec<u8>) {
    let size: usize = payload.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&like[..3]);
    // Never more than four times a frame that was held.
    out.extend_from_slice(&(size as u32).to_be_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    out.push(FRAME_END);
}

fn rest(left: usize, state: fn(usize) -> State) -> State {
    match left {
        0 => State::Holding,
        _ => state(left),
    }
}

/// The largest frame that lapin will take, by its own rules: the lower value,
/// where 0 is none.
fn negotiated(asked: u32, offered: u32) -> usize {
    let lower = match (asked, offered) {
        (0, 0) => u32::MAX,
        (0, one) | (one, 0) => one,
        (asked, offered) => asked.min(offered),
    };
    lower.max(FRAME_MIN) as usize
}

#[cfg(test)]
mod tests;
