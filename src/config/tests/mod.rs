//! Configurations good and bad, by idea: what is read, what is refused, and what each row says.

use super::*;

mod errors;
mod rows;
mod values;

/// A configuration with one backend and `extra` members beside it.
fn with(extra: &str) -> Result<Config, ConfigError> {
    let text =
        format!("{{\"proxy\":{{\"port\":80}},\"backends\":[{{\"url\":\"http://h\"}}]{extra}}}");
    Config::from_text("c.json", &text)
}

/// A configuration with `members` in its section `proxy`.
fn with_proxy(members: &str) -> Result<Config, ConfigError> {
    let text = format!("{{\"proxy\":{{{members}}},\"backends\":[{{\"url\":\"http://h\"}}]}}");
    Config::from_text("c.json", &text)
}

/// A configuration with this list of backends.
fn with_backends(list: &str) -> Result<Config, ConfigError> {
    let text = format!("{{\"proxy\":{{\"port\":80}},\"backends\":{list}}}");
    Config::from_text("c.json", &text)
}

/// All keys but those of features that are not built yet.
const ALL_KEYS: &str = r#"{
  "proxy": {
    "port": 0, "address": "::1", "mode": "http", "workers": 3, "max_connections": 77, "access_log": "json",
    "trust_forwarded": ["10.0.0.0/8", "::1"], "accept_proxy_protocol": false, "forwarded_proto": "https", "via": false
  },
  "balance": {"method": "least_connections", "hash": {"key": "path", "load_percent_max": 125}, "tries": 10,
    "persistence": {"kind": "cookie", "name": "sticky"}, "queue": {"length": 7, "timeout": "20ms"}},
  "backends": [
    {
      "url": "http://[::1]:8081/base/path/", "name": "one", "weight": 0, "backup": true, "max_connections": 5,
      "check": false, "lenient": true,
      "send_proxy_protocol": false, "IsDead": true
    }
  ],
  "health_check": {
    "kind": "none", "interval": "30s", "down_interval": "500ms", "timeout": "1s", "rise": 2, "fall": 3
  },
  "timeouts": {
    "client_head": "1ms", "client_idle": "2ms", "client_body": "3ms", "client_write": "4ms", "connect": "5ms",
    "response_head": "6ms", "response_body": "7ms", "backend_idle": "8ms", "tunnel_idle": "24h", "drain": "10ms",
    "drain_delay": "0s"
  },
  "limits": {"head_bytes": 1024, "fields": 8, "body_bytes": 0, "idle_backend_connections": 0}
}"#;
