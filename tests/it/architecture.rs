//! The rules of the source: which part may import which, what no code does, how a file begins.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom: a part may import parts of the rows above its own in this list, never of its own row or below.
const LAYERS: &[&[&str]] = &[
    &["guide", "net", "text"],
    &["http", "log", "traffic"],
    &["pool"],
    &["ask", "checks", "commands", "config"],
    &["cli", "live"],
    &["exchange"],
    &["metrics"],
    &[
        "checker",
        "discovery",
        "listener",
        "reload",
        "resolver",
        "signals",
        "simulate",
        "worker",
    ],
    &["admin"],
    &["change", "memory"],
    &["server"],
    &["demo", "health_request"],
    &["main"],
];

/// Packages that the program may stand on where the processor has no 64-bit atomics.
const PACKAGES_WITHOUT_ATOMICS: &[&str] = &["portable-atomic"];

/// Packages that the program may stand on.
const PACKAGES: &[&str] = &[
    "crossbeam-channel",
    "httparse",
    "log",
    "rustix",
    "serde",
    "serde_json",
    "signal-hook",
    "simple_logger",
    "socket2",
];

struct Source {
    path: PathBuf,
    /// The part it belongs to: the first name under `src/`, of which `_tests` is no part.
    part: String,
    text: String,
}

impl Source {
    /// Its lines without comments and tests, numbered from 1.
    fn code(&self) -> Vec<(usize, &str)> {
        let path = self.path.with_extension("");
        let is_of_tests = |name: &str| name == "tests" || name.ends_with("_tests");
        if path.iter().any(|name| is_of_tests(&name.to_string_lossy())) {
            return Vec::new();
        }
        let mut lines: Vec<(usize, &str)> = Vec::new();
        // The tests of a file are at its end, and a file of tests is declared among the modules.
        let mut all = self.text.lines().enumerate().peekable();
        while let Some((index, line)) = all.next() {
            if line.starts_with("#[cfg(test)]") {
                if all.next_if(|(_, next)| next.ends_with(';')).is_some() {
                    continue;
                }
                break;
            }
            if !line.trim_start().starts_with("//") {
                lines.push((index + 1, line.split(" // ").next().unwrap()));
            }
        }
        lines
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.iter().next().unwrap().to_string_lossy();
                let part = first
                    .trim_end_matches(".rs")
                    .trim_end_matches("_tests")
                    .to_owned();
                found.push(Source {
                    part,
                    text: fs::read_to_string(&path).unwrap(),
                    path: inside.to_owned(),
                });
            }
        }
    }
    assert!(found.len() > 2);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Every `(line, place)` where `find` says something about a line of code.
fn complaints(find: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let mut all = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            if let Some(complaint) = find(&source, line) {
                all.push(format!(
                    "src/{}:{number}: {complaint}: {}",
                    source.path.display(),
                    line.trim()
                ));
            }
        }
    }
    all
}

fn layer(part: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&part))
}

/// The parts that one piece of code names after `crate::`, groups in braces included.
fn named_parts(code: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => parts.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(letter),
                    _ => {}
                }
            }
            parts.push(name);
        } else {
            parts.push(rest.to_owned());
        }
    }
    let first_word = |part: String| -> String {
        part.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    parts
        .into_iter()
        .map(first_word)
        .filter(|part| !part.is_empty())
        .collect()
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.part == "lib" || source.part == "main" {
            continue;
        }
        let Some(own) = layer(&source.part) else {
            wrong.push(format!(
                "src/{} belongs to no layer of this test",
                source.path.display()
            ));
            continue;
        };
        let lines: Vec<&str> = source.code().into_iter().map(|(_, line)| line).collect();
        let code = lines.join("\n");
        for part in named_parts(&code) {
            if part == source.part || part.chars().next().is_some_and(char::is_uppercase) {
                continue;
            }
            if layer(&part).is_none_or(|other| other >= own) {
                wrong.push(format!(
                    "src/{} imports crate::{part}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn children_never_import_their_parent() {
    let wrong = complaints(|_, line| {
        line.contains("super::")
            .then(|| "imports its parent".to_owned())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_unsafe() {
    let wrong = complaints(|_, line| {
        let words: Vec<&str> = line
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .collect();
        words.contains(&"unsafe").then(|| "unsafe".to_owned())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    let library = sources()
        .into_iter()
        .find(|source| source.part == "lib")
        .unwrap();
    assert!(library.text.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn a_socket_has_one_owner() {
    let wrong = complaints(|_, line| {
        [
            ".try_clone()",
            "Arc<TcpStream>",
            "Rc<TcpStream>",
            "Arc<Socket>",
        ]
        .iter()
        .find(|word| line.contains(**word))
        .map(|word| format!("{word} shares a socket"))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_protocol_knows_no_socket_clock_or_thread() {
    let wrong = complaints(|source, line| {
        let forbidden = [
            "TcpStream",
            "TcpListener",
            "std::time",
            "Instant",
            "std::thread",
            "socket2",
            "rustix",
            "io::Read",
            "Mutex",
        ];
        if source.part != "http" {
            return None;
        }
        forbidden
            .iter()
            .find(|word| line.contains(**word))
            .map(|word| format!("{word} in http/"))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What only these files may do, because they decide it for all.
#[test]
fn some_things_are_decided_in_one_place() {
    type Rule = (&'static str, &'static [&'static str], fn(&str) -> bool);
    const RULES: [Rule; 3] = [
        // The origins of the demonstration are the other side.
        ("starts a thread", &["net/thread.rs", "demo.rs"], |line| {
            ["thread::spawn", "thread::scope", "Builder::new"]
                .iter()
                .any(|word| line.contains(word))
        }),
        ("recovers a lock", &["net/lock.rs"], |line| {
            line.contains("PoisonError") || line.contains("into_inner")
        }),
        (
            "is missing where there are no 64-bit atomics",
            &["net/atomic.rs"],
            |line| {
                let is_std = line.contains("sync::atomic");
                is_std && (line.contains("AtomicU64") || line.contains("AtomicI64"))
            },
        ),
    ];
    for (what, places, is_broken) in RULES {
        let wrong = complaints(|source, line| {
            let is_elsewhere = places.iter().all(|place| source.path != Path::new(place));
            (is_elsewhere && is_broken(line)).then(|| what.to_owned())
        });
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// What these files share between threads, the model checker must know (`tests/model`).
#[test]
fn the_hand_over_is_made_of_what_the_model_replaces() {
    let files = [
        "commands.rs",
        "net/admission.rs",
        "net/bell.rs",
        "net/mailbox.rs",
        "net/published.rs",
    ];
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/src");
    let model = ["lib.rs", "net/mod.rs"].map(|file| fs::read_to_string(model.join(file)).unwrap());
    let model = model.concat();
    for file in files {
        assert!(model.contains(&format!("/src/{file}\"")), "{file}");
    }
    let wrong = complaints(|source, line| {
        let is_one = files.iter().any(|file| source.path == Path::new(file));
        let words = [
            "sync::atomic",
            "Mutex}",
            "sync::Mutex",
            "crossbeam_channel",
            "Condvar}",
            "{Condvar",
            "sync::Condvar",
        ];
        let is_from_elsewhere = words.iter().any(|word| line.contains(word));
        let is_ours = line.contains("crate::net::sync");
        (is_one && is_from_elsewhere && !is_ours).then(|| "not from net/sync.rs".to_owned())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_is_no_async() {
    let wrong = complaints(|_, line| {
        [
            "async fn",
            ".await;",
            ".await?",
            ".await.",
            "dyn Future",
            "impl Future",
        ]
        .iter()
        .find(|word| line.contains(**word))
        .map(|word| (*word).to_owned())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_begins_with_what_it_is_about() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "src/{} begins with something else",
            source.path.display()
        );
    }
}

/// The file that a file's head tells to read next.
fn read_next(text: &str) -> Option<&str> {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    let mut lines = head.filter_map(|line| line.strip_prefix("//! Read next: `"));
    lines.next()?.split('`').next()
}

#[test]
fn every_read_next_has_one_form_and_names_a_file() {
    let sources = sources();
    for source in &sources {
        let own = source.path.display();
        let marks = source.text.lines().filter(|line| line.contains("ead next"));
        let is_marked = read_next(&source.text).is_some();
        assert_eq!(marks.count(), usize::from(is_marked), "src/{own}");
        if let Some(next) = read_next(&source.text) {
            let exists = sources.iter().any(|other| other.path == Path::new(next));
            assert!(exists, "src/{own} says to read {next} next");
        }
    }
}

#[test]
fn the_core_path_in_the_map_is_one_chain_of_an_evenings_length() {
    let sources = sources();
    let source = |path: &str| sources.iter().find(|source| source.path == Path::new(path));
    let map = &source("lib.rs").expect("the map is there").text;
    let path: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once(".rs` |"))
        .map(|(name, _)| name)
        .collect();
    assert!(path.len() > 10, "{path:?}");
    let mut lines = 0;
    for (index, name) in path.iter().enumerate() {
        let file = source(&format!("{name}.rs")).unwrap_or_else(|| panic!("{name}.rs is missing"));
        lines += file.code().last().map_or(0, |(number, _)| *number);
        let next = read_next(&file.text);
        match path.get(index + 1) {
            Some(expected) => assert_eq!(next, Some(&*format!("{expected}.rs")), "in {name}.rs"),
            None => assert!(next.is_some(), "{name}.rs ends the path"),
        }
    }
    let promised = map
        .split("about ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let promised: usize = promised.replace(',', "").parse().unwrap();
    assert!(
        lines.abs_diff(promised) < promised / 10,
        "{lines} lines, and the map says {promised}"
    );
}

#[test]
fn every_expect_says_what_makes_it_safe() {
    let wrong = complaints(|_, line| {
        let text = line.split(".expect(\"").nth(1)?.split('"').next()?;
        (text.split(' ').count() < 3).then(|| "states no invariant".to_owned())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn it_stands_on_no_other_package() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut found = 0;
    for section in manifest.split("\n[") {
        let (title, lines) = section.split_once('\n').unwrap();
        let allowed = match title {
            "dependencies]" => PACKAGES,
            r#"target.'cfg(not(target_has_atomic = "64"))'.dependencies]"# => {
                PACKAGES_WITHOUT_ATOMICS
            }
            _ => {
                let is_of_tests = title == "dev-dependencies]";
                assert!(is_of_tests || !title.contains("dependencies"), "{title}");
                continue;
            }
        };
        let mut names: Vec<&str> = lines
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains('='))
            .map(|line| line.split('=').next().unwrap().trim())
            .collect();
        names.sort_unstable();
        assert_eq!(names, allowed);
        found += 1;
    }
    assert_eq!(found, 2);
}
