//! What comes out of the filter is judged by lapin's own parser.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, parse_frame};
use lapin::protocol::{AMQPClass, basic};
use lapin::types::AMQPValue;
use proptest::prelude::*;

use super::*;

const LIMIT: u32 = 128 * 1024;

/// A frame of the broker.
fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

/// A header frame of a message of 5 bytes on channel 1.
fn header(properties: &[u8]) -> Vec<u8> {
    let skeleton = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    frame(HEADER, 1, &[&skeleton, properties].concat())
}

fn deliver(exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 60, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0];
    text::put_short(exchange, &mut payload);
    text::put_short(routing_key, &mut payload);
    frame(METHOD, 1, &payload)
}

fn tune(frame_max: u32) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 30, 7, 255];
    payload.extend(frame_max.to_be_bytes());
    payload.extend([0, 60]);
    frame(METHOD, 0, &payload)
}

fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut entry = Vec::new();
    text::put_short(name, &mut entry);
    entry.extend(value);
    entry
}

/// Bytes with a type and a length of 4 bytes before them.
fn sized(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    value.extend((bytes.len() as u32).to_be_bytes());
    value.extend(bytes);
    value
}

/// Properties that are headers alone.
fn with_headers(entries: &[Vec<u8>]) -> Vec<u8> {
    let table = sized(b'F', &entries.concat());
    [&[0x20, 0][..], &table[1..]].concat()
}

/// A table or array (`F`, `A`) with so many others in it, one in the other.
fn nested(tag: u8, depth: usize) -> Vec<u8> {
    let mut value = sized(tag, &[]);
    for _ in 1..depth {
        let name: &[u8] = if tag == b'F' { &[1, b'k'] } else { &[] };
        value = sized(tag, &[name, &value].concat());
    }
    value
}

fn filtered(asked: u32, frames: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Filter::new(asked, None).feed(frames, &mut out);
    out
}

/// What lapin makes of it; all of it must be frames that it takes.
fn parsed(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).expect("a frame that lapin takes");
        let size = bytes.len() - rest.len();
        assert!(size <= LIMIT as usize, "a frame of {size} bytes");
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn message(frames: &[u8]) -> AMQPContentHeader {
    match parsed(&filtered(LIMIT, frames)).pop() {
        Some(AMQPFrame::Header(1, header)) => header,
        other => panic!("no header: {other:?}"),
    }
}

fn found(message: &AMQPContentHeader, name: &str) -> AMQPValue {
    let headers = message.properties.headers().clone().unwrap_or_default();
    headers
        .inner()
        .get(name)
        .cloned()
        .unwrap_or(AMQPValue::Void)
}

fn told(message: &AMQPContentHeader) -> String {
    match found(message, "x-cc-altered") {
        AMQPValue::LongString(text) => text.to_string(),
        _ => String::new(),
    }
}

fn bytes(bytes: &[u8]) -> AMQPValue {
    AMQPValue::ByteArray(bytes.into())
}

#[test]
fn a_property_that_is_no_text_is_shown_and_kept_as_it_was() {
    let flags_and_names = [
        (15, "content_type"),
        (14, "content_encoding"),
        (10, "correlation_id"),
        (9, "reply_to"),
        (8, "expiration"),
        (7, "message_id"),
        (5, "type"),
        (4, "user_id"),
        (3, "app_id"),
        (2, "cluster_id"),
    ];
    for (flag, name) in flags_and_names {
        let properties = [&(1_u16 << flag).to_be_bytes()[..], &[4], b"J\xf6rg"].concat();
        let message = message(&header(&properties));
        assert_eq!(message.body_size, 5);
        assert_eq!(told(&message), format!("not UTF-8: {name}"));
        assert_eq!(
            found(&message, "x-cc-original-properties"),
            bytes(&properties)
        );
        let shown = format!("{:?}", message.properties);
        assert!(shown.contains(r"J\\xf6rg"), "{name}: {shown}");
    }
}

#[test]
fn names_and_values_of_headers_stay_with_each_other() {
    let message = message(&header(&with_headers(&[
        entry(b"eventType", &sized(b'S', b"message.create")),
        entry(b"J\xf6rg", &sized(b'S', b"\xf6")),
        entry(b"odd", b"z\x01\x02"),
    ])));
    let text = |bytes: &[u8]| AMQPValue::LongString(bytes.into());
    assert_eq!(found(&message, "eventType"), text(b"message.create"));
    assert_eq!(found(&message, r"J\xf6rg"), text(b"\xf6"));
    assert_eq!(found(&message, "odd"), bytes(b"z\x01\x02"));
    assert_eq!(
        told(&message),
        "names of headers that are not UTF-8: 1; values of unknown type or size, kept as bytes with all that followed them: 1"
    );
}

#[test]
fn a_routing_key_that_is_no_text_is_told_in_the_message_s_headers() {
    let properties = with_headers(&[entry(b"eventType", &sized(b'S', b"x"))]);
    let frames = [deliver(b"events", b"J\xf6rg.create"), header(&properties)].concat();
    let read = parsed(&filtered(LIMIT, &frames));
    let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = &read[0]
    else {
        panic!("{read:?}");
    };
    assert_eq!(deliver.routing_key.as_str(), r"J\xf6rg.create");
    let second = message(&frames);
    assert_eq!(
        found(&second, "x-cc-original-routing-key"),
        bytes(b"J\xf6rg.create")
    );
    assert_eq!(told(&second), "not UTF-8: routing_key");
    // It is told of this message alone.
    let next = [frames, deliver_plain(), header(&properties)].concat();
    assert_eq!(told(&message(&next)), "");
}

fn deliver_plain() -> Vec<u8> {
    deliver(b"events", b"message.create")
}

#[test]
fn depths_are_cut_and_the_rest_of_the_headers_stays() {
    for (depth, cut) in [
        (1, false),
        (64, false),
        (65, true),
        (1_300, true),
        (18_000, true),
    ] {
        for tag in [b'F', b'A'] {
            let deep = entry(b"deep", &nested(tag, depth));
            let good = entry(b"eventType", &sized(b'S', b"x"));
            let frame = header(&with_headers(&[deep, good]));
            let message = message(&frame);
            assert_eq!(told(&message).contains("more than 64 deep"), cut, "{depth}");
            assert_eq!(
                found(&message, "eventType"),
                AMQPValue::LongString("x".into())
            );
            assert_eq!(filtered(LIMIT, &frame) == frame, !cut);
        }
    }
}

#[test]
fn neither_filter_nor_parser_need_a_deep_stack() {
    let frame = header(&with_headers(&[
        entry(b"f", &nested(b'F', 9_000)),
        entry(b"a", &nested(b'A', 9_000)),
    ]));
    let on_a_stack_of = |bytes, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().stack_size(bytes);
        thread.spawn(work).unwrap().join().unwrap();
    };
    let (filtered_by, out) = std::sync::mpsc::sync_channel(1);
    let filter = move || filtered_by.send(filtered(LIMIT, &frame)).unwrap();
    on_a_stack_of(64 * 1024, Box::new(filter));
    let out = out.recv().unwrap();
    // Half of what lapin's thread has, with the larger frames of a debug build.
    on_a_stack_of(1024 * 1024, Box::new(move || drop(parsed(&out))));
}

#[test]
fn headers_too_large_for_a_frame_give_way_the_largest_first() {
    let frame = header(&with_headers(&[
        entry(b"eventType", &sized(b'S', b"message.create")),
        entry(b"big", &sized(b'S', &[b'b'; 95_000])),
        entry(b"small", &sized(b'S', &[b's'; 40_000])),
        entry(b"x-cc-altered", &sized(b'S', b"before")),
        entry(b"x-death", &sized(b'A', &sized(b'F', &[]))),
    ]));
    let altered = message(&[tune(LIMIT), frame].concat());
    assert!(found(&altered, "big") == AMQPValue::Void);
    assert!(
        matches!(found(&altered, "small"), AMQPValue::LongString(text) if text.len() == 40_000)
    );
    assert!(matches!(
        found(&altered, "x-death"),
        AMQPValue::FieldArray(_)
    ));
    assert_eq!(
        told(&altered),
        "before; left out of the headers, so that they fit into a frame: big (95009 bytes)"
    );
}

#[test]
fn the_limit_is_the_one_that_lapin_negotiates() {
    let large = header(&with_headers(&[entry(b"h", &sized(b'S', &[0; 10_000]))]));
    let passes = |asked, offered| {
        let frames = [tune(offered), large.clone()].concat();
        filtered(asked, &frames) == frames
    };
    assert!(passes(0, 0) && passes(LIMIT, 0) && passes(0, LIMIT) && passes(LIMIT, LIMIT));
    assert!(!passes(4096, LIMIT) && !passes(LIMIT, 4096) && !passes(LIMIT, 8_192));
    let mut small = Filter::new(1, None);
    let mut out = Vec::new();
    small.feed(&large, &mut out);
    assert!(out.len() <= 4096, "{}", out.len());
    parsed(&out);
}

#[test]
fn of_a_header_beyond_all_measure_the_message_stays() {
    let size = 64 << 20;
    let mut filter = Filter::new(LIMIT, None);
    let mut out = Vec::new();
    filter.feed(&deliver(b"e", b"\xf6"), &mut out);
    let mut head = vec![HEADER, 0, 1];
    head.extend((size as u32).to_be_bytes());
    head.extend([0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    filter.feed(&head, &mut out);
    let junk = vec![0; 1 << 20];
    let mut left = size - SKELETON;
    while left > 0 {
        let part = left.min(junk.len());
        filter.feed(&junk[..part], &mut out);
        left -= part;
        assert!(filter.held.capacity() + out.capacity() < 16 * 1024);
    }
    filter.feed(&[FRAME_END], &mut out);
    filter.feed(&frame(3, 1, b"hello"), &mut out);
    let frames = parsed(&out);
    let [_, AMQPFrame::Header(1, header), AMQPFrame::Body(1, body)] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!((header.body_size, body.as_slice()), (5, &b"hello"[..]));
    let bytes = size - SKELETON;
    let expected = format!("not UTF-8: routing_key; properties of {bytes} bytes, left out");
    assert_eq!(told(header), expected);
}

#[test]
fn kept_properties_are_read_without_danger_or_refused() {
    let deep = with_headers(&[entry(b"deep", &nested(b'F', 18_000))]);
    let read = without_depths(&deep).unwrap();
    assert!(basic::parse_properties(&*read).is_ok());
    let shallow = with_headers(&[entry(b"deep", &nested(b'F', 64))]);
    assert_eq!(without_depths(&shallow).as_deref(), Some(&shallow[..]));
    assert_eq!(without_depths(&deep[..deep.len() - 1]), None);
    assert_eq!(without_depths(b""), None);
}

fn short() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-zA-Z-]{0,12}".prop_map(String::into_bytes),
        Just("x-cc-altered".into()),
        Just("x-cc-original-properties".into()),
        prop::collection::vec(any::<u8>(), 0..256),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(b"tbBsUuIifLldTDVzZ\x00".to_vec());
    let leaf = prop_oneof![
        (tags, prop::collection::vec(any::<u8>(), 0..10)).prop_map(|(tag, rest)| {
            let size = table::fixed(tag).unwrap_or(rest.len());
            let filled = rest.into_iter().chain(std::iter::repeat(7)).take(size);
            std::iter::once(tag).chain(filled).collect()
        }),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| sized(b'S', &bytes)),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| sized(b'x', &bytes)),
        (prop::sample::select(vec![b'F', b'A']), 1..90_usize)
            .prop_map(|(tag, depth)| nested(tag, depth)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let entries = prop::collection::vec((short(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|values| sized(b'A', &values.concat())),
            entries.prop_map(|entries| {
                let entries = entries.iter().map(|(name, value)| entry(name, value));
                sized(b'F', &entries.collect::<Vec<_>>().concat())
            }),
        ]
    })
}

fn properties() -> impl Strategy<Value = Vec<u8>> {
    let headers = prop::collection::vec((short(), value()), 0..6);
    (any::<u16>(), prop::collection::vec(short(), 11), headers).prop_map(
        |(flags, texts, headers)| {
            let mut out = flags.to_be_bytes().to_vec();
            let mut texts = texts.iter();
            for place in 0..14 {
                if flags & (1 << (15 - place)) == 0 {
                    continue;
                }
                match place {
                    2 => {
                        let entries = headers.iter().map(|(name, value)| entry(name, value));
                        let table = sized(b'F', &entries.collect::<Vec<_>>().concat());
                        out.extend_from_slice(&table[1..]);
                    }
                    3 | 4 => out.push(2),
                    9 => out.extend_from_slice(&[0; 8]),
                    _ => text::put_short(texts.next().unwrap(), &mut out),
                }
            }
            out
        },
    )
}

/// Frames as a broker sends them, some of them damaged within.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let damaged = prop_oneof![2 => Just(Vec::new()), 1 => damage];
    let one = prop_oneof![
        4 => (properties(), damaged, any::<u8>()).prop_map(|(mut properties, damage, extra)| {
            for (place, byte) in damage {
                let place = place.index(properties.len());
                properties[place] = byte;
            }
            if extra == 0 {
                properties.push(extra);
            }
            header(&properties)
        }),
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| header(&bytes)),
        2 => (short(), short()).prop_map(|(exchange, key)| deliver(&exchange, &key)),
        1 => prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| frame(3, 1, &bytes)),
        1 => Just(frame(8, 0, &[])),
        1 => short().prop_map(|text| {
            let mut payload = vec![0, 20, 0, 40, 1, 244];
            text::put_short(&text, &mut payload);
            payload.extend([0; 4]);
            frame(METHOD, 1, &payload)
        }),
    ];
    prop::collection::vec(one, 1..12)
}

/// Whether lapin takes a frame as it is, and as safely as any other.
fn is_taken(frame: &[u8], room: usize) -> bool {
    let whole = parse_frame(frame).is_ok_and(|(rest, _)| rest.is_empty());
    whole && frame.len() <= room && !told(&message(frame)).contains("deep")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes, in whatever pieces, lapin can take it; and what it could
    /// take anyway comes out as it went in.
    #[test]
    fn lapin_takes_every_frame_and_the_good_ones_unchanged(
        frames in frames(),
        cuts in prop::collection::vec(1..200_usize, 1..40),
        limit in prop_oneof![Just(4_096_u32), Just(LIMIT)],
    ) {
        let bytes = frames.concat();
        let mut filter = Filter::new(limit, None);
        let (mut at, mut pieces) = (0, Vec::new());
        for cut in cuts.iter().cycle() {
            let end = (at + cut).min(bytes.len());
            filter.feed(&bytes[at..end], &mut pieces);
            at = end;
            if at == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(&pieces, &filtered(limit, &bytes));
        let read = parsed(&pieces);
        prop_assert_eq!(read.len(), frames.len());
        for one in &frames {
            let alone = filtered(limit, one);
            prop_assert!(one[0] != HEADER || alone.len() <= limit as usize);
            if one[0] == HEADER && is_taken(one, limit as usize) || matches!(one[0], 3 | 8) {
                prop_assert_eq!(&alone, one);
            }
            // What is made fit needs no second look.
            prop_assert_eq!(&filtered(limit, &alone), &alone);
        }
    }
}
