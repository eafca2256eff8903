//! What the main thread does when the admin interface asks.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::ask::Reply;
use crate::net::waker::Waker;
use crate::pool::backend::InFlight;
use crate::pool::{Choice, Selection, Tried};

/// A server whose main thread is the test.
struct Fixture {
    server: Server,
    waker: Arc<Waker>,
    file: PathBuf,
}

impl Fixture {
    /// Over the backends `a`, `b` and `c` that nothing listens for, with further sections.
    fn new(name: &str, sections: &str) -> Fixture {
        let file = std::env::temp_dir().join(format!("rondo-server-{name}-{}", process::id()));
        let entries = ["a", "b", "c"].map(entry).join(",");
        write(&file, &entries, sections);
        let config = Config::read(&file).unwrap();
        let server = Server::start(config, Some(&file), Commands::default()).unwrap();
        let waker = Arc::new(Waker::new().unwrap());
        Fixture {
            server,
            waker,
            file,
        }
    }

    fn ask(&mut self, wish: Wish, dry_run: bool) -> (u16, Value) {
        let asked = self.server.live.ask(wish, dry_run, &self.waker);
        for ask in self.server.live.take_asks() {
            self.server.answer(ask);
        }
        let Reply { status, body } = asked.take().unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    fn operate(&mut self, name: &str, operator: Operator, dry_run: bool) -> (u16, Value) {
        let name = name.to_owned();
        self.ask(Wish::Operator { name, operator }, dry_run)
    }

    fn put(&mut self, name: &str, entry: &str, dry_run: bool) -> (u16, Value) {
        let (name, entry) = (name.to_owned(), entry.into());
        self.ask(Wish::Put { name, entry }, dry_run)
    }

    fn remove(&mut self, name: &str, dry_run: bool) -> (u16, Value) {
        let name = name.to_owned();
        self.ask(Wish::Remove { name }, dry_run)
    }

    fn names(&self) -> String {
        let config = &self.server.live.current().config;
        let names = config.backends.iter().map(|backend| &*backend.name);
        names.collect::<Vec<_>>().join(" ")
    }

    /// An exchange with this backend.
    fn in_flight(&self, name: &str) -> InFlight {
        let selection = Selection {
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            key: None,
            cookie: None,
            tries_left: true,
            repeats: false,
        };
        let pool = &self.server.live.current().pool;
        loop {
            match pool.choose(&selection, &mut Tried::default(), None) {
                Choice::Backend { in_flight, .. } if &*in_flight.name == name => return in_flight,
                Choice::Backend { .. } => {}
                nothing => panic!("{nothing:?}"),
            }
        }
    }

    fn operator_of(&self, name: &str) -> Operator {
        let pool = &self.server.live.current().pool;
        let mut backends = pool.backends().iter();
        backends.find(|it| &*it.name == name).unwrap().operator()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn entry(name: &str) -> String {
    format!(r#"{{"url": "http://127.0.0.1:1", "name": "{name}"}}"#)
}

fn write(file: &Path, entries: &str, sections: &str) {
    let text = format!(
        r#"{{"proxy": {{"port": 0, "workers": 1}}, "health_check": {{"kind": "none"}}, "backends": [{entries}]{sections}}}"#
    );
    fs::write(file, text).unwrap();
}

/// `name`: percent before and after.
fn shares(document: &Value) -> Vec<(String, f64, f64)> {
    let shares = document["shares"].as_array().unwrap().iter();
    let percent = |share: &Value, key: &str| share[key].as_f64().unwrap();
    shares
        .map(|share| {
            let name = share["name"].as_str().unwrap().to_owned();
            let [before, after] =
                ["before_percent", "after_percent"].map(|key| percent(share, key));
            (name, before, after)
        })
        .collect()
}

#[test]
fn an_operators_change_says_what_the_others_get_and_a_dry_run_does_nothing() {
    let mut fixture = Fixture::new("operate", "");
    let (_, would) = fixture.operate("b", Operator::Draining, true);
    assert_eq!(fixture.operator_of("b"), Operator::Enabled);
    let (status, did) = fixture.operate("b", Operator::Draining, false);
    assert_eq!(fixture.operator_of("b"), Operator::Draining);
    assert_eq!(status, 200);
    assert_eq!(would["dry_run"], true);
    assert_eq!(
        shares(&did),
        [
            ("a".to_owned(), 33.333, 50.0),
            ("b".to_owned(), 33.333, 0.0),
            ("c".to_owned(), 33.333, 50.0)
        ]
    );
    assert_eq!(would["shares"], did["shares"]);
    let rest = ["name", "change", "in_flight", "eligible", "dry_run"].map(|key| did[key].clone());
    assert_eq!(json!(rest), json!(["b", "drain", 0, 2, false]));
    let (_, again) = fixture.operate("b", Operator::Draining, false);
    assert_eq!((&again["change"], shares(&again)), (&json!("none"), vec![]));
    let (_, back) = fixture.operate("b", Operator::Enabled, false);
    assert_eq!(
        (&back["change"], &back["eligible"]),
        (&json!("enable"), &json!(3))
    );
    let (status, error) = fixture.operate("x", Operator::Disabled, false);
    assert_eq!(status, 404);
    assert_eq!(error["error"], "there is no backend \"x\"");
}

#[test]
fn a_backend_that_was_taken_out_is_looked_after_until_nothing_is_in_flight() {
    let mut fixture = Fixture::new("leaving", "");
    assert!(!fixture.server.look_after_leaving());
    let state = fixture.server.live.current().pool.backends()[0]
        .state()
        .clone();
    let (one, other) = (fixture.in_flight("a"), fixture.in_flight("a"));
    let (_, document) = fixture.operate("a", Operator::Disabled, false);
    assert_eq!(document["in_flight"], 2);
    fixture.operate("a", Operator::Draining, false);
    assert_eq!(fixture.server.leaving.len(), 1);
    assert!(fixture.server.look_after_leaving());
    drop(one);
    assert!(fixture.server.look_after_leaving());
    drop(other);
    assert_eq!(state.in_flight(), 0);
    assert!(!fixture.server.look_after_leaving());
    // One that is enabled again is let go, and one that is removed is not.
    let _place = fixture.in_flight("b");
    fixture.operate("b", Operator::Disabled, false);
    fixture.operate("b", Operator::Enabled, false);
    assert!(!fixture.server.look_after_leaving());
    fixture.remove("b", false);
    assert!(fixture.server.look_after_leaving());
}

#[test]
fn backends_are_added_changed_and_removed_and_a_dry_run_does_nothing() {
    let mut fixture = Fixture::new("edit", "");
    let new = r#"{"url": "http://127.0.0.1:2", "weight": 3}"#;
    let (status, would) = fixture.put("n", new, true);
    assert_eq!(
        (status, &would["change"], &*fixture.names()),
        (201, &json!("add"), "a b c")
    );
    let (status, did) = fixture.put("n", new, false);
    assert_eq!((status, &*fixture.names()), (201, "a b c n"));
    assert_eq!(did["shares"], would["shares"]);
    assert_eq!(shares(&did)[3], ("n".to_owned(), 0.0, 50.0));
    // It works as it is: what is in force has changed, and nothing of the others has.
    let state = |fixture: &Fixture| fixture.server.live.current().pool.backends()[0].id;
    let before = state(&fixture);
    let (status, did) = fixture.put("n", r#"{"url": "http://127.0.0.1:2"}"#, false);
    assert_eq!((status, &did["change"]), (200, &json!("change")));
    assert_eq!(state(&fixture), before);
    let (status, did) = fixture.put("n", r#"{"url": "http://127.0.0.1:2"}"#, false);
    assert_eq!((status, &did["change"]), (200, &json!("none")));
    let (status, would) = fixture.remove("a", true);
    assert_eq!(
        (status, &would["change"], &*fixture.names()),
        (200, &json!("remove"), "a b c n")
    );
    let (_, did) = fixture.remove("a", false);
    assert_eq!(fixture.names(), "b c n");
    assert_eq!(shares(&did).last(), Some(&("a".to_owned(), 25.0, 0.0)));
    assert_eq!(fixture.remove("a", false).0, 404);
    for name in ["b", "c"] {
        assert_eq!(fixture.remove(name, false).0, 200);
    }
    let (status, error) = fixture.remove("n", false);
    assert_eq!(status, 422);
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .starts_with("it is the last backend")
    );
}

#[test]
fn a_wrong_entry_is_422_with_its_place_in_the_body() {
    let mut fixture = Fixture::new("wrong", "");
    let (status, error) = fixture.put("a", "{\n\"url\": \"http://a\", \"weight\": 5000}", false);
    let expected = json!({
        "error": "weight is 5000; must be an integer from 0 to 1000", "file": null, "line": 2, "column": 30,
    });
    assert_eq!((status, error), (422, expected));
}

#[test]
fn what_would_be_wrong_with_the_backends_is_a_warning_of_the_answer() {
    let mut fixture = Fixture::new("warn", "");
    let (_, document) = fixture.put("n", r#"{"url": "http://127.0.0.1:1"}"#, true);
    let warnings = document["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{document}");
    assert!(warnings[0].as_str().unwrap().contains("have the same url"));
}

#[test]
fn a_reload_clears_what_was_changed_and_says_so_and_the_operators_decisions_stay() {
    let mut fixture = Fixture::new("reload", "");
    fixture.operate("b", Operator::Draining, false);
    fixture.put("n", r#"{"url": "http://127.0.0.1:2"}"#, false);
    fixture.remove("a", false);
    write(
        &fixture.file,
        &[
            entry("a"),
            entry("b"),
            entry("d").replace('}', r#", "weight": 2}"#),
        ]
        .join(","),
        r#", "timeouts": {"connect": "1s"}"#,
    );
    let (status, would) = fixture.ask(Wish::Reload, true);
    assert_eq!((status, &*fixture.names()), (200, "b c n"));
    let (status, mut did) = fixture.ask(Wish::Reload, false);
    assert_eq!((status, &*fixture.names()), (200, "a b d"));
    let warnings = did["warnings"].take();
    assert!(warnings[0].as_str().unwrap().contains("have the same url"));
    assert_eq!(
        did,
        json!({
            "dry_run": false, "file": fixture.file, "added": ["a", "d"], "removed": ["c", "n"], "changed": [], "kept": 1,
            "settings": [{"key": "timeouts.connect", "from": "5s", "to": "1s"}], "restart": [], "clears": ["n", "a"],
            "moved_percent": null, "warnings": null,
        })
    );
    assert_eq!(
        (&would["added"], &would["clears"]),
        (&did["added"], &did["clears"])
    );
    assert_eq!(fixture.operator_of("b"), Operator::Draining);
    // And what is in the file now has nothing to lose.
    let (_, again) = fixture.ask(Wish::Reload, false);
    assert_eq!((&again["clears"], &again["kept"]), (&json!([]), &json!(3)));
}

#[test]
fn a_reload_says_how_a_backend_changes_and_how_many_clients_move() {
    let by_hash = r#", "balance": {"method": "source_hash"}"#;
    let mut fixture = Fixture::new("moved", by_hash);
    let entries = [entry("a"), entry("b").replace('}', r#", "backup": true}"#)].join(",");
    write(&fixture.file, &entries, by_hash);
    let (_, document) = fixture.ask(Wish::Reload, true);
    let keys = json!([{"key": "backup", "from": false, "to": true}]);
    assert_eq!(document["changed"], json!([{"name": "b", "keys": keys}]));
    assert_eq!(document["moved_percent"], 66);
}

#[test]
fn a_file_that_is_wrong_or_needs_a_restart_changes_nothing() {
    let mut fixture = Fixture::new("refused", "");
    let file = fixture.file.clone();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(r#""workers": 1"#, r#""workers": 2"#)).unwrap();
    let (status, would) = fixture.ask(Wish::Reload, true);
    assert_eq!(status, 200);
    let workers = json!([{"key": "proxy.workers", "from": 1, "to": 2}]);
    assert_eq!(
        (&would["restart"], &would["settings"]),
        (&workers, &json!([]))
    );
    let (status, error) = fixture.ask(Wish::Reload, false);
    assert_eq!(status, 409);
    assert_eq!(
        error["error"],
        "proxy.workers cannot change without a restart"
    );
    fs::write(&file, text.replace("workers", "wrkers")).unwrap();
    for dry_run in [true, false] {
        let (status, error) = fixture.ask(Wish::Reload, dry_run);
        let expected = json!({
            "error": "proxy.wrkers is not a known key; did you mean \"workers\"?", "file": file, "line": 1, "column": 23,
        });
        assert_eq!((status, error), (422, expected));
    }
    fixture.server.file = None;
    let (status, error) = fixture.ask(Wish::Reload, false);
    assert_eq!(status, 409);
    assert_eq!(error["error"], "the configuration did not come from a file");
}

#[test]
fn an_entry_stands_for_the_addresses_of_its_name() {
    let mut fixture = Fixture::new("addresses", "");
    let entry = r#"{"url": "http://localhost:1", "each_address": true}"#;
    fixture.put("web", entry, false);
    assert!(fixture.names().starts_with("a b c web/127.0.0.1"));
    let (status, document) = fixture.operate("web", Operator::Draining, false);
    assert_eq!((status, &document["change"]), (200, &json!("drain")));
    assert_eq!(document["eligible"], 3);
    assert_eq!(fixture.operator_of("web/127.0.0.1"), Operator::Draining);
    let (_, document) = fixture.operate("web/127.0.0.1", Operator::Enabled, false);
    assert_eq!(
        (&document["change"], &document["eligible"]),
        (&json!("enable"), &json!(4))
    );
    assert_eq!(fixture.remove("web/127.0.0.1", false).0, 422);
    assert_eq!(fixture.remove("web", false).0, 200);
    assert_eq!(fixture.names(), "a b c");
}
