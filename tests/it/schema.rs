//! `--schema`: what it prints takes every configuration that rondo takes, and says what its keys
//! are.

use crate::support::run;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};

fn schema() -> Value {
    let finished = run(&["--schema"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The configurations of README and the repository, and one that uses every key.
fn documented() -> Vec<Value> {
    let mut found = vec![
        serde_json::from_str(include_str!("../../config.json")).unwrap(),
        json!({
            "$schema": "./rondo.schema.json",
            "proxy": {
                "port": "8080", "address": "::1", "mode": "http", "workers": 3, "max_connections": 77,
                "access_log": "json", "trust_forwarded": ["10.0.0.0/8", "::1"], "accept_proxy_protocol": true,
                "forwarded_proto": "https", "via": false,
            },
            "balance": {
                "method": "hash", "hash": { "key": "header:X-User", "load_percent_max": 1000 },
                "persistence": { "kind": "cookie", "name": "a-b" }, "tries": 10, "slow_start": "0s", "retry_percent": 0,
            },
            "backends": [
                {
                    "url": "http://[::1]:8081/base/path/", "name": "A.z:0_#[]-", "weight": 0, "backup": true,
                    "max_connections": 5, "check": false, "lenient": true, "send_proxy_protocol": true, "IsDead": true,
                    "each_address": false,
                },
                { "url": "HTTP://Example.COM" },
            ],
            "discovery": { "file": "backends.json" },
            "ejection": { "errors": 3, "status": "500-599, 429", "time": "1s", "percent_max": 10 },
            "health_check": {
                "kind": "http", "interval": "30s", "down_interval": "500ms", "timeout": "1m", "rise": 2, "fall": 100,
                "path": "/up?deep=\"1\"", "status": "200-299, 404,500",
            },
            "timeouts": {
                "client_head": "1ms", "client_idle": "24h", "client_body": "3ms", "client_write": "4ms",
                "connect": "5ms", "response_head": "6ms", "response_body": "7ms", "backend_idle": "8ms",
                "tunnel_idle": "24h", "tunnel_half_closed": "1s", "drain": "10ms", "drain_delay": "0s",
            },
            "limits": { "head_bytes": 1024, "fields": 8, "body_bytes": 0, "idle_backend_connections": 0 },
        }),
        json!({ "proxy": { "port": 1 }, "discovery": { "file": "/run/backends.json" } }),
    ];
    // An example of README is a block that is indented by four.
    let mut block = String::new();
    for line in include_str!("../../README.md").lines().chain([""]) {
        if let Some(line) = line.strip_prefix("    ") {
            // rondo takes comments, the parser here does not.
            block.push_str(if line.trim_start().starts_with("//") {
                ""
            } else {
                line
            });
            continue;
        }
        let example = serde_json::from_str::<Value>(&block);
        found.extend(example.ok().filter(|value| value.get("proxy").is_some()));
        block.clear();
    }
    found
}

/// Configurations that are wrong, in ways that a schema can see.
fn wrong() -> Vec<Value> {
    let with = |section: &str, keys: Value| {
        let mut config = json!({ "proxy": { "port": 1 }, "backends": [{ "url": "http://a" }] });
        config[section] = keys;
        config
    };
    vec![
        json!([]),
        json!({}),
        json!({ "proxy": { "port": 1 } }),
        with("nonsense", json!({})),
        with("proxy", json!({})),
        with("proxy", json!({ "port": 65536 })),
        with("proxy", json!({ "port": 1, "wrokers": 1 })),
        with("proxy", json!({ "port": 1, "workers": 0 })),
        with("proxy", json!({ "port": 1, "workers": 1.5 })),
        with("proxy", json!({ "port": 1, "mode": "udp" })),
        with("proxy", json!({ "port": 1, "access_log": "text" })),
        with(
            "proxy",
            json!({ "port": 1, "trust_forwarded": "10.0.0.0/8" }),
        ),
        with("backends", json!([])),
        with("backends", json!([{}])),
        with("backends", json!(["http://a"])),
        with("backends", json!([{ "url": "http://a", "weight": 1001 }])),
        with("backends", json!([{ "url": "http://a", "backup": 1 }])),
        with(
            "backends",
            json!([{ "url": "http://a", "each_address": "yes" }]),
        ),
        with("discovery", json!({ "path": "a" })),
        with("discovery", json!({ "file": ["a"] })),
        with("balance", json!({ "method": "least_time" })),
        with("balance", json!({ "slow_start": 1 })),
        with("balance", json!({ "persistence": {} })),
        with("health_check", json!({ "rise": 0 })),
        with("timeouts", json!({ "drain": 30 })),
        with("limits", json!({ "fields": 1001 })),
        with("admin", json!({ "address": 9090 })),
    ]
}

/// What a schema has against a value; patterns are left to a real validator.
fn complaint(schema: &Value, value: &Value) -> Option<String> {
    if let Some(any) = schema["anyOf"].as_array()
        && any.iter().all(|schema| complaint(schema, value).is_some())
    {
        return Some(format!("{value} fits none of {any:?}"));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{value} is none of {words:?}"));
    }
    let wrong_type = || Some(format!("{value} is no {}", schema["type"]));
    match schema["type"].as_str() {
        None => missing(schema, value.as_object()?),
        Some("boolean") => (!value.is_boolean()).then(wrong_type)?,
        Some("string") => (!value.is_string()).then(wrong_type)?,
        Some("integer") => {
            let Some(number) = value.as_u64() else {
                return wrong_type();
            };
            let least = schema["minimum"].as_u64().unwrap_or(0);
            let most = schema["maximum"].as_u64().unwrap_or(u64::MAX);
            let fits = (least..=most).contains(&number);
            (!fits).then(|| format!("{number} is not from {least} to {most}"))
        }
        Some("array") => {
            let Some(items) = value.as_array() else {
                return wrong_type();
            };
            if items.len() < usize::try_from(schema["minItems"].as_u64().unwrap_or(0)).unwrap() {
                return Some("too few items".to_owned());
            }
            items
                .iter()
                .find_map(|item| complaint(&schema["items"], item))
        }
        Some("object") => {
            let Some(members) = value.as_object() else {
                return wrong_type();
            };
            object_complaint(schema, members)
        }
        Some(other) => panic!("this test does not know the type {other}"),
    }
}

fn missing(schema: &Value, members: &Map<String, Value>) -> Option<String> {
    let required = schema["required"].as_array()?;
    let key = required
        .iter()
        .find(|key| !members.contains_key(key.as_str().unwrap()))?;
    Some(format!("{key} is missing"))
}

fn object_complaint(schema: &Value, members: &Map<String, Value>) -> Option<String> {
    assert_eq!(schema["additionalProperties"], false);
    if let Some(complaint) = missing(schema, members) {
        return Some(complaint);
    }
    members.iter().find_map(|(key, value)| {
        let property = &schema["properties"][key];
        if property.is_null() {
            return Some(format!("{key} is unknown"));
        }
        complaint(property, value)
    })
}

#[test]
fn the_schema_takes_every_documented_configuration() {
    let schema = schema();
    let documented = documented();
    assert!(documented.len() > 2, "README has examples");
    for config in documented {
        assert_eq!(complaint(&schema, &config), None, "{config:#}");
    }
    for config in wrong() {
        assert!(complaint(&schema, &config).is_some(), "{config:#}");
    }
}

#[test]
fn an_editor_gets_descriptions_and_defaults() {
    let schema = schema();
    let workers = &schema["properties"]["proxy"]["properties"]["workers"];
    assert!(workers["description"].as_str().unwrap().contains("threads"));
    let method = &schema["properties"]["balance"]["properties"]["method"];
    assert_eq!(method["default"], "round_robin");
    assert_eq!(method["enum"][1], "least_connections");
    let connect = &schema["properties"]["timeouts"]["properties"]["connect"];
    assert_eq!(connect["default"], "5s");
}

/// The same with a real validator, patterns and all; passed over where Python or its package
/// jsonschema is missing.
#[test]
fn a_real_validator_agrees() {
    const VALIDATE: &str = "
import json, sys, jsonschema
given = json.load(sys.stdin)
jsonschema.Draft7Validator.check_schema(given['schema'])
validator = jsonschema.Draft7Validator(given['schema'])
for config in given['right']:
    validator.validate(config)
for config in given['wrong']:
    assert not validator.is_valid(config), config
";
    let found = Command::new("python3")
        .args(["-c", "import jsonschema"])
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("passed over: python3 with jsonschema was not found");
        return;
    }
    let mut wrong = wrong();
    for (section, keys) in [
        ("timeouts", json!({ "drain": "30" })),
        ("timeouts", json!({ "drain": "1d" })),
        ("health_check", json!({ "kind": "http", "path": "health" })),
        ("health_check", json!({ "kind": "http", "path": "/a b" })),
        ("health_check", json!({ "kind": "http", "path": "/a#b" })),
        ("health_check", json!({ "kind": "http", "status": "2xx" })),
        ("health_check", json!({ "kind": "http", "status": "600" })),
        ("proxy", json!({ "port": "80a" })),
        ("discovery", json!({ "file": "" })),
        ("backends", json!([{ "url": "https://a" }])),
        ("backends", json!([{ "url": "http://a/?b" }])),
        ("backends", json!([{ "url": "http://a", "name": "a b" }])),
        (
            "balance",
            json!({ "persistence": { "kind": "cookie", "name": "a=b" } }),
        ),
    ] {
        let mut config = json!({ "proxy": { "port": 1 }, "backends": [{ "url": "http://a" }] });
        config[section] = keys;
        wrong.push(config);
    }
    let given = json!({ "schema": schema(), "right": documented(), "wrong": wrong });
    let mut child = Command::new("python3")
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(given.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
