//! Backends that come and go by themselves: a list that other programs write, and the addresses of a name.

use crate::support::load::under_load;
use crate::support::proxy::{Plan, run, run_with_config};
use crate::support::{Addressed, Client, Origin, Proxy, Wire};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

const LIST: &str = "list.json";

/// A list of these.
fn list(backends: &[(&dyn Addressed, &str)]) -> String {
    let entry =
        |(backend, name): &(&dyn Addressed, &str)| json!({ "url": backend.url(), "name": name });
    let entries: Vec<Value> = backends.iter().map(entry).collect();
    json!(entries).to_string()
}

/// Over a list alone.
fn over_list(text: &str) -> Plan {
    over(&json!({ "discovery": { "file": LIST } })).file(LIST, text)
}

/// With these sections.
fn over(sections: &Value) -> Plan {
    let mut plan = Proxy::over(&[]);
    for (key, value) in sections.as_object().unwrap() {
        plan = plan.set(key, value.clone());
    }
    if sections.get("backends").is_none() {
        plan = plan.without("backends");
    }
    plan
}

/// Which origins answer the next requests.
fn answers(client: &mut Client, count: usize) -> BTreeSet<String> {
    (0..count).map(|_| client.get("/").text()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_list_is_followed_as_it_changes() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let proxy = over_list(&list(&[(&a, "a"), (&b, "b")])).start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 4), set(&["a", "b"]));
    // Written over, and not replaced: it is looked at by content.
    let next = list(&[(&b, "b"), (&c, "c")]);
    fs::write(proxy.config_file().with_file_name(LIST), next).unwrap();
    proxy.wait_for_event(&["INFO", "discovery: backends: added c; removed a; 1 kept"]);
    assert_eq!(answers(&mut client, 4), set(&["b", "c"]));
}

#[test]
fn a_list_stands_beside_the_backends_of_the_configuration() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let own = json!([{ "url": a.url(), "name": "a" }]);
    let proxy = over(&json!({ "backends": own, "discovery": { "file": LIST } }))
        .file(LIST, &list(&[(&b, "b")]))
        .start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 4), set(&["a", "b"]));
    let check = proxy.check();
    for line in [
        format!("backends      a {}", a.url().trim_end_matches('/')),
        format!("              b {}", b.url().trim_end_matches('/')),
        "discovery     1 backend of list.json, which is looked at every second".to_owned(),
    ] {
        assert!(check.contains(&line), "{line}\n{check}");
    }
    // A name that the configuration has refuses the whole list.
    proxy.replace_file(LIST, &list(&[(&c, "c"), (&b, "a")]));
    let error = proxy.wait_for_event(&["ERROR", "discovery: nothing has changed: "]);
    assert!(
        error.contains("[1].name is \"a\", which a backend of the configuration has"),
        "{error}"
    );
    assert_eq!(answers(&mut client, 4), set(&["a", "b"]));
}

#[test]
fn a_list_that_is_written_half_changes_nothing_until_it_is_whole() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let proxy = over_list(&list(&[(&a, "a")])).start();
    let file = proxy.config_file().with_file_name(LIST);
    let whole = list(&[(&b, "b")]);
    let mut client = proxy.client();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let error = proxy.wait_for_event(&["ERROR", "discovery: nothing has changed: "]);
    assert!(
        error.contains("list.json:1:") && error.contains("not valid JSON"),
        "{error}"
    );
    assert_eq!(answers(&mut client, 2), set(&["a"]));
    fs::write(&file, &whole).unwrap();
    proxy.wait_for_event(&["discovery: backends: added b; removed a; 0 kept"]);
    assert_eq!(answers(&mut client, 2), set(&["b"]));
    assert_eq!(
        proxy.events_with(&["nothing has changed"]),
        1,
        "{:?}",
        proxy.events()
    );
}

#[test]
fn a_bad_list_and_one_that_is_gone_change_nothing_and_are_said_once() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let proxy = over_list(&list(&[(&a, "a")])).start();
    let file = proxy.config_file().with_file_name(LIST);
    let mut client = proxy.client();
    for (text, said) in [
        ("[]", "list.json:1:1: the list is empty; must be"),
        (
            "[\n{\"url\": \"ftp://a\"}]",
            "list.json:2:9: [0].url is \"ftp://a\"",
        ),
    ] {
        proxy.replace_file(LIST, text);
        proxy.wait_for_event(&["discovery: nothing has changed: ", said]);
        assert_eq!(answers(&mut client, 2), set(&["a"]));
    }
    fs::remove_file(&file).unwrap();
    proxy.wait_for_event(&["list.json: cannot be read: No such file"]);
    assert_eq!(answers(&mut client, 2), set(&["a"]));
    proxy.replace_file(LIST, &list(&[(&b, "b")]));
    proxy.wait_for_event(&["discovery: backends: added b; removed a; 0 kept"]);
    assert_eq!(
        proxy.events_with(&["nothing has changed"]),
        3,
        "{:?}",
        proxy.events()
    );
}

#[test]
fn a_bad_or_missing_list_refuses_to_start() {
    let config =
        |file: &str| json!({ "proxy": { "port": 0 }, "discovery": { "file": file } }).to_string();
    for arguments in [&[][..], &["--check"]] {
        let missing = run_with_config(arguments, config("none.json"));
        assert_eq!(missing.code, 2, "{missing:?}");
        let said = "rondo: none.json: cannot be read: No such file or directory (os error 2); \
                    discovery.file names it; write the list before rondo starts\n";
        assert_eq!(missing.stderr, said);
        // A JSON file that is no list.
        let bad = run_with_config(arguments, config("config.json"));
        assert_eq!(bad.code, 2, "{bad:?}");
        let said = "rondo: config.json:1:1: the list is an object; must be a list of at least one";
        assert!(bad.stderr.starts_with(said), "{bad:?}");
        let none = run_with_config(arguments, r#"{"proxy": {"port": 0}, "discovery": {}}"#);
        assert_eq!(none.code, 2, "{none:?}");
        assert!(none.stderr.contains("backends is missing"), "{none:?}");
    }
}

#[test]
fn a_list_that_shrinks_and_grows_under_load_fails_no_request() {
    let origins: [Origin; 5] = Origin::several();
    let names = ["0", "1", "2", "3", "4"];
    let first = |count: usize| {
        let each = origins.iter().zip(names).take(count);
        let each: Vec<(&dyn Addressed, &str)> = each
            .map(|(origin, name)| (origin as &dyn Addressed, name))
            .collect();
        list(&each)
    };
    let proxy = over_list(&first(5)).start();
    let clients = (0..8).map(|_| proxy.client()).collect();
    under_load(clients, |load| {
        for (count, said) in [
            (3, "removed 3, 4; 3 kept"),
            (1, "removed 1, 2; 1 kept"),
            (4, "added 1, 2, 3; 1 kept"),
        ] {
            proxy.replace_file(LIST, &first(count));
            proxy.wait_for_event(&["discovery: backends: ", said]);
            load.goes_on(100);
        }
    });
    origins.iter().for_each(Origin::forget);
    let mut client = proxy.client();
    for _ in 0..40 {
        client.get("/");
    }
    assert_eq!(
        origins.each_ref().map(Origin::requests),
        [10, 10, 10, 10, 0]
    );
}

#[test]
fn a_reload_keeps_the_list_and_reads_another_one_where_the_key_changes() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let mut proxy = over_list(&list(&[(&a, "a")]))
        .file("other.json", &list(&[(&c, "c")]))
        .start();
    let mut client = proxy.client();
    let outcome = proxy.reload(|config| {
        config["backends"] = json!([{ "url": b.url(), "name": "b" }]);
    });
    assert!(
        outcome.contains("reloaded: backends: added b; 1 kept"),
        "{outcome}"
    );
    assert_eq!(answers(&mut client, 4), set(&["a", "b"]));
    let outcome = proxy.reload(|config| config["backends"][0]["name"] = json!("a"));
    assert!(
        outcome.contains("not reloaded, nothing has changed: ")
            && outcome
                .contains("backends[0].name is \"a\", which a backend of the discovered list has"),
        "{outcome}"
    );
    let outcome = proxy.reload(|config| config["discovery"]["file"] = json!("other.json"));
    assert!(
        outcome.contains("added c; removed a; 1 kept; changed keys: discovery.file"),
        "{outcome}"
    );
    assert_eq!(answers(&mut client, 4), set(&["b", "c"]));
    let outcome = proxy.reload(|config| config["discovery"]["file"] = json!("none.json"));
    assert!(
        outcome.contains("not reloaded") && outcome.contains("none.json: cannot be read"),
        "{outcome}"
    );
    let outcome = proxy.reload(|config| config["discovery"] = json!({}));
    assert!(outcome.contains("removed c; 1 kept"), "{outcome}");
    assert_eq!(answers(&mut client, 2), set(&["b"]));
}

/// A list may be named where there was none.
#[test]
fn a_reload_brings_a_list() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let mut proxy = Proxy::over(&[&a]).file(LIST, &list(&[(&b, "b")])).start();
    proxy.reload(|config| config["discovery"] = json!({ "file": LIST }));
    assert_eq!(answers(&mut proxy.client(), 4), set(&["a", "b"]));
    proxy.replace_file(LIST, &list(&[(&c, "c")]));
    proxy.wait_for_event(&["discovery: backends: added c; removed b; 1 kept"]);
}

/// A server on a loopback address that a name has, on the port that all of them share.
fn serve(address: SocketAddr, name: &'static str) -> Option<SocketAddr> {
    let listener = TcpListener::bind(address).ok()?;
    let address = listener.local_addr().ok()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut wire = Wire::new(stream);
                while wire.next_request().is_some() {
                    wire.answer(name);
                }
            });
        }
    });
    Some(address)
}

/// Whether a process can have an `/etc/hosts` of its own here.
fn may_have_own_hosts() -> bool {
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount --bind /etc/hosts /etc/hosts"])
        .stderr(Stdio::null())
        .status();
    let may = status.is_ok_and(|status| status.success());
    if !may {
        println!("skipped: no mount namespace may be made here");
    }
    may
}

/// The configuration of README for Docker compose, whose name server is `/etc/hosts` here: a service of two containers, one
/// of which is replaced.
#[test]
fn the_addresses_of_a_name_are_backends_that_come_and_go() {
    if !may_have_own_hosts() {
        return;
    }
    let (three, four) = std::iter::repeat_with(|| {
        let three = serve(([127, 0, 0, 3], 0).into(), "three")?;
        Some((three, serve(([127, 0, 0, 4], three.port()).into(), "four")?))
    })
    .find_map(|found| found)
    .unwrap();
    let hosts = |addresses: &[&str]| -> String {
        let lines: Vec<String> = addresses.iter().map(|it| format!("{it} web\n")).collect();
        lines.concat()
    };
    let mut entry: Value = serde_json::from_str(&readme_line("each_address")).unwrap();
    entry["url"] = json!(format!("http://web:{}", three.port()));
    entry["name"] = json!("web");
    let mut proxy = over(&json!({ "backends": [entry] }))
        .file("hosts", &hosts(&["127.0.0.2", "127.0.0.3"]))
        .own_hosts()
        .start();
    proxy.wait_for_event(&[
        "discovery: backends: added web/127.0.0.2, web/127.0.0.3; removed web; 0 kept",
    ]);
    let check = proxy.check();
    for line in [
        format!(
            "backends      web http://web:{} weight 1, each address",
            three.port()
        ),
        "discovery     each address of 1 name: not looked up here, and counted as one backend each"
            .to_owned(),
    ] {
        assert!(check.contains(&line), "{line}\n{check}");
    }
    // Nothing listens on the first: it refuses, and the name is looked up.
    let file = proxy.config_file().with_file_name("hosts");
    fs::write(file, hosts(&["127.0.0.4", "127.0.0.3"])).unwrap();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 2), set(&["three"]));
    proxy.wait_for_event(&[
        "discovery: backends: added web/127.0.0.4; removed web/127.0.0.2; 1 kept",
    ]);
    assert_eq!(answers(&mut client, 2), set(&["three", "four"]));
    let _ = four;
    let access = proxy.wait_for_access(" web/127.0.0.4 ");
    assert!(access.contains(" 200 "), "{access}");
    let one = Origin::start("one");
    let outcome = proxy.reload(|config| {
        let backends = config["backends"].as_array_mut().unwrap();
        backends.push(json!({ "url": one.url(), "name": "one" }));
    });
    assert!(
        outcome.contains("reloaded: backends: added one; 2 kept"),
        "{outcome}"
    );
    assert_eq!(answers(&mut client, 6), set(&["three", "four", "one"]));
}

#[test]
fn a_name_whose_every_address_is_a_backend_needs_no_answer_at_the_start() {
    let origin = Origin::start("one");
    let proxy = over(&json!({ "backends": [
        { "url": "http://no-such-host.invalid:81/", "each_address": true },
        { "url": origin.url() },
        { "url": format!("http://localhost:{}", origin.address().port()), "name": "l", "each_address": true },
    ] }))
    .start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 6), set(&["one"]));
    proxy.wait_for_access(" l/127.0.0.1 ");
}

/// The line of README's section that contains this.
fn readme_line(part: &str) -> String {
    let readme = include_str!("../../README.md");
    let section = readme
        .split("\n## ")
        .find(|it| it.starts_with("Backends that come and go"));
    let lines = section
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("    "));
    let mut found = lines.filter(|line| line.contains(part));
    found
        .next()
        .unwrap_or_else(|| panic!("no line with {part:?}"))
        .to_owned()
}

/// What Consul 1.18 answers to `/v1/health/service/web?passing`, but for what is left out of each object.
const CONSUL: &str = r#"[
    {"Node": {"ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": "n1", "Address": "10.1.10.12", "Datacenter": "dc1"},
     "Service": {"ID": "web-1", "Service": "web", "Tags": [], "Address": "10.1.10.77", "Port": 8000,
        "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": false},
     "Checks": [{"Node": "n1", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Output": ""}]},
    {"Node": {"ID": "8f2a35a4-8a4d-4b9c-9f0f-3b6f6b9b8f0a", "Node": "n2", "Address": "10.1.10.13", "Datacenter": "dc1"},
     "Service": {"ID": "web-2", "Service": "web", "Tags": [], "Address": "", "Port": 8000,
        "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false},
     "Checks": []}
]"#;

#[test]
fn the_lines_of_readme_make_lists_of_what_the_tools_say() {
    let has_jq = Command::new("jq")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !has_jq.is_ok_and(|status| status.success()) {
        println!("skipped: jq was not found");
        return;
    }
    let directory = std::env::temp_dir().join(format!("rondo-readme-{}", std::process::id()));
    let folder = directory.join("backends.d");
    fs::create_dir_all(&folder).unwrap();
    // In place of Consul: its answer, or nothing and an error.
    let curl = directory.join("curl");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *127.0.0.1:8500/v1/health/service/web?passing*) ;; *) exit 2 ;; esac\n\
         test ! -e {0}/down || exit 7\ncat {0}/consul\n",
        directory.display()
    );
    fs::write(&curl, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&curl, mode).unwrap();
    let shell = |line: &str| {
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        let line = line.trim_start_matches("$ ").to_owned();
        let shell = Command::new("sh")
            .args(["-c", &line])
            .env("PATH", path)
            .current_dir(&directory)
            .status();
        shell.unwrap().success()
    };
    // The backends by `--check`, or the error.
    let config = directory.join("config.json");
    fs::write(
        &config,
        r#"{"proxy": {"port": 0}, "discovery": {"file": "backends.json"}}"#,
    )
    .unwrap();
    let check = || run(&["--check", config.to_str().unwrap()]);

    let consul = readme_line("/v1/health/service/web");
    fs::write(directory.join("consul"), CONSUL).unwrap();
    assert!(shell(&consul));
    let said = check().stdout;
    for line in [
        "10.1.10.77:8000 http://10.1.10.77:8000 weight 10",
        "10.1.10.13:8000 http://10.1.10.13:8000 weight 1",
        "discovery     2 backends of ",
    ] {
        assert!(said.contains(line), "{said}");
    }
    // Where Consul does not answer the list stays.
    fs::write(directory.join("down"), "").unwrap();
    assert!(!shell(&consul));
    assert_eq!(check().stdout, said);

    let files = readme_line("backends.d/");
    for (name, entry) in [
        ("a.json", r#"{"url": "http://10.0.0.1:8081"}"#),
        ("b.json", r#"{"url": "http://10.0.0.2:8081", "weight": 2}"#),
    ] {
        fs::write(folder.join(name), entry).unwrap();
    }
    assert!(shell(&files));
    let said = check().stdout;
    for line in [
        "10.0.0.1:8081 http://10.0.0.1:8081 weight 1",
        "10.0.0.2:8081 weight 2",
    ] {
        assert!(said.contains(line), "{said}");
    }
    // Half a file among them: the list stays.
    fs::write(folder.join("b.json"), r#"{"url": "#).unwrap();
    assert!(!shell(&files));
    assert_eq!(check().stdout, said);
    fs::remove_dir_all(&directory).unwrap();
}
