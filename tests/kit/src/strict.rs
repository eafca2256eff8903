//! The strict reader, a second opinion on HTTP/1.1: reads only what RFC 9112 lets a *sender* generate.
//!
//! rondo's own parser is never used here, so that a mistake in it cannot hide itself. The reader is
//! slow, allocates freely and knows no leniency: one space between the parts of a line, no obsolete
//! forms, no chunk extensions, lower bounds nowhere. What rondo sends to a backend or a client must
//! pass. It reads bytes: a whole message ([`request`], [`response`]), or the parts of one as they
//! come ([`request_head`], [`response_head`], [`chunk`], [`trailers`]), of which `wire.rs` makes
//! messages on a socket. Read that next.

/// One message as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The three parts of the start line.
    pub start: [Vec<u8>; 3],
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub content: Vec<u8>,
    /// Trailer fields of a chunked message.
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub framing: Framing,
    pub head_bytes: usize,
    /// Head and body together: where the next message begins.
    pub total_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    /// The protocol changed: what follows is not HTTP.
    Tunnel,
}

/// What can be said of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A whole message, to its last byte.
    Whole(Message),
    /// A valid beginning; `None` while the head itself is unfinished.
    Part(Option<Message>),
}

impl Seen {
    pub fn whole(self) -> Option<Message> {
        match self {
            Seen::Whole(message) => Some(message),
            Seen::Part(_) => None,
        }
    }
}

impl Message {
    /// The value of a field that may be there once.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.fields.iter().filter(|(n, _)| is(n, name));
        let (_, first) = values.next()?;
        assert!(values.next().is_none(), "{name} is there more than once");
        Some(first)
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields
            .iter()
            .filter(|(n, _)| is(n, name))
            .map(|(_, value)| value.as_slice())
            .collect()
    }

    pub fn status(&self) -> u16 {
        std::str::from_utf8(&self.start[1])
            .unwrap()
            .parse()
            .unwrap()
    }

    pub fn method(&self) -> &[u8] {
        &self.start[0]
    }

    /// The message with all its chunks as one, so that two ways of cutting the same content compare equal.
    pub fn canonical(&self, bytes: &[u8], whole: bool) -> Vec<u8> {
        let mut out = bytes[..self.head_bytes].to_vec();
        if self.framing != Framing::Chunked {
            out.extend_from_slice(&self.content);
            return out;
        }
        if !self.content.is_empty() {
            out.extend_from_slice(format!("{:x}\r\n", self.content.len()).as_bytes());
            out.extend_from_slice(&self.content);
            out.extend_from_slice(b"\r\n");
        }
        if whole {
            out.extend_from_slice(b"0\r\n");
            for (name, value) in &self.trailers {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

/// Reads one request as rondo may send it to a backend; `Err` says which rule it breaks.
pub fn request(bytes: &[u8]) -> Result<Seen, String> {
    match request_head(bytes)? {
        Some(head) => body(bytes, head, false),
        None => Ok(Seen::Part(None)),
    }
}

/// Reads one response as rondo may send it to a client. `to_head` when it answers HEAD; `ended` when the connection
/// was closed after `bytes`, which completes a body without length.
pub fn response(bytes: &[u8], to_head: bool, ended: bool) -> Result<Seen, String> {
    match response_head(bytes, to_head)? {
        Some(head) => body(bytes, head, ended),
        None => Ok(Seen::Part(None)),
    }
}

pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A message's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The three parts of the start line.
    pub start: [Vec<u8>; 3],
    pub fields: Fields,
    /// How the body that follows is framed.
    pub framing: Framing,
    /// Its length.
    pub bytes: usize,
}

/// The head of a request, once its empty line is there.
pub fn request_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let Some(mut head) = head(bytes)? else {
        return Ok(None);
    };
    let [method, target, version] = &head.start;
    check(
        method.iter().all(|b| is_tchar(*b)) && !method.is_empty(),
        "method is not a token",
    )?;
    check(
        version == b"HTTP/1.1",
        "a request of ours is HTTP/1.1 (RFC 9110 2.5)",
    )?;
    check(method != b"CONNECT", "CONNECT is not forwarded")?;
    check(
        target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS"),
        "target is neither origin-form nor OPTIONS * (RFC 9112 3.2)",
    )?;
    check(
        target.iter().all(u8::is_ascii_graphic),
        "target has a byte that is not visible ASCII",
    )?;
    check(
        !target.contains(&b'#'),
        "target has a fragment (RFC 9112 3.2)",
    )?;

    let hosts: Vec<_> = head.fields.iter().filter(|(n, _)| is(n, "Host")).collect();
    check(hosts.len() == 1, "not exactly one Host (RFC 9112 3.2)")?;
    check(host(&hosts[0].1), "Host is not uri-host [: port]")?;
    hop_by_hop(&head.fields, false)?;
    head.framing = framing(&head.fields)?.unwrap_or(Framing::None);
    Ok(Some(head))
}

/// The head of a response, once its empty line is there. `to_head` when it answers HEAD.
pub fn response_head(bytes: &[u8], to_head: bool) -> Result<Option<Head>, String> {
    let Some(mut head) = head(bytes)? else {
        return Ok(None);
    };
    let [version, status, reason] = &head.start;
    check(
        version == b"HTTP/1.1",
        "a response of ours is HTTP/1.1 (RFC 9110 2.5)",
    )?;
    check(
        status.len() == 3 && status.iter().all(u8::is_ascii_digit) && status[0] != b'0',
        "status is not 100 to 999",
    )?;
    check(
        reason.iter().all(|b| is_field_byte(*b)),
        "reason phrase has a control byte",
    )?;
    let status: u16 = std::str::from_utf8(status).unwrap().parse().unwrap();
    hop_by_hop(&head.fields, true)?;
    head.framing = match (status, framing(&head.fields)?) {
        (101, None) => Framing::Tunnel,
        (100..=199 | 204, Some(_)) => {
            return Err(format!(
                "{status} with a framing field (RFC 9110 8.6, RFC 9112 6.1)"
            ));
        }
        (100..=199 | 204, None) | (304, _) => Framing::None,
        (_, _) if to_head => Framing::None,
        (_, Some(framing)) => framing,
        (_, None) => Framing::UntilClose,
    };
    Ok(Some(head))
}

/// Lines and fields alone; the caller knows which framing they mean.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let Some(first) = line(bytes)? else {
        return Ok(None);
    };
    check(!first.is_empty(), "an empty line before the message")?;
    let begin = first.len() + 2;
    let Some((fields, length)) = fields(&bytes[begin..])? else {
        return Ok(None);
    };
    Ok(Some(Head {
        start: three_parts(first)?,
        fields,
        framing: Framing::None,
        bytes: begin + length,
    }))
}

/// The fields up to an empty line, and the bytes they took with it.
fn fields(bytes: &[u8]) -> Result<Option<(Fields, usize)>, String> {
    let (mut fields, mut at) = (Vec::new(), 0);
    while let Some(line) = line(&bytes[at..])? {
        at += line.len() + 2;
        if line.is_empty() {
            return Ok(Some((fields, at)));
        }
        fields.push(field(line)?);
    }
    Ok(None)
}

/// The bytes before the next CRLF. Any other CR or LF, and NUL, is an error as soon as it is seen.
pub fn line(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'\n' => return Err("bare LF".into()),
            b'\r' => {
                return match bytes.get(i + 1) {
                    Some(b'\n') => Ok(Some(&bytes[..i])),
                    Some(_) => Err("bare CR".into()),
                    None => Ok(None),
                };
            }
            0 => return Err("NUL".into()),
            _ => {}
        }
    }
    Ok(None)
}

/// Splits a start line at its first two spaces; the third part (a reason) may hold more of them.
fn three_parts(line: &[u8]) -> Result<[Vec<u8>; 3], String> {
    let mut parts = line.splitn(3, |b| *b == b' ').map(<[u8]>::to_vec);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), Some(c)) => Ok([a, b, c]),
        _ => Err(format!(
            "start line without two spaces: {:?}",
            String::from_utf8_lossy(line)
        )),
    }
}

/// `name: value` or `name:` and nothing else (RFC 9112 5).
fn field(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let text = || String::from_utf8_lossy(line).into_owned();
    let colon = line
        .iter()
        .position(|b| *b == b':')
        .ok_or_else(|| format!("field without colon: {:?}", text()))?;
    let name = &line[..colon];
    check(
        !name.is_empty() && name.iter().all(|b| is_tchar(*b)),
        &format!("field name is not a token: {:?}", text()),
    )?;
    let value = trim(&line[colon + 1..]);
    check(
        value.iter().all(|b| is_field_byte(*b)),
        &format!("field value has a control byte: {:?}", text()),
    )?;
    Ok((name.to_vec(), value.to_vec()))
}

/// What no hop may pass on (RFC 9110 7.6.1), and what may be said of this connection.
fn hop_by_hop(fields: &Fields, to_client: bool) -> Result<(), String> {
    let named = |name: &str| fields.iter().any(|(n, _)| is(n, name));
    for name in ["Keep-Alive", "Proxy-Connection", "HTTP2-Settings"] {
        check(!named(name), &format!("{name} was passed on"))?;
    }
    let connection: Vec<String> = fields
        .iter()
        .filter(|(n, _)| is(n, "Connection"))
        .flat_map(|(_, value)| value.split(|b| *b == b','))
        .map(|option| String::from_utf8_lossy(trim(option)).to_ascii_lowercase())
        .collect();
    for option in &connection {
        let allowed = match option.as_str() {
            "close" | "keep-alive" => to_client || option == "close",
            "upgrade" => named("Upgrade"),
            "te" => named("TE"),
            _ => false,
        };
        check(allowed, &format!("Connection names {option}"))?;
    }
    check(
        named("Upgrade") == connection.iter().any(|option| option == "upgrade"),
        "Upgrade without its connection option, or the reverse (RFC 9110 7.8)",
    )?;
    if named("TE") {
        check(!to_client, "TE in a response")?;
        check(
            connection.iter().any(|option| option == "te"),
            "TE without its connection option (RFC 9110 10.1.4)",
        )?;
    }
    Ok(())
}

/// The one framing field a message of ours has, in the one form that we write (RFC 9112 6.1, 6.2).
fn framing(fields: &Fields) -> Result<Option<Framing>, String> {
    let of = |name: &str| -> Vec<&Vec<u8>> {
        fields
            .iter()
            .filter(|(n, _)| is(n, name))
            .map(|(_, v)| v)
            .collect()
    };
    let (lengths, codings) = (of("Content-Length"), of("Transfer-Encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([], [coding]) => {
            check(
                coding.as_slice() == b"chunked",
                "Transfer-Encoding is not exactly chunked",
            )?;
            Ok(Some(Framing::Chunked))
        }
        ([length], []) => {
            check(
                !length.is_empty() && length.iter().all(u8::is_ascii_digit),
                "Content-Length is not 1*DIGIT",
            )?;
            let length = std::str::from_utf8(length)
                .unwrap()
                .parse()
                .map_err(|_| "Content-Length overflows")?;
            Ok(Some(Framing::Length(length)))
        }
        _ => Err("more than one framing field".into()),
    }
}

fn body(bytes: &[u8], head: Head, ended: bool) -> Result<Seen, String> {
    let framing = head.framing;
    let rest = &bytes[head.bytes..];
    let mut message = Message {
        start: head.start,
        fields: head.fields,
        content: Vec::new(),
        trailers: Vec::new(),
        framing,
        head_bytes: head.bytes,
        total_bytes: head.bytes,
    };
    let whole = match framing {
        Framing::None => true,
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            message.content = rest[..rest.len().min(length)].to_vec();
            message.content.len() == length
        }
        Framing::UntilClose | Framing::Tunnel => {
            message.content = rest.to_vec();
            ended || framing == Framing::Tunnel
        }
        Framing::Chunked => {
            let (end, content, trailers) = chunks(rest)?;
            message.content = content;
            message.trailers = trailers;
            if let Some(end) = end {
                message.total_bytes += end;
                return Ok(Seen::Whole(message));
            }
            false
        }
    };
    message.total_bytes += message.content.len();
    Ok(if whole {
        Seen::Whole(message)
    } else {
        Seen::Part(Some(message))
    })
}

/// Chunks without extensions; the end is `None` while bytes are missing.
pub fn chunks(bytes: &[u8]) -> Result<(Option<usize>, Vec<u8>, Fields), String> {
    let (mut at, mut content) = (0, Vec::new());
    loop {
        match chunk(&bytes[at..])? {
            Chunk::Part(data) => {
                content.extend_from_slice(data);
                return Ok((None, content, Vec::new()));
            }
            Chunk::Whole { data, bytes } => {
                content.extend_from_slice(data);
                at += bytes;
                if data.is_empty() {
                    break;
                }
            }
        }
    }
    Ok(match trailers(&bytes[at..])? {
        Some((trailers, length)) => (Some(at + length), content, trailers),
        None => (None, content, Vec::new()),
    })
}

/// The chunk at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// To the end of its data's line. The last chunk has no data, and the trailer section follows.
    Whole { data: &'a [u8], bytes: usize },
    /// A valid beginning, with what has come of its data.
    Part(&'a [u8]),
}

/// One chunk without extensions.
pub fn chunk(bytes: &[u8]) -> Result<Chunk<'_>, String> {
    let Some(size_line) = line(bytes)? else {
        check(
            bytes.iter().all(|b| b.is_ascii_hexdigit() || *b == b'\r'),
            "chunk size is not hexadecimal",
        )?;
        return Ok(Chunk::Part(b""));
    };
    check(
        (1..=16).contains(&size_line.len()) && size_line.iter().all(u8::is_ascii_hexdigit),
        &format!(
            "chunk size is not 1*HEXDIG: {:?}",
            String::from_utf8_lossy(size_line)
        ),
    )?;
    let begin = size_line.len() + 2;
    let size = u64::from_str_radix(std::str::from_utf8(size_line).unwrap(), 16)
        .map_err(|e| e.to_string())?;
    if size == 0 {
        return Ok(Chunk::Whole {
            data: b"",
            bytes: begin,
        });
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let data = &bytes[begin..bytes.len().min(begin.saturating_add(size))];
    if data.len() < size {
        return Ok(Chunk::Part(data));
    }
    let end = begin + size;
    let line_end = &bytes[end..bytes.len().min(end + 2)];
    check(
        b"\r\n".starts_with(line_end),
        "chunk data is not followed by CRLF",
    )?;
    Ok(if line_end.len() == 2 {
        Chunk::Whole {
            data,
            bytes: end + 2,
        }
    } else {
        Chunk::Part(data)
    })
}

/// The trailer section of a chunked body, once its empty line is there, and the bytes it took.
pub fn trailers(bytes: &[u8]) -> Result<Option<(Fields, usize)>, String> {
    let Some((trailers, length)) = fields(bytes)? else {
        return Ok(None);
    };
    for (name, _) in &trailers {
        for forbidden in [
            "Content-Length",
            "Transfer-Encoding",
            "Host",
            "Connection",
            "Trailer",
            "TE",
            "Upgrade",
        ] {
            check(
                !is(name, forbidden),
                &format!("{forbidden} in a trailer section (RFC 9110 6.5.1)"),
            )?;
        }
    }
    Ok(Some((trailers, length)))
}

/// uri-host [ ":" port ], or empty (RFC 9110 7.2, RFC 3986 3.2.2).
fn host(value: &[u8]) -> bool {
    let (name, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            if end == 0
                || !rest[..end]
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(b))
            {
                return false;
            }
            (&rest[..end], &rest[end + 1..])
        }
        None => value.split_at(value.iter().position(|b| *b == b':').unwrap_or(value.len())),
    };
    let name_is_good = value.first() == Some(&b'[')
        || name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b));
    name_is_good
        && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit)))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is(name: &[u8], other: &str) -> bool {
    name.eq_ignore_ascii_case(other.as_bytes())
}

fn is_tchar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_field_byte(b: u8) -> bool {
    matches!(b, b'\t' | b' '..=b'~' | 0x80..)
}

fn check(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}
