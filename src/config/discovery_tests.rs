//! Lists good and bad, and the backends that they come to.

use super::*;

/// A configuration with these sections beside `proxy`.
fn config(sections: &str) -> Config {
    let text = format!(r#"{{"proxy": {{"port": 1}}, {sections}}}"#);
    Config::from_text("/etc/rondo/c.json", &text).unwrap()
}

fn names(config: &Config) -> Vec<&str> {
    let backends = config.backends.iter();
    backends.map(|backend| &*backend.name).collect()
}

fn read(text: &str) -> Result<Vec<BackendSettings>, String> {
    let config = config(r#""backends": [{"url": "http://own"}, {"url": "http://x", "name": "x"}]"#);
    let (file, bytes) = (Path::new("list.json"), text.as_bytes().to_vec());
    let list = config.discovery.list(file, bytes, Mode::Http);
    list.map_err(|error| error.to_string())
}

fn news(name: &str, addresses: &[&str]) -> Vec<News> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap());
    vec![News::Addresses(name.to_owned(), addresses.collect())]
}

#[test]
fn a_list_is_read_as_the_configurations_own() {
    let list = read(
        "// by a program\n[{\"url\": \"http://a:81/base\", \"weight\": 3, \"backup\": true},
          {\"url\": \"http://a:81\"}, /* one more */ {\"url\": \"http://b\", \"name\": \"c\"}]",
    );
    let list = list.unwrap();
    let names: Vec<&str> = list.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["a:81", "a:81#2", "c"]);
    assert!(list[0].weight == 3 && list[0].backup && list[0].url.base_path == "/base");
}

#[test]
fn a_wrong_list_is_an_error_with_its_place() {
    for (text, said) in [
        (
            "[{\"url\": \"http://a\"},\n {\"url\": 5}]",
            "list.json:2:10: [1].url is 5; must be",
        ),
        (
            "[{\"url\": \"http://a\", \"wieght\": 1}]",
            "list.json:1:22: [0].wieght is not a known key; did you mean \"weight\"?",
        ),
        (
            "[{\"url\": \"http://a\", \"maxconn\": 1}]",
            "[0].maxconn is not a known key; did you mean \"max_connections\"?",
        ),
        (
            "[\"http://a\"]",
            "list.json:1:2: [0] is \"http://a\"; must be an object; write",
        ),
        (
            "{\"backends\": []}",
            "list.json:1:1: the list is an object; must be a list of",
        ),
        ("[]", "list.json:1:1: the list is empty; must be a list of"),
        (" ", "list.json: is empty; the least is [{"),
        (
            "[{\"url\": \"http://a\"},\n {\"url\": \"htt",
            "list.json:2:14: not valid JSON: the file ends before the \" of line 2, column 10 is closed",
        ),
        (
            "[{\"url\": \"http://a\"} /* ",
            "list.json:1:22: has a comment that is not closed",
        ),
        (
            "[{\"url\": \"http://own\"}]",
            "list.json:1:10: [0].url makes the name \"own:80\", which a backend of the configuration has",
        ),
        (
            "[{\"url\": \"http://a\", \"name\": \"x\"}]",
            "list.json:1:30: [0].name is \"x\", which a backend of the configuration has",
        ),
        (
            "[{\"url\": \"http://a\", \"name\": \"a/b\"}]",
            "[0].name is \"a/b\"; must be 1 to 64 letters",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(said), "{error}\n{said}");
    }
}

#[test]
fn a_list_has_at_most_so_many_entries_and_bytes() {
    let list = |entries: usize| {
        let entry = r#"{"url":"http://a"}"#;
        format!("[{}]", vec![entry; entries].join(","))
    };
    assert_eq!(read(&list(ENTRIES_MAX)).unwrap().len(), ENTRIES_MAX);
    let error = read(&list(ENTRIES_MAX + 1)).unwrap_err();
    assert!(
        error.contains("has too many entries; must have at most 10000"),
        "{error}"
    );

    let directory = std::env::temp_dir().join(format!("rondo-list-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("list.json");
    std::fs::write(&file, vec![b' '; LIST.bytes_max]).unwrap();
    assert_eq!(list_bytes(&file).unwrap().len(), 4 * 1024 * 1024);
    std::fs::write(&file, vec![b' '; LIST.bytes_max + 1]).unwrap();
    let error = list_bytes(&file).unwrap_err().to_string();
    assert!(
        error.ends_with("is too large; the list has at most 4194304 bytes"),
        "{error}"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_path_begins_where_the_configuration_is() {
    let wrong = |file: &str| {
        let text = format!(r#"{{"proxy": {{"port": 1}}, "discovery": {{"file": "{file}"}}}}"#);
        Config::from_text("/nowhere/c.json", &text)
            .unwrap_err()
            .to_string()
    };
    assert!(wrong("a/list.json").starts_with("/nowhere/a/list.json: cannot be read: No such file"));
    assert!(wrong("/none/list.json").starts_with("/none/list.json: cannot be read: No such file"));
    assert!(wrong("x").ends_with("discovery.file names it; write the list before rondo starts"));
}

#[test]
fn a_name_is_one_backend_until_its_addresses_are_known_and_then_each_of_them() {
    let plain = config(
        r#""backends": [{"url": "http://web:81", "each_address": true, "weight": 7}, {"url": "http://b"}]"#,
    );
    assert_eq!(names(&plain), ["web:81", "b:80"]);
    let known = plain
        .with_news(news("web", &["192.0.2.1", "2001:db8::1"]))
        .unwrap();
    assert_eq!(
        names(&known),
        ["web:81/192.0.2.1", "web:81/2001:db8::1", "b:80"]
    );
    let member = &known.backends[1];
    assert_eq!(member.weight, 7);
    assert_eq!(member.url.to_string(), "http://web:81");
    let address = "[2001:db8::1]:81".parse().unwrap();
    assert_eq!(member.url.host.fixed_addresses(81), Some(vec![address]));
    assert_eq!(member.url.host.looked_up(), Some("web"));
    let fewer = known.with_news(news("web", &["192.0.2.1"])).unwrap();
    assert_eq!(names(&fewer), ["web:81/192.0.2.1", "b:80"]);
}

#[test]
fn what_needs_no_lookup_is_its_addresses_at_once() {
    let config = config(
        r#""backends": [{"url": "http://192.0.2.1:81", "each_address": true, "name": "a"},
            {"url": "http://localhost", "each_address": true, "name": "l"}]"#,
    );
    assert_eq!(names(&config)[..2], ["a/192.0.2.1", "l/127.0.0.1"]);
}

#[test]
fn news_of_what_nothing_asks_for_changes_nothing() {
    let plain = config(r#""backends": [{"url": "http://web"}]"#);
    let list = News::List(
        "list.json".into(),
        read(r#"[{"url": "http://a"}]"#).unwrap(),
    );
    let mut all = news("web", &["192.0.2.1"]);
    all.push(list);
    assert_eq!(plain.with_news(all).unwrap(), plain);
}

#[test]
fn more_addresses_than_can_be_are_refused() {
    let name = |number: usize| format!(r#"{{"url": "http://n{number}", "each_address": true}}"#);
    let entries: Vec<String> = (0..11).map(name).collect();
    let plain = config(&format!(r#""backends": [{}]"#, entries.join(",")));
    let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
    let thousand: Vec<IpAddr> = (0..1000).map(address).collect();
    let all = |count: usize| {
        let names =
            (0..count).map(|number| News::Addresses(format!("n{number}"), thousand.clone()));
        plain.with_news(names.collect())
    };
    assert_eq!(all(10).unwrap().backends.len(), 10_001);
    assert_eq!(
        all(11).unwrap_err(),
        "11000 addresses of names are more than 10000"
    );
}

#[test]
fn a_list_that_the_reload_of_a_configuration_does_not_fit_is_not_taken() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/list.json");
    let with = |backends: &str, last: Option<&Config>| {
        let text = format!(
            r#"{{"proxy": {{"port": 1}}, "backends": [{backends}], "discovery": {{"file": "{file}"}}}}"#
        );
        let document =
            Document::from_bytes("c.json", text.into_bytes(), &crate::config::CONFIGURATION);
        let last = last.map(|last| &last.discovery);
        Config::from_document(&document.unwrap(), Path::new("c.json"), last)
    };
    let first = with(r#"{"url": "http://a"}"#, None).unwrap();
    assert_eq!(names(&first), ["a:80", "listed"]);
    let listed = |name: &str| {
        let text = format!(r#"[{{"url": "http://l", "name": "{name}"}}]"#);
        vec![News::List(file.into(), read(&text).unwrap())]
    };
    let second = first.with_news(listed("other")).unwrap();
    assert_eq!(names(&second), ["a:80", "other"]);
    // The list in force stays, though its file says something else.
    let third = with(r#"{"url": "http://b"}"#, Some(&second)).unwrap();
    assert_eq!(names(&third), ["b:80", "other"]);
    let error = with(r#"{"url": "http://b", "name": "other"}"#, Some(&second)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.json:1:65: backends[0].name is \"other\", which a backend of the discovered list has; \
         give each backend a name of its own"
    );
    assert_eq!(third.with_news(listed("b:80")).unwrap(), third);
}

#[test]
fn a_reload_keeps_the_addresses_of_names_that_stay() {
    let with = |each: &str, last: Option<&Config>| {
        let text = format!(r#"{{"proxy": {{"port": 1}}, "backends": [{each}]}}"#);
        let document =
            Document::from_bytes("c.json", text.into_bytes(), &crate::config::CONFIGURATION);
        let last = last.map(|last| &last.discovery);
        Config::from_document(&document.unwrap(), Path::new("c.json"), last).unwrap()
    };
    let web = r#"{"url": "http://web", "each_address": true}"#;
    let first = with(web, None)
        .with_news(news("web", &["192.0.2.1"]))
        .unwrap();
    let second = with(&format!(r#"{{"url": "http://a"}}, {web}"#), Some(&first));
    assert_eq!(names(&second), ["a:80", "web:80/192.0.2.1"]);
    let without = with(r#"{"url": "http://web"}"#, Some(&second));
    assert_eq!(names(&without), ["web:80"]);
    assert_eq!(
        names(&with(web, Some(&without))),
        ["web:80"],
        "it is looked up again"
    );
}

#[test]
fn a_burst_is_taken_at_once_and_the_latest_counts() {
    let addresses = |name: &str, address: &str| {
        News::Addresses(name.to_owned(), vec![address.parse().unwrap()])
    };
    let list = |name| News::List(name, Vec::new());
    let [early, late] = ["early", "late"].map(PathBuf::from);
    let mut pending = Pending::default();
    assert_eq!((pending.due(), pending.take()), (None, Vec::new()));
    let begin = Instant::now();
    for news in [
        addresses("web", "192.0.2.1"),
        list(early),
        addresses("api", "192.0.2.3"),
        addresses("web", "192.0.2.2"),
        list(late.clone()),
    ] {
        pending.add(news, begin);
    }
    pending.add(addresses("db", "192.0.2.4"), begin + BURST / 2);
    assert_eq!(pending.due(), Some(begin + BURST));
    let latest = vec![
        addresses("api", "192.0.2.3"),
        addresses("web", "192.0.2.2"),
        list(late),
        addresses("db", "192.0.2.4"),
    ];
    assert_eq!(pending.take(), latest);
    assert_eq!((pending.due(), pending.take()), (None, Vec::new()));
}

#[test]
fn a_new_list_keeps_what_the_admin_interface_changed() {
    let list = |text: &str| read(text).unwrap();
    let mut config = config(r#""backends": [{"url": "http://own"}]"#);
    config.discovery.file = Some("l".into());
    let take = |config: &Config, text| {
        let news = News::List("l".into(), list(text));
        config.with_news(vec![news]).unwrap()
    };
    let config = take(&config, r#"[{"url": "http://c"}, {"url": "http://d"}]"#);
    assert_eq!(names(&config), ["own:80", "c:80", "d:80"]);
    let config = config.without_entry("d:80").unwrap();
    let entry = r#"{"url": "http://c", "weight": 9}"#;
    let (config, _) = config.with_entry("c:80", entry.into()).unwrap();
    let (config, _) = config
        .with_entry("n", r#"{"url": "http://n"}"#.into())
        .unwrap();
    let config = take(
        &config,
        r#"[{"url": "http://e"}, {"url": "http://d"}, {"url": "http://c"}]"#,
    );
    assert_eq!(names(&config), ["own:80", "e:80", "c:80", "n"]);
    assert_eq!(config.backends[2].weight, 9);
    // The list has lost it: it is one that was added.
    let config = take(&config, r#"[{"url": "http://d"}]"#);
    assert_eq!(names(&config), ["own:80", "c:80", "n"]);
}
