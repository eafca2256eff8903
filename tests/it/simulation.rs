//! `--simulate`: scenarios of which the outcome is known, the same output each time, and what is
//! said of a scenario that is wrong.
//!
//! A scenario under `tests/scenarios` carries its bounds with it, under `expect`, which the program
//! ignores: so one file is played, judged and changed. Each is played over many seeds; its
//! configuration is the file beside it with `.config.json` behind its name, or that of four backends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rondo::simulate::Simulation;
use serde_json::Value;

use crate::support::proxy::{run_with_config, run_with_files};
use crate::support::run;

const SEEDS: u64 = 100;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// The scenarios, each with its configuration.
fn scenarios() -> Vec<(PathBuf, PathBuf)> {
    let files = fs::read_dir(folder()).unwrap();
    let mut found: Vec<(PathBuf, PathBuf)> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".json"))
        .filter(|path| !path.to_string_lossy().ends_with(".config.json"))
        .map(|path| {
            let own = path.with_extension("config.json");
            let config = if own.exists() {
                own
            } else {
                folder().join("four.config.json")
            };
            (path, config)
        })
        .collect();
    found.sort();
    assert!(found.len() > 5);
    found
}

/// The scenario's sentences, which are strings of its text.
fn expectations(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let (_, list) = text
        .split_once("\"expect\": [")
        .expect("a scenario has bounds");
    let (list, _) = list.split_once(']').unwrap();
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A figure of a method: a name such as `p99` or `failed`; `share.NAME` in per cent, `gap.NAME` in
/// milliseconds, `most.NAME` exchanges at once, or `tenth.N.NAME`, the share in that tenth of the duration.
fn figure(played: &Value, method: &str, name: &str) -> f64 {
    let methods = played["methods"].as_array().unwrap();
    let of_method = methods.iter().find(|it| it["method"] == method);
    let of_method = of_method.unwrap_or_else(|| panic!("{method} is not played"));
    let mut words = name.split('.');
    let (first, second, third) = (words.next().unwrap(), words.next(), words.next());
    let backends = of_method["backends"].as_array().unwrap();
    let backend = |name: Option<&str>| {
        let found = backends.iter().find(|it| it["name"].as_str() == name);
        found.unwrap_or_else(|| panic!("no backend {name:?}"))
    };
    let value = match (first, second) {
        ("p50" | "p90", _) => &of_method[format!("{first}_ms")],
        ("p99", None) => &of_method["p99_ms"],
        ("p99", _) => &of_method["p99_9_ms"],
        ("queue", _) => &of_method["queue_max"],
        ("moved", _) => &of_method["moved_percent"],
        ("share", name) => &backend(name)["share_percent"],
        ("most", name) => &backend(name)["in_flight_max"],
        ("gap", name) => &backend(name)["gap_ms"],
        ("tenth", Some(number)) => {
            let number: usize = number.parse().unwrap();
            let part = |it: &Value| it["requests_by_tenth"][number].as_f64().unwrap();
            let all: f64 = backends.iter().map(part).sum();
            return 100.0 * part(backend(third)) / all.max(1.0);
        }
        _ => &of_method[first],
    };
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{method} has no {name}"))
}

/// Whether a sentence holds: `METHOD FIGURE <= NUMBER` or `METHOD FIGURE >= NUMBER`, behind which
/// `x METHOD FIGURE` may stand. Otherwise what was found.
fn judge(sentence: &str, played: &Value) -> Result<(), String> {
    let words: Vec<&str> = sentence.split(' ').collect();
    let number: f64 = words[3].parse().unwrap();
    let found = figure(played, words[0], words[1]);
    let bound = match words[4..] {
        [] => number,
        ["x", method, name] => number * figure(played, method, name),
        _ => panic!("{sentence}"),
    };
    let holds = match words[2] {
        "<=" => found <= bound,
        ">=" => found >= bound,
        _ => panic!("{sentence}"),
    };
    holds
        .then_some(())
        .ok_or_else(|| format!("{sentence}: {found} against {bound}"))
}

fn play(simulation: &mut Simulation) -> Value {
    serde_json::from_str(&simulation.play(true)).unwrap()
}

/// Plays a scenario over all seeds; what does not hold, with the command that shows it.
fn complaints(path: &Path, config: &Path) -> Vec<String> {
    let sentences = expectations(path);
    let mut simulation = Simulation::read(Some(path), Some(config)).unwrap();
    let mut all = Vec::new();
    for seed in 1..=SEEDS {
        simulation.set_seed(seed);
        let played = play(&mut simulation);
        for sentence in &sentences {
            if let Err(complaint) = judge(sentence, &played) {
                let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
                all.push(format!(
                    "seed {seed}: {complaint}; play it again:\n  (cd tests/scenarios; sed 's/\"seed\": 1/\"seed\": {seed}/' {} > /tmp/again.json; cargo run --release -- --simulate /tmp/again.json {})",
                    name(path),
                    name(config)
                ));
            }
        }
    }
    all
}

#[test]
fn each_scenario_keeps_to_its_bounds_whatever_the_seed() {
    let scenarios = Mutex::new(scenarios());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((path, config)) = { scenarios.lock().unwrap().pop() } {
                    let complaints = complaints(&path, &config);
                    wrong.lock().unwrap().extend(complaints);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} complaints\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let path = folder().join("dead.json");
    let config = folder().join("four.config.json");
    for as_json in [true, false] {
        let mut simulation = Simulation::read(Some(&path), Some(&config)).unwrap();
        let first = simulation.play(as_json);
        assert_eq!(simulation.play(as_json), first);
        let mut again = Simulation::read(Some(&path), Some(&config)).unwrap();
        assert_eq!(again.play(as_json), first);
        simulation.set_seed(2);
        assert_ne!(simulation.play(as_json), first);
    }
}

/// Written with `rondo --simulate fixed.json four.config.json >fixed.txt`.
#[test]
fn the_output_is_the_one_that_was_written_down() {
    let path = |name: &str| folder().join(name).to_string_lossy().into_owned();
    let played = run(&["--simulate", &path("fixed.json"), &path("four.config.json")]);
    assert_eq!((played.code, &*played.stderr), (0, ""));
    assert_eq!(
        played.stdout,
        fs::read_to_string(path("fixed.txt")).unwrap()
    );
    assert!(played.stdout.lines().all(|line| line.len() <= 100));
}

#[test]
fn a_log_is_played_if_it_has_a_request_and_comes_to_an_end() {
    let line = |time: &str| {
        format!(
            "{{\"time\":\"{time}\",\"client\":\"::1\",\"total_ms\":5.007,\"backend_ms\":4.5}}\n"
        )
    };
    let [one, later, much_later] =
        ["2026-07-27", "2026-08-26", "9999-08-26"].map(|day| line(&format!("{day}T10:00:00.123Z")));
    for (log, duration, expected) in [
        (one.clone(), "", Ok("1 request over 4 backends")),
        (one.clone() + &later, "", Ok("2 requests over 4 backends")),
        (
            one.clone() + &much_later,
            "",
            Err("load.log goes on for more than 31 days; set \"duration\" to play its beginning"),
        ),
        (
            one + &much_later,
            ", \"duration\": \"24h\"",
            Ok("1 request over 4 backends"),
        ),
        (
            String::new(),
            "",
            Err("load.log has no request that went to a backend"),
        ),
    ] {
        let scenario = format!("{{\"load\": {{\"log\": \"access.log\"}}{duration}}}");
        let played = run_with_files(
            &["--simulate", "scenario.json"],
            &[
                ("scenario.json", scenario.as_bytes()),
                ("access.log", log.as_bytes()),
            ],
        );
        let (code, output, text) = match expected {
            Ok(text) => (0, &played.stdout, text),
            Err(text) => (2, &played.stderr, text),
        };
        assert_eq!(played.code, code, "{played:?}");
        assert!(output.contains(text), "{played:?}");
    }
}

const TWO: &str = r#"{"proxy":{"port":1},"backends":["#;

#[test]
fn without_a_scenario_the_last_backend_becomes_slow_and_without_a_configuration_there_are_four() {
    let four = run(&["--simulate"]);
    assert_eq!((four.code, &*four.stderr), (0, ""));
    assert!(four.stdout.contains("over 4 backends"), "{}", four.stdout);
    assert!(
        four.stdout.contains("server-4 takes 10 times as long"),
        "{}",
        four.stdout
    );
    assert_eq!(run(&["--simulate", "-"]).stdout, four.stdout);
    let json = run(&["--simulate", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let requests = |method: &Value| method["requests"].as_u64().unwrap();
    let methods = json["methods"].as_array().unwrap();
    assert!(methods.len() >= 4 && methods.iter().all(|it| requests(it) > 20_000));

    let text = format!(
        r#"{TWO}{{"name":"one","url":"http://h:1"}},{{"name":"two","url":"http://h:2"}}]}}"#
    );
    for arguments in [&["--simulate"][..], &["--simulate", "-", "config.json"]] {
        let two = run_with_config(arguments, &text);
        assert_eq!((two.code, &*two.stderr), (0, ""));
        assert!(two.stdout.contains("over 2 backends"), "{}", two.stdout);
        assert!(
            two.stdout.contains("two takes 10 times as long"),
            "{}",
            two.stdout
        );
    }
}

#[test]
fn a_wrong_scenario_gets_one_line_with_its_place_and_exit_status_2() {
    for (scenario, line) in [
        ("", "is empty; the least is {\"load\":{\"rate\":500}}"),
        ("[]", ":1:1: the scenario is a list; must be an object"),
        ("{}", ":1:1: load is missing; must be an object"),
        (
            "{\"load\": {}}",
            ":1:10: load is empty; must have one of \"rate\", \"clients\" and \"log\"",
        ),
        (
            "{\"load\": {\"rate\": 0}}",
            ":1:19: load.rate is 0; must be an integer from 1 to 1000000",
        ),
        (
            "{\n \"laod\": 1}",
            ":2:2: laod is not a known key; did you mean \"load\"?",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"servers\": 1}",
            ":1:23: servers is not a known key; the keys here are seed, duration, load, backends, methods and expect",
        ),
        (
            "{\"load\": {\"rate\": 1}, // one\n \"methods\": [\"round-robin\"]}",
            ":2:14: methods[0] is \"round-robin\"; did you mean \"round_robin\"?",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"methods\": [\"random_two\", \"random_two\"]}",
            ":1:49: methods[1] is given twice; name each method once",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"methods\": []}",
            ":1:34: methods is empty; leave it out for all methods",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"methods\": \"fastest\"}",
            ":1:34: methods is \"fastest\"; must be a list of methods, each once",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"x\": {}}}",
            ":1:36: backends.x is no backend of the configuration; the first of them is \"localhost:8081\"",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"localhost:808\": {}}}",
            ":1:36: backends[\"localhost:808\"] is no backend of the configuration; did you mean \"localhost:8081\"?",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"localhost:8081\": {\"errors\": 1.5}}}",
            "errors is 1.5; must be a number from 0 to 1",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"localhost:8081\": {\"events\": [{\"at\": \"1s\"}]}}}",
            "events[0] is no event; must have \"at\" and one of \"slow\", \"errors\", \"down\" and \"up\"",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"localhost:8081\": {\"events\": [{\"at\": \"61s\", \"up\": true}]}}}",
            "at is after the end; see \"duration\"",
        ),
        (
            "{\"load\": {\"rate\": 1}, \"backends\": {\"localhost:8081\": {\"latency\": {\"p50\": \"2s\", \"p99\": \"1s\"}}}}",
            "latency.p99 is shorter than p50",
        ),
        (
            "{\"load\": {\"rate\": 1000000}, \"duration\": \"24h\"}",
            "load.rate makes more than 100000000 requests in the whole duration; lower the rate or the duration",
        ),
        (
            "{\"load\": {\"rate\": 1, \"think\": \"1s\"}}",
            ":1:31: load.think is of no use with this load; leave it out",
        ),
        (
            "{\"load\": {\"log\": \"none.log\"}}",
            ":1:18: load.log cannot be read: No such file or directory (os error 2)",
        ),
        (
            "{\"load\": {\"log\": \"config.json\"}}",
            "config.json:1:1: is no line of rondo's JSON access log; it is written with \"access_log\": \"json\"",
        ),
    ] {
        let played = run_with_files(
            &["--simulate", "scenario.json", "config.json"],
            &[
                ("scenario.json", scenario.as_bytes()),
                ("config.json", crate::configuration::ARTICLE.as_bytes()),
            ],
        );
        assert_eq!((played.code, &*played.stdout), (2, ""), "{scenario}");
        assert_eq!(played.stderr.lines().count(), 1, "{}", played.stderr);
        assert!(
            played.stderr.contains(line),
            "{scenario}: {}",
            played.stderr
        );
    }
}
