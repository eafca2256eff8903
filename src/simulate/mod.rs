//! The simulation, `--simulate`: the pool as it is, on a clock of its own, under a load that a
//! scenario describes, by one method after the other.
//!
//! Nothing is sent, and nothing but the scenario and the configuration decides what comes out: the
//! same seed gives the same output on every machine.
//!
//! Read next: `simulate/scenario.rs`, what can be asked; `simulate/engine/mod.rs`, how it is played.
//! Beside them: `access_log.rs` (a log as the load), `agenda.rs` (what happens when), `server.rs` (a
//! backend's server), `checks.rs` (when health checks are made), `numbers.rs` (what is drawn at
//! random), `figures.rs` and `report.rs` (what comes out).

mod access_log;
mod agenda;
mod checks;
mod engine;
mod figures;
mod numbers;
mod report;
mod scenario;
mod server;

use std::path::Path;

use crate::config::{Config, ConfigError};
use crate::simulate::report::Report;
use crate::simulate::scenario::Scenario;

/// Four equal backends, for those who have no configuration yet.
const FOUR: &str = r#"{"proxy":{"port":8080},"backends":[
    {"name":"server-1","url":"http://127.0.0.1:8081"},
    {"name":"server-2","url":"http://127.0.0.1:8082"},
    {"name":"server-3","url":"http://127.0.0.1:8083"},
    {"name":"server-4","url":"http://127.0.0.1:8084"}]}"#;

/// A scenario and the configuration that it is played against.
#[derive(Debug)]
pub struct Simulation {
    scenario: Scenario,
    config: Config,
}

impl Simulation {
    /// Reads the scenario (none: one backend becomes slow for a while) and the configuration (none:
    /// `config.json` if it is there, or four equal backends).
    #[inline(never)]
    pub fn read(scenario: Option<&Path>, config: Option<&Path>) -> Result<Simulation, ConfigError> {
        let usual = Path::new("config.json");
        let config = match config {
            Some(path) => Config::read(path)?,
            None if usual.exists() => Config::read(usual)?,
            None => Config::from_text("four backends", FOUR)?,
        };
        Ok(Simulation {
            scenario: Scenario::read(scenario, &config)?,
            config,
        })
    }

    /// Another seed than the scenario's.
    pub fn set_seed(&mut self, seed: u64) {
        self.scenario.seed = seed;
    }

    /// Plays the scenario by each method, and returns the figures side by side: as JSON, or for
    /// people.
    #[inline(never)]
    pub fn play(&mut self, as_json: bool) -> String {
        let mut results = Vec::new();
        for &method in &self.scenario.methods {
            self.config.balance.method = method;
            results.push((method, engine::play(&self.scenario, &self.config)));
        }
        let report = Report {
            scenario: &self.scenario,
            config: &self.config,
            results,
        };
        if as_json {
            report.json()
        } else {
            report.text()
        }
    }
}
