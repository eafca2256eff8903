//! The list `backends`, whose settings belong to `pool/backend.rs`: reading it, and a name for each
//! backend. A discovered list (`discovery.rs`) is read here too. URLs are parsed in `url.rs`.

use std::collections::HashMap;

use crate::config::document::{ConfigError, Document, Form, Node, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::config::proxy::Mode;
use crate::config::url;
use crate::pool::settings::{BackendSettings, BackendUrl};
use crate::text::names::places;
use crate::text::words::{counted, quoted};

/// The keys of one entry.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "url",
        takes: Takes::Other {
            wanted: url::WANTED,
            schema: r#"{"type": "string", "pattern": "^[Hh][Tt][Tt][Pp]://[^/?#@]+(/[^?#]*)?$"}"#,
        },
        default: Fallback::Required,
        meaning: "where it listens; port 80 when left out. The base path is put before the path of each request. No `https`, no user, no query",
    },
    Key {
        name: "name",
        takes: Takes::Other {
            wanted: "1 to 64 letters, digits or any of . _ : # [ ] -",
            schema: r#"{"type": "string", "pattern": "^[A-Za-z0-9._:#\\[\\]-]{1,64}$"}"#,
        },
        default: Fallback::Nothing("`host:port`"),
        meaning: "its name in logs, unlike all others. The second backend with the same host and port is called `host:port#2`, and so on",
    },
    Key {
        name: "weight",
        takes: Takes::Integer(0, 1000),
        default: Fallback::Value("1"),
        meaning: "its share of the requests; with 0 it takes no new work",
    },
    Key {
        name: "backup",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "used only when no other backend is healthy",
    },
    Key {
        name: "max_connections",
        takes: Takes::Integer(1, 1_000_000),
        default: Fallback::Nothing("none"),
        meaning: "exchanges at once, over all workers; a full backend is passed over",
    },
    Key {
        name: "check",
        takes: Takes::Flag,
        default: Fallback::Value("true"),
        meaning: "`false`: for this backend as with `health_check.kind` `\"none\"`",
    },
    Key {
        name: "lenient",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "its answers may have line ends without CR, an empty line before the status line, and blanks after a chunk size, as toy and old servers send them",
    },
    Key {
        name: "send_proxy_protocol",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "begin each connection with a PROXY protocol v2 header; it then serves one client connection only",
    },
    Key {
        name: "each_address",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "every address of the host name is a backend of its own, called `NAME/ADDRESS`, with the settings of this entry; they come and go as the name is looked up, every 30 s and after a failed connect",
    },
    Key {
        name: "IsDead",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "start as disabled",
    },
];

pub(super) const LIST: &str =
    r#"a list of at least one backend such as [{"url":"http://127.0.0.1:8081"}]"#;
const NAME_BYTES_MAX: usize = 64;

/// An entry by itself.
const ENTRY: Form = Form {
    is_configuration: true,
    noun: "the entry",
    least: r#"{"url":"http://127.0.0.1:8081"}"#,
    bytes_max: 64 * 1024,
    missing: "",
};

/// Names that are taken already.
pub(super) struct Taken<'a> {
    pub by: &'a [BackendSettings],
    /// As a sentence goes on that begins with a name.
    pub whose: &'static str,
}

/// Reads the list of the configuration.
pub(super) fn read(
    top: &Object<'_>,
    mode: Mode,
    taken: &Taken<'_>,
) -> Result<Vec<BackendSettings>, ConfigError> {
    read_list(&top.value("backends")?, mode, taken)
}

/// Reads a list.
pub(super) fn read_list(
    list: &Node<'_>,
    mode: Mode,
    taken: &Taken<'_>,
) -> Result<Vec<BackendSettings>, ConfigError> {
    let nodes = list.list().ok_or_else(|| list.not(LIST))?;
    if nodes.is_empty() {
        return Err(list.error("is empty", format!("must be {LIST}")));
    }
    let mut written = Vec::with_capacity(nodes.len());
    for node in nodes {
        written.push(Written::read(&node, mode)?);
    }
    name(written, taken)
}

/// Reads an entry by itself, for a backend that is called `name`.
pub(super) fn read_entry(
    name: &str,
    bytes: Vec<u8>,
    mode: Mode,
) -> Result<BackendSettings, ConfigError> {
    let document = Document::from_bytes("the body", bytes, &ENTRY)?;
    let root = document.root()?;
    let mut written = Written::read(&root, mode)?;
    let given = &written.settings.name;
    let called = quoted(name);
    match &written.name_node {
        Some(node) if given != name => {
            let what = format!("is {}, and the path says {called}", node.found());
            return Err(node.error(what, "leave it out, or change the path"));
        }
        None if !is_name(name) => {
            let wanted = KEYS[1].takes.wanted();
            let mut error = root.error(String::new(), format!("must be {wanted}"));
            (error.path, error.what) = ("name".to_owned(), format!("is {called}"));
            return Err(error);
        }
        _ => name.clone_into(&mut written.settings.name),
    }
    Ok(written.settings)
}

/// A backend that may not have a name yet.
struct Written<'a> {
    url_node: Node<'a>,
    name_node: Option<Node<'a>>,
    settings: BackendSettings,
}

impl<'a> Written<'a> {
    fn read(node: &Node<'a>, mode: Mode) -> Result<Written<'a>, ConfigError> {
        if node.is_text() {
            let text = node.text().unwrap_or_default();
            let scheme = if text.contains("://") { "" } else { "http://" };
            let url = quoted(&format!("{scheme}{text}"));
            let hint = format!("must be an object; write {{\"url\": {url}}}");
            return Err(node.error(format!("is {}", node.found()), hint));
        }
        let entry = node.object(KEYS)?;
        let url_node = entry.value("url")?;
        let name = entry.optional_parsed("name", backend_name)?;
        let settings = BackendSettings {
            url: url(&url_node)?,
            name: name.unwrap_or_default(),
            weight: entry.integer("weight")?,
            backup: entry.flag("backup")?,
            max_connections: entry.optional_integer("max_connections")?,
            check: entry.flag("check")?,
            lenient: entry.flag("lenient")?,
            send_proxy_protocol: entry.flag("send_proxy_protocol")?,
            // The article's struct has it.
            disabled: entry.flag("IsDead")?,
            each_address: entry.flag("each_address")?,
        };
        if mode == Mode::Tcp && !settings.url.base_path.is_empty() {
            return Err(url_node.error(
                format!(
                    "is {}, and mode \"tcp\" has no use for a path",
                    url_node.found()
                ),
                "leave the path out",
            ));
        }
        Ok(Written {
            url_node,
            name_node: entry.given("name").cloned(),
            settings,
        })
    }
}

/// The line of `--check` for one backend.
pub(super) fn summary(backend: &BackendSettings) -> String {
    let mut text = format!("{} {} weight {}", backend.name, backend.url, backend.weight);
    if let Some(most) = backend.max_connections {
        text.push_str(", at most ");
        text.push_str(&counted(most, "connection"));
    }
    for (is_set, flag) in [
        (backend.backup, "backup"),
        (!backend.check, "no checks"),
        (backend.lenient, "read leniently"),
        (backend.send_proxy_protocol, "PROXY protocol"),
        (backend.disabled, "disabled"),
        (backend.each_address, "each address"),
    ] {
        if is_set {
            text.push_str(", ");
            text.push_str(flag);
        }
    }
    text
}

/// Gives a unique name to each backend without one.
fn name(
    mut written: Vec<Written<'_>>,
    of_others: &Taken<'_>,
) -> Result<Vec<BackendSettings>, ConfigError> {
    // Name to the number of its next repetition. Configured names come first: they cannot change.
    let mut taken: HashMap<String, usize> = HashMap::new();
    for backend in &written {
        let Some(node) = &backend.name_node else {
            continue;
        };
        if taken.insert(backend.settings.name.clone(), 2).is_some() {
            let what = format!("is {}, which another backend has", node.found());
            return Err(node.error(what, "give each backend a name of its own"));
        }
    }
    for backend in &mut written {
        if backend.name_node.is_some() {
            continue;
        }
        let url = &backend.settings.url;
        let plain = format!("{}:{}", url.host, url.port);
        let mut number = taken.get(&plain).copied().unwrap_or(1);
        let mut name = plain.clone();
        while taken.contains_key(&name) {
            name = format!("{plain}#{number}");
            number += 1;
        }
        if name.len() > NAME_BYTES_MAX {
            let what = format!("would make a name longer than {NAME_BYTES_MAX} bytes");
            return Err(backend.url_node.error(what, "give the backend a \"name\""));
        }
        taken.insert(plain, number.max(2));
        taken.entry(name.clone()).or_insert(2);
        backend.settings.name = name;
    }
    let others = by_name(of_others.by);
    let is_taken = |backend: &&Written<'_>| others.contains_key(&*backend.settings.name);
    if let Some(backend) = written.iter().find(is_taken) {
        let (name, whose) = (quoted(&backend.settings.name), of_others.whose);
        return Err(match &backend.name_node {
            Some(node) => node.error(
                format!("is {name}, which {whose} has"),
                "give each backend a name of its own",
            ),
            None => backend.url_node.error(
                format!("makes the name {name}, which {whose} has"),
                "give the backend a \"name\"",
            ),
        });
    }
    Ok(written
        .into_iter()
        .map(|backend| backend.settings)
        .collect())
}

/// Where each backend stands, by its name.
pub(crate) fn by_name(backends: &[BackendSettings]) -> HashMap<&str, usize> {
    places(backends.iter().map(|backend| &*backend.name))
}

fn backend_name(node: &Node<'_>) -> Option<String> {
    let name = node.text().filter(|name| is_name(name))?;
    Some(name.into_owned())
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:#[]-".contains(&byte);
    name.bytes().all(is_allowed) && (1..=NAME_BYTES_MAX).contains(&name.len())
}

fn url(node: &Node<'_>) -> Result<BackendUrl, ConfigError> {
    let text = node.text().ok_or_else(|| node.not(url::WANTED))?;
    url::parse(&text).map_err(|error| {
        let what = format!("is {}, {}", node.found(), error.what);
        node.error(what, error.hint)
    })
}
