//! The parts that every request passes through, each run a given number of times:
//! `instructions NAME TIMES`.
//!
//! It measures nothing itself. `scripts/bench --instructions` runs it under callgrind with two
//! numbers and takes the difference, which is the same on every run and every machine of a kind,
//! however busy. Without arguments (`cargo bench`) it names the parts and runs each a few times, to
//! show that they work.

#![allow(missing_docs)]

use rondo::http::{
    Body, ClientConnection, Decoder, HeadLimits, RequestForwarding, RequestHead,
    ResponseForwarding, ResponseHead, Scheme, Step, encode_chunk, encode_end, write_request,
    write_response,
};
use rondo::pool::settings::{BackendSettings, BackendUrl, Host};
use rondo::pool::settings::{BalanceSettings, HashKey, HashSettings, Method};
use rondo::pool::settings::{HealthCheckSettings, HttpCheck, Kind};
use rondo::pool::trace::Decision;
use rondo::pool::{Choice, Event, Pool, Selection, Served, Tried};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16384,
    fields_max: 100,
};
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 17));

const PARTS: [&str; 9] = [
    "take_request_plain",
    "take_request_browser",
    "take_response",
    "write_request_plain",
    "write_request_browser",
    "write_response",
    "decode_16k_in_4_chunks",
    "encode_4k_chunk",
    "report_an_answer",
];

/// A choice is `choose_METHOD_of_NUMBER`: what it costs must not grow with the number of backends.
const CHOICES: [(&str, Method); 8] = [
    ("round_robin", Method::RoundRobin),
    ("least_connections", Method::LeastConnections),
    ("random_two", Method::RandomTwo),
    ("fastest", Method::Fastest),
    ("source_hash", Method::SourceHash),
    (STRANGERS, Method::SourceHash),
    ("hash_by_path", Method::Hash),
    (BOUNDED, Method::Hash),
];

/// Each request comes from a client that was not seen before.
const STRANGERS: &str = "source_hash_for_strangers";

/// By path, with bounded loads.
const BOUNDED: &str = "hash_with_bound";

const POOL_SIZES: [usize; 5] = [4, 16, 100, 1000, 10_000];

fn parts() -> Vec<String> {
    let choices = CHOICES
        .iter()
        .flat_map(|(name, _)| POOL_SIZES.map(|size| format!("choose_{name}_of_{size}")));
    PARTS
        .map(str::to_owned)
        .into_iter()
        .chain(choices)
        .collect()
}

fn run(part: &str, times: usize) {
    if let Some((name, size)) = part
        .strip_prefix("choose_")
        .and_then(|p| p.rsplit_once("_of_"))
    {
        let (_, method) = CHOICES
            .iter()
            .find(|(known, _)| *known == name)
            .expect("a method");
        let size = size.parse().expect("a number of backends");
        return choose(name, *method, size, times);
    }
    match part {
        "take_request_plain" => take_request(PLAIN_REQUEST, times),
        "take_request_browser" => take_request(BROWSER_REQUEST, times),
        "take_response" => take_response(times),
        "write_request_plain" => forward_request(PLAIN_REQUEST, times),
        "write_request_browser" => forward_request(BROWSER_REQUEST, times),
        "write_response" => forward_response(times),
        "decode_16k_in_4_chunks" => decode_chunks(times),
        "encode_4k_chunk" => encode_chunks(times),
        "report_an_answer" => report(times),
        _ => panic!("there is no part {part}; they are {:?}", parts()),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.as_slice() {
        [] => {
            for part in parts() {
                run(&part, 3);
                println!("{part}");
            }
        }
        [part, times] => run(part, times.parse().expect("a number of times")),
        _ => panic!("usage: instructions [NAME TIMES]"),
    }
}

/// 150 bytes, such as a program sends.
const PLAIN_REQUEST: &[u8] = b"GET /api/items/1842?fields=name,price HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: client/2.4.1\r\n\
    Accept: application/json\r\n\
    Connection: keep-alive\r\n\r\n";

/// 600 bytes, such as a browser sends.
const BROWSER_REQUEST: &[u8] = b"GET /catalogue/garden/chairs/?sort=price&page=3 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Referer: http://shop.example.com/catalogue/garden/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=4f6c1b7a9d2e48c0a5b3; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Cache-Control: max-age=0\r\n\
    Priority: u=0, i\r\n\r\n";

/// What the benchmark's origin sends.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 128\r\n\
    Connection: keep-alive\r\n\r\n";

fn take_request(bytes: &[u8], times: usize) {
    let mut head = RequestHead::default();
    for _ in 0..times {
        head.clear();
        let used = head.take(black_box(bytes), &LIMITS);
        assert!(
            matches!(used, Ok(Some(used)) if used == bytes.len()),
            "the request is whole and valid"
        );
    }
}

fn take_response(times: usize) {
    let mut head = ResponseHead::default();
    for _ in 0..times {
        head.clear();
        let used = head.take(black_box(RESPONSE), &LIMITS);
        assert!(
            matches!(used, Ok(Some(used)) if used == RESPONSE.len()),
            "the response is whole and valid"
        );
    }
}

fn forward_request(bytes: &[u8], times: usize) {
    let mut head = RequestHead::default();
    assert!(
        matches!(head.take(bytes, &LIMITS), Ok(Some(_))),
        "the request is whole and valid"
    );
    let how = RequestForwarding {
        peer: CLIENT,
        trusted: false,
        scheme: Scheme::Http,
        via: true,
        base_path: b"",
        authority: b"127.0.0.1:8081",
        request_id: b"0123456789abcdef0123456789abcdef",
    };
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        write_request(black_box(&head), black_box(&how), &mut out);
        black_box(out.as_slice());
    }
}

fn forward_response(times: usize) {
    let mut head = ResponseHead::default();
    assert!(
        matches!(head.take(RESPONSE, &LIMITS), Ok(Some(_))),
        "the response is whole and valid"
    );
    let how = ResponseForwarding {
        body: Body::Length(128),
        keep_length_field: false,
        connection: ClientConnection::KeepAlive,
        set_cookie: None,
        date: None,
        trailers: false,
    };
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        write_response(black_box(&head), black_box(&how), &mut out);
        black_box(out.as_slice());
    }
}

fn decode_chunks(times: usize) {
    let mut body = Vec::new();
    for _ in 0..4 {
        encode_chunk(&[b'x'; 4096], &mut body);
    }
    encode_end(std::iter::empty(), &mut body);
    for _ in 0..times {
        let mut decoder = Decoder::new(&LIMITS);
        let mut rest = black_box(body.as_slice());
        let mut data_bytes = 0;
        loop {
            match decoder
                .decode(rest)
                .expect("what encode_chunk wrote is valid")
            {
                Step::Data { used, data } => {
                    data_bytes += data.len();
                    rest = &rest[used..];
                }
                Step::End { .. } => break,
                Step::More { .. } => panic!("the body is whole"),
            }
        }
        assert_eq!(data_bytes, 4 * 4096);
    }
}

fn encode_chunks(times: usize) {
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        encode_chunk(black_box(&[b'x'; 4096]), &mut out);
        black_box(out.as_slice());
    }
}

fn choose(name: &str, method: Method, size: usize, times: usize) {
    let hash = HashSettings {
        key: HashKey::Path,
        load_percent_max: (name == BOUNDED).then_some(125),
    };
    let pool = pool_of(size, method, hash);
    let mut selection = Selection {
        client: CLIENT,
        key: (method == Method::Hash).then_some(b"/api/items/1842"),
        cookie: None,
        tries_left: true,
        repeats: false,
    };
    let mut tried = Tried::default();
    let mut decision = Decision::default();
    for (number, _) in (0..).zip(0..times) {
        if name == STRANGERS {
            selection.client = Ipv4Addr::from_bits(number).into();
        }
        tried.clear();
        let choice = pool.choose(
            black_box(&selection),
            black_box(&mut tried),
            Some(black_box(&mut decision)),
        );
        let Choice::Backend { in_flight, .. } = black_box(choice) else {
            panic!("none was chosen");
        };
        let (status, took) = (200, Duration::from_micros(900 + u64::from(number % 30)));
        pool.served(&in_flight, Served::Answered { status, took });
        decision.clear();
    }
}

fn report(times: usize) {
    let pool = pool_of(4, Method::RoundRobin, HashSettings::default());
    let backend = &pool.backends()[0];
    for _ in 0..times {
        pool.report(
            black_box(backend),
            Event::Answered,
            &"it answered a client's request",
        );
    }
}

fn pool_of(size: usize, method: Method, hash: HashSettings) -> Pool {
    let backends = (8081..)
        .take(size)
        .map(|port: u16| BackendSettings {
            name: format!("127.0.0.1:{port}"),
            url: BackendUrl {
                host: Host::Ip(Ipv4Addr::LOCALHOST.into()),
                port,
                base_path: String::new(),
                authority: format!("127.0.0.1:{port}"),
            },
            weight: 1,
            backup: false,
            max_connections: None,
            check: true,
            lenient: false,
            send_proxy_protocol: false,
            disabled: false,
            each_address: false,
        })
        .collect();
    let balance = BalanceSettings {
        method,
        hash,
        ..BalanceSettings::default()
    };
    let health = HealthCheckSettings {
        kind: Kind::Tcp,
        http: HttpCheck::default(),
        port: None,
        interval: Duration::from_secs(60),
        down_interval: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
    };
    Pool::new(backends, &balance, &health)
}
