//! What the admin interface tells: its documents hold what src/admin/documents.md says of them, key by key, and its page is
//! the one that was tested in a browser.

use crate::support::admin::{TOKEN, address, ask, ask_raw, get};
use crate::support::client::get as proxied;
use crate::support::proxy::Plan;
use crate::support::{Addressed, Backend, Holding, Origin, Proxy, Refusing, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

const DOCUMENTS: &str = include_str!("../../src/admin/documents.md");
const PAGE: &str = include_str!("../../src/admin/page.html");
const PAGE_COMPRESSED: &[u8] = include_bytes!("../../src/admin/page.html.gz");
const PAGE_POLICY: &str = include_str!("../../src/admin/page.csp");

fn plan(backends: &[&dyn Addressed]) -> Plan {
    Proxy::over(backends)
        .set("admin.address", "127.0.0.1:0")
        .set("admin.token", TOKEN)
}

/// The keys that the tables below a heading document, with their types; a table for each.
fn tables(heading: &str) -> Vec<BTreeMap<String, String>> {
    let lines = DOCUMENTS
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1);
    let section = lines.take_while(|line| !line.starts_with('#'));
    let mut tables = Vec::new();
    let mut is_in_table = false;
    for line in section {
        if line.starts_with("|---") {
            tables.push(BTreeMap::new());
            is_in_table = true;
        } else if !line.starts_with('|') {
            is_in_table = false;
        } else if is_in_table {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let keys = cells[1].split(", ").map(|key| key.trim_matches('`'));
            let types: Vec<&str> = cells[2].split(", ").collect();
            for (place, key) in keys.enumerate() {
                let kind = types.get(place).unwrap_or(&types[0]);
                let table: &mut BTreeMap<_, _> = tables.last_mut().unwrap();
                table.insert(key.to_owned(), (*kind).to_owned());
            }
        }
    }
    assert!(!tables.is_empty(), "{heading} has no table");
    tables
}

/// The value has all keys of a table and no others, each of its type. What the table calls optional may be missing.
#[track_caller]
fn expect_keys(value: &Value, table: &BTreeMap<String, String>, optional: &[&str]) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"));
    for key in object.keys() {
        assert!(table.contains_key(key), "{key} is not documented");
    }
    for (key, kind) in table {
        let Some(value) = object.get(key) else {
            assert!(optional.contains(&&**key), "{key} is missing in {value}");
            continue;
        };
        let list_of =
            |is: fn(&Value) -> bool| value.as_array().is_some_and(|list| list.iter().all(is));
        let fits = kind.split(" or ").any(|kind| match kind {
            "text" => value.is_string(),
            "number" => value.is_number(),
            "true" | "false" => value.is_boolean(),
            "null" => value.is_null(),
            "object" => value.is_object(),
            "list" => value.is_array(),
            "list of texts" => list_of(Value::is_string),
            "list of numbers" => list_of(Value::is_number),
            other => panic!("a type {other:?}"),
        });
        assert!(fits, "{key} is {value}, and not {kind}");
        if value.is_number()
            && !key.ends_with("_ms")
            && !key.ends_with("_percent")
            && key != "requests_per_second"
        {
            assert!(value.is_u64(), "{key} is {value}");
        }
    }
}

fn named<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut backends = status["backends"].as_array().unwrap().iter();
    backends.find(|backend| backend["name"] == name).unwrap()
}

#[test]
fn the_status_has_the_documented_keys() {
    let (origin, dead) = (Origin::start("one"), Refusing::start());
    let proxy = plan(&[&origin, &dead])
        .set("backends.0.name", "good")
        .set("backends.1.name", "dead")
        .set("backends.0.max_connections", 7)
        .checks(json!({ "kind": "tcp" }))
        .start();
    let admin = address(&proxy);
    proxy.wait_for_event(&["is down"]);
    for _ in 0..3 {
        proxy.client().get("/");
    }
    let checked = |status: &Value| {
        let backends = status["backends"].as_array().unwrap().iter();
        backends
            .filter(|backend| !backend["check"].is_null())
            .count()
            == 2
    };
    eventually("both are checked, and the exchanges are over", || {
        let status = get(admin, "/status");
        checked(&status)
            && status["traffic"]["answers"]["2xx"] == 3
            && status["connections"]["open"] == 0
    });
    let [top, connections, backend] = &tables("## Status")[..] else {
        panic!("three tables");
    };
    let traffic = &tables("### Traffic")[0];
    for (target, without) in [("/status", &[][..]), ("/status?history=0", &["history"])] {
        let status = get(admin, target);
        expect_keys(&status, top, &[]);
        expect_keys(&status["connections"], connections, &[]);
        expect_keys(&status["traffic"], traffic, without);
        assert_eq!(
            status["traffic"].get("history").is_some(),
            without.is_empty()
        );
        for each in status["backends"].as_array().unwrap() {
            expect_keys(each, backend, &[]);
            expect_keys(&each["traffic"], traffic, without);
            let check = each["check"].as_object().unwrap();
            let mut keys: Vec<&str> = check.keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["at_unix_ms", "kind", "passed", "reason", "took_ms"]);
        }
        for (section, keys) in [
            (&status["memory"], &["bound_bytes", "resident_bytes"][..]),
            (
                &status["traffic"]["last_minute"],
                &["answers_5xx", "failed", "requests", "retries"],
            ),
        ] {
            let mut found: Vec<&str> = section
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            found.sort_unstable();
            assert_eq!(found, keys);
        }
    }

    let status = get(admin, "/status");
    let summary = "1 of 2 backends up, 1 down; ";
    assert!(
        status["summary"].as_str().unwrap().starts_with(summary),
        "{status}"
    );
    assert!(
        status["summary"]
            .as_str()
            .unwrap()
            .ends_with(" requests/s; 0 failed in the last minute")
    );
    assert_eq!(status["level"], "warning");
    assert_eq!(status["listeners"], json!([proxy.address().to_string()]));
    let file = status["config_file"].as_str().unwrap();
    assert!(file.ends_with("config.json"), "{file}");
    let (good, dead) = (named(&status, "good"), named(&status, "dead"));
    assert_eq!(
        (&good["state"], &dead["state"]),
        (&json!("up"), &json!("down"))
    );
    assert_eq!(good["check"]["reason"], "connected");
    assert_eq!(
        (&good["reason"], &good["share_wanted_percent"]),
        (&json!("start"), &json!(100))
    );
    assert!(
        dead["reason"].as_str().unwrap().contains("refused"),
        "{dead}"
    );
    assert_eq!(dead["reason"], dead["check"]["reason"]);
    assert_eq!(
        (&good["traffic"]["requests"], &good["share_got_percent"]),
        (&json!(3), &json!(100))
    );
    assert_eq!(good["max_connections"], 7);
    let memory = &status["memory"];
    assert!(
        memory["resident_bytes"].as_u64().unwrap() / 1024 >= 1000,
        "{memory}"
    );
    assert!(
        memory["bound_bytes"].as_u64() > memory["resident_bytes"].as_u64(),
        "{memory}"
    );
    let check = proxy.check();
    let mib = memory["bound_bytes"].as_u64().unwrap().div_ceil(1 << 20);
    assert!(
        check.contains(&format!("at most {mib} MiB resident in all")),
        "{check}"
    );
}

#[test]
fn what_is_under_way_and_what_failed_shows_at_once() {
    let (origin, dead) = (Holding::start("one"), Refusing::start());
    let proxy = plan(&[&origin])
        .set("backends.0.name", "one")
        .one_worker()
        .start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    client.send(proxied("/hold"));
    let _idle = proxy.client();
    eventually("one is held and one is idle", || {
        let status = get(admin, "/status");
        let connections = &status["connections"];
        named(&status, "one")["in_flight"] == 1
            && connections["exchanging"] == 1
            && connections["idle"] == 1
    });
    assert_eq!(get(admin, "/status")["level"], "ok");
    origin.release();
    client.read_response();

    let proxy = plan(&[&dead]).start();
    let admin = address(&proxy);
    assert_eq!(proxy.client().get("/").status, 502);
    eventually("the failure shows", || {
        let status = get(admin, "/status");
        status["level"] == "trouble"
            && status["traffic"]["last_minute"]["failed"] == 1
            && status["traffic"]["failures"] == json!({ "connect_failed": 1 })
            && status["backends"][0]["traffic"]["failures"]["connect_failed"] == 1
    });
}

#[test]
fn a_failed_reload_is_a_warning_until_the_next_good_one() {
    let origin = Origin::start("one");
    let mut proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    proxy.reload_text("{");
    let status = get(admin, "/status");
    assert_eq!(status["level"], "warning");
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("The last reload failed: "), "{warning}");
    proxy.reload(|_| {});
    assert_eq!(get(admin, "/status")["warnings"], json!([]));
}

#[test]
fn the_decisions_have_the_documented_keys_and_are_selected() {
    let dead = Refusing::start();
    let answers = ["200 OK", "500 Internal Server Error"];
    let origin = Backend::start().run(move |_, mut wire| {
        while let Some(request) = wire.next_request() {
            let answer = answers[usize::from(request.target == "/500")];
            wire.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nok"));
        }
    });
    let proxy = plan(&[&dead, &origin])
        .set("backends.0.name", "dead")
        .set("backends.1.name", "good")
        .one_worker()
        .start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    client.get("/first");
    client.get("/500");
    client.get("/last");
    eventually("all are recorded", || {
        get(admin, "/decisions").as_array().unwrap().len() == 3
    });
    let all = get(admin, "/decisions");
    let table = &tables("## Decisions")[0];
    for decision in all.as_array().unwrap() {
        expect_keys(decision, table, &[]);
    }
    let lines = |target: &str| -> Vec<String> {
        let decisions = get(admin, target);
        let decisions = decisions.as_array().unwrap().iter();
        let line = |decision: &Value| {
            decision["request"]
                .as_str()
                .unwrap()
                .replace(" HTTP/1.1", "")
        };
        decisions.map(line).collect()
    };
    assert_eq!(lines("/decisions"), ["GET /last", "GET /500", "GET /first"]);
    assert_eq!(lines("/decisions?limit=2"), ["GET /last", "GET /500"]);
    assert_eq!(lines("/decisions?only=errors"), ["GET /500"]);
    assert_eq!(lines("/decisions?only=retries"), ["GET /first"]);
    assert_eq!(lines("/decisions?limit=1&only=retries"), ["GET /first"]);
    assert_eq!(lines("/decisions?limit=0"), [""; 0]);
    for wrong in [
        "only=all",
        "limit=-1",
        "limit=1&limit=2",
        "limit",
        "only=errors&x=y",
        "history=0",
    ] {
        assert_eq!(
            ask(admin, "GET", &format!("/decisions?{wrong}"), "").status,
            400,
            "{wrong}"
        );
    }

    let repeated = &get(admin, "/decisions?only=retries")[0];
    let tries = repeated["tries"].as_array().unwrap();
    assert_eq!(
        (&tries[0]["backend"], &tries[0]["outcome"]),
        (&json!("dead"), &json!("connect failed"))
    );
    assert_eq!(
        (&tries[1]["backend"], &tries[1]["outcome"]),
        (&json!("good"), &json!("answered"))
    );
    assert_eq!(
        (&tries[0]["status"], &tries[1]["status"]),
        (&Value::Null, &json!(200))
    );
    let ms = |value: &Value| value.as_f64().unwrap();
    assert!(
        ms(&tries[1]["began_ms"]) >= ms(&tries[0]["began_ms"]) + ms(&tries[0]["took_ms"]) - 0.002
    );
    assert_eq!(
        (&repeated["error"], &repeated["client"]),
        (&Value::Null, &json!("127.0.0.1"))
    );
    assert_eq!(
        get(admin, "/decisions?only=errors")[0]["error"],
        "status 500"
    );
}

#[test]
fn of_many_backends_the_decisions_count_those_that_they_do_not_name() {
    let origin = Origin::start("one");
    let backend = |number: usize| json!({ "url": origin.url(), "name": format!("backend-{number}"), "weight": u8::from(number > 4) });
    let proxy = plan(&[&origin])
        .set("backends", (0..40).map(backend).collect::<Vec<_>>())
        .start();
    let admin = address(&proxy);
    proxy.client().get("/");
    eventually("it is recorded", || get(admin, "/decisions") != json!([]));
    let decision = &get(admin, "/decisions")[0];
    let candidates = decision["candidates"].as_array().unwrap();
    assert!(candidates.len() <= 16, "{decision}");
    let others = decision["others"].as_object().unwrap();
    let others: u64 = others.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(candidates.len() as u64 + others, 40, "{decision}");
    assert_eq!(decision["others"]["weight 0"], 5, "{decision}");
}

#[test]
fn the_configuration_is_whole_but_for_the_token() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin])
        .set("admin.hosts", vec!["lb.example"])
        .set("timeouts.connect", "90s")
        .start();
    let admin = address(&proxy);
    let response = ask(admin, "GET", "/config", "");
    let text = String::from_utf8(response.body).unwrap();
    assert!(!text.contains(TOKEN) && !text.contains("token"), "{text}");
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        config["admin"],
        json!({ "address": "127.0.0.1:0", "hosts": ["lb.example"] })
    );
    assert_eq!(
        (
            &config["timeouts"]["connect"],
            &config["timeouts"]["response_head"]
        ),
        (&json!("90s"), &json!("1m"))
    );
    let url = config["backends"][0]["url"].as_str().unwrap();
    assert_eq!(url, origin.url().trim_end_matches('/'));
    // The same document starts the same again.
    let again = Proxy::over(&[&origin]);
    let again = config
        .as_object()
        .unwrap()
        .iter()
        .fold(again, |plan, (section, value)| {
            plan.set(section, value.clone())
        });
    let again = again.start();
    let mut other = get(address(&again), "/config");
    other["proxy"]["port"] = config["proxy"]["port"].clone();
    assert_eq!(other, config);
}

#[test]
fn what_comes_from_outside_is_escaped_in_every_document() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    client.send("GET /<script>alert(1)</script>\"'& HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"><img/src=x>\r\n\r\n");
    client.read_response();
    eventually("it is recorded", || get(admin, "/decisions") != json!([]));
    // That it is JSON is what `get` has shown; here it has come through unchanged.
    let decision = &get(admin, "/decisions")[0];
    assert_eq!(
        decision["request"],
        "GET /<script>alert(1)</script>\"'& HTTP/1.1"
    );
    assert_eq!(decision["request_id"], "\"><img/src=x>");
    for target in ["/decisions", "/status", "/config"] {
        let response = ask(admin, "GET", target, "");
        assert_eq!(
            response.fields.one("Content-Type"),
            Some("application/json")
        );
        assert_eq!(
            response.fields.one("X-Content-Type-Options"),
            Some("nosniff")
        );
    }
}

/// What `gzip -dc` makes of this.
fn decompressed(bytes: &[u8]) -> String {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("every Linux has gzip");
    let mut stdin = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "gzip finds no fault");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page_in_the_program_is_the_page_in_the_file() {
    let (front, _) = PAGE.split_once("<!--TABLE-->").unwrap();
    assert!(
        decompressed(PAGE_COMPRESSED) == front,
        "scripts/browser --policy writes it again"
    );
}

#[test]
fn the_page_comes_with_its_policy_and_a_table_for_browsers_without_scripts() {
    let (origin, dead) = (Origin::start("one"), Refusing::start());
    let proxy = plan(&[&origin, &dead])
        .set("backends.0.name", "good")
        .set("backends.1.name", "dead")
        .start();
    let admin = address(&proxy);
    proxy.client().get("/");
    proxy.client().get("/");
    proxy.wait_for_event(&["is down"]);
    let page = |encoding: &str| {
        ask_raw(
            admin,
            format!("GET / HTTP/1.1\r\nHost: {admin}\r\n{encoding}\r\n"),
        )
    };
    for (encoding, is_compressed) in [
        ("Accept-Encoding: gzip, deflate, br, zstd\r\n", true),
        (
            "Accept-Encoding: br\r\nAccept-Encoding: deflate, GZIP;q=0.5\r\n",
            true,
        ),
        ("Accept-Encoding: gzip;q=0, br\r\n", false),
        ("Accept-Encoding: gzip;q=0.000\r\n", false),
        ("Accept-Encoding: xgzip\r\n", false),
        ("", false),
    ] {
        let response = page(encoding);
        assert_eq!(response.status, 200);
        for (name, value) in [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", PAGE_POLICY.trim_end()),
            ("Referrer-Policy", "no-referrer"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ] {
            assert_eq!(response.fields.one(name), Some(value));
        }
        let found = response.fields.one("Content-Encoding");
        assert_eq!(found, is_compressed.then_some("gzip"), "{encoding}");
        let text = if is_compressed {
            let text = decompressed(&response.body);
            let (front, end) = PAGE.split_once("<!--TABLE-->").unwrap();
            assert!(text.starts_with(front) && text.ends_with(end));
            text[front.len()..text.len() - end.len()].to_owned()
        } else {
            String::from_utf8(response.body).unwrap()
        };
        let place = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part} is not in {text}"))
        };
        place("1 of 2 backends up, 1 down; ");
        assert!(
            place("<tr class=\"down\"><th scope=\"row\">dead</th>")
                < place("<tr class=\"up\"><th scope=\"row\">good</th>")
        );
        let row = text.lines().find(|line| line.contains("dead")).unwrap();
        assert_eq!(row.matches("<td>").count(), 11);
        assert_eq!(text.matches("<th scope=\"col\">").count(), 12);
    }
    let head = ask_raw(admin, format!("HEAD / HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn the_page_of_very_many_backends_is_whole_and_its_table_ends() {
    let origin = Origin::start("one");
    let backends: Vec<Value> = (0..1200)
        .map(|number| json!({ "url": origin.url(), "name": format!("backend-with-a-long-name-{number}") }))
        .collect();
    let proxy = plan(&[&origin]).set("backends", backends).start();
    let admin = address(&proxy);
    let response = ask_raw(
        admin,
        format!("GET / HTTP/1.1\r\nHost: {admin}\r\nAccept-Encoding: gzip\r\n\r\n"),
    );
    // More than two stored blocks.
    assert!(response.body.len() > 150_000, "{}", response.body.len());
    let text = decompressed(&response.body);
    assert_eq!(text.matches("<tr class=\"up\">").count(), 1000);
    assert!(text.contains("</table><p>and 200 more</p>"));
    let status = get(admin, "/status");
    assert_eq!(status["backends"].as_array().unwrap().len(), 1200);
}
