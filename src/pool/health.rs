//! When a backend is up: rise, fall, and what each event proves. Pure: events in, the next state out.
//!
//! The state lives in `backend.rs` behind an `RwLock` and is written only where [`Health::after`] gives another value,
//! so an exchange that goes well on a healthy backend costs one read lock. Checks and exchanges are told apart because
//! they prove different things: a backend that refuses connections may still answer on one that it accepted earlier.

use crate::pool::settings::{HealthCheckSettings, Kind};

/// What is remembered of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    up: bool,
    /// In a row, up to `fall`.
    failures: u32,
    /// In a row while down, below `rise`.
    successes: u32,
    /// What has to be seen before the failures are forgotten.
    needs: Proof,
}

/// What was seen of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection was opened for an exchange.
    Connected,
    /// A response head arrived.
    Answered,
    /// A connection could not be opened for an exchange.
    ConnectFailed,
    /// A connection opened for an exchange ended, or gave garbage, before a response head.
    Died,
    /// A check succeeded.
    CheckPassed,
    /// A check failed.
    CheckFailed,
}

/// The part of the settings that counts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How it is checked.
    pub check: Check,
    /// Successes in a row to come up.
    pub rise: u32,
    /// Failures in a row to go down.
    pub fall: u32,
}

/// The kinds of check by what they prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It connects.
    Tcp,
    /// It is the only judge of coming up.
    Http,
    /// It reaches the host, not the server.
    Icmp,
    /// There is none.
    None,
}

/// What refutes a failure, from the weakest; among several failures in a row the strongest demand stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// A response head: it died before one.
    Answer,
    /// Any sign of life: the host did not answer an echo.
    Life,
    /// A new connection: it refused one.
    Connection,
    /// A check: with `http` nothing else brings a backend up.
    Check,
}

impl Health {
    /// Backends start up; the first check runs at once.
    pub(crate) const NEW: Health = Health {
        up: true,
        failures: 0,
        successes: 0,
        needs: Proof::Answer,
    };

    /// Whether it may take requests.
    pub(crate) fn is_up(self) -> bool {
        self.up
    }

    /// Failures in a row.
    pub(crate) fn failures(self) -> u32 {
        self.failures
    }

    /// Successes in a row while down, not yet enough.
    pub(crate) fn successes(self) -> u32 {
        self.successes
    }

    /// Whether only a new connection can bring it up, which a check by echo cannot show.
    pub(crate) fn waits_for_connection(self) -> bool {
        !self.up && self.needs == Proof::Connection
    }

    /// The state after an event.
    #[must_use]
    pub(crate) fn after(self, event: Event, rules: &Rules) -> Health {
        match event {
            Event::ConnectFailed => self.after_failure(Proof::Connection, rules),
            Event::Died => self.after_failure(Proof::Answer, rules),
            Event::CheckFailed => match rules.check {
                Check::Tcp | Check::None => self.after_failure(Proof::Connection, rules),
                Check::Http => self.after_failure(Proof::Check, rules),
                Check::Icmp => self.after_failure(Proof::Life, rules),
            },
            Event::Connected | Event::Answered | Event::CheckPassed
                if self.refutes(event, rules) =>
            {
                self.after_success(rules)
            }
            Event::Connected | Event::Answered | Event::CheckPassed => self,
        }
    }

    fn refutes(self, event: Event, rules: &Rules) -> bool {
        match self.needs {
            Proof::Answer => matches!(event, Event::Answered | Event::CheckPassed),
            Proof::Life => true,
            // What a failed connect took down only a successful connect lifts; an echo is none.
            Proof::Connection => {
                event == Event::Connected
                    || event == Event::CheckPassed && rules.check != Check::Icmp
            }
            Proof::Check => event == Event::CheckPassed,
        }
    }

    fn after_failure(self, needs: Proof, rules: &Rules) -> Health {
        let failures = rules.fall.min(self.failures + 1);
        let up = self.up && failures < rules.fall;
        let needs = if !up && rules.check == Check::Http {
            Proof::Check
        } else {
            self.needs.max(needs)
        };
        Health {
            up,
            failures,
            successes: 0,
            needs,
        }
    }

    fn after_success(self, rules: &Rules) -> Health {
        let successes = self.successes + 1;
        if self.up || successes >= rules.rise {
            return Health::NEW;
        }
        Health { successes, ..self }
    }
}

impl Rules {
    /// Takes what counts here from the settings.
    pub(crate) fn new(settings: &HealthCheckSettings) -> Rules {
        let check = match settings.kind {
            Kind::Tcp => Check::Tcp,
            Kind::Http { .. } => Check::Http,
            Kind::Icmp => Check::Icmp,
            Kind::None => Check::None,
        };
        // Zero would mean "never" for one and "at once" for the other; the configuration does not let it in.
        Rules {
            check,
            rise: settings.rise.max(1),
            fall: settings.fall.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Answered, CheckFailed, CheckPassed, ConnectFailed, Connected, Died};

    const ALL: [Event; 6] = [
        Connected,
        Answered,
        ConnectFailed,
        Died,
        CheckPassed,
        CheckFailed,
    ];

    fn rules(check: Check, rise: u32, fall: u32) -> Rules {
        Rules { check, rise, fall }
    }

    fn run(rules: Rules, events: &[Event]) -> Health {
        events
            .iter()
            .fold(Health::NEW, |health, &event| health.after(event, &rules))
    }

    fn up(rules: Rules, events: &[Event]) -> bool {
        run(rules, events).is_up()
    }

    #[test]
    fn success_on_a_healthy_backend_changes_nothing() {
        for check in [Check::Tcp, Check::Http, Check::Icmp, Check::None] {
            for event in [Connected, Answered, CheckPassed] {
                assert_eq!(Health::NEW.after(event, &rules(check, 3, 3)), Health::NEW);
            }
        }
    }

    #[test]
    fn it_goes_down_after_as_many_failures_in_a_row_as_fall_says() {
        for failure in [ConnectFailed, Died, CheckFailed] {
            for fall in [1, 2, 3, 100] {
                let rules = rules(Check::Tcp, 1, fall);
                let mut health = Health::NEW;
                for n in 1..=fall {
                    assert!(health.is_up());
                    health = health.after(failure, &rules);
                    assert_eq!(health.failures(), n);
                }
                assert!(!health.is_up());
                assert_eq!(
                    health.after(failure, &rules),
                    health,
                    "no further change, no further write"
                );
            }
        }
    }

    #[test]
    fn failures_of_different_kinds_add_up() {
        assert!(!up(
            rules(Check::Tcp, 1, 3),
            &[ConnectFailed, Died, CheckFailed]
        ));
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let rules = rules(Check::Tcp, 1, 2);
        assert!(up(rules, &[Died, Answered, Died]));
        assert!(up(rules, &[ConnectFailed, Connected, ConnectFailed]));
        assert!(up(rules, &[Died, CheckPassed, Died]));
    }

    #[test]
    fn a_connection_does_not_excuse_a_backend_that_dies_before_it_answers() {
        let rules = rules(Check::Tcp, 1, 3);
        assert!(!up(
            rules,
            &[Connected, Died, Connected, Died, Connected, Died]
        ));
        let down = run(rules, &[Died, Died, Died]);
        assert_eq!(down.after(Connected, &rules), down);
        assert!(down.after(Answered, &rules).is_up());
    }

    #[test]
    fn an_answer_on_an_old_connection_does_not_excuse_failed_connects() {
        let rules = rules(Check::Tcp, 1, 2);
        assert!(!up(rules, &[ConnectFailed, Answered, ConnectFailed]));
        let down = run(rules, &[ConnectFailed, ConnectFailed]);
        assert_eq!(down.after(Answered, &rules), down);
        assert!(down.after(Connected, &rules).is_up());
        assert!(down.after(CheckPassed, &rules).is_up());
    }

    #[test]
    fn it_comes_up_after_as_many_successes_in_a_row_as_rise_says() {
        let rules = rules(Check::Tcp, 3, 1);
        let down = [ConnectFailed];
        assert!(!up(rules, &[&down[..], &[CheckPassed, Connected]].concat()));
        assert!(up(
            rules,
            &[&down[..], &[CheckPassed, Connected, CheckPassed]].concat()
        ));
        assert!(!up(
            rules,
            &[
                &down[..],
                &[
                    CheckPassed,
                    Connected,
                    ConnectFailed,
                    CheckPassed,
                    Connected
                ]
            ]
            .concat()
        ));
    }

    #[test]
    fn with_http_only_a_check_brings_a_backend_up() {
        for failure in [ConnectFailed, Died, CheckFailed] {
            let rules = rules(Check::Http, 1, 1);
            let down = run(rules, &[failure]);
            assert!(!down.is_up());
            assert_eq!(down.after(Connected, &rules).after(Answered, &rules), down);
            assert!(down.after(CheckPassed, &rules).is_up());
        }
    }

    #[test]
    fn with_http_traffic_that_goes_well_does_not_hide_failing_checks() {
        let rules = rules(Check::Http, 1, 2);
        assert!(!up(rules, &[CheckFailed, Connected, Answered, CheckFailed]));
        assert!(
            up(rules, &[Died, Answered, Died]),
            "while up, an answer still refutes what an exchange saw"
        );
    }

    #[test]
    fn with_icmp_an_echo_does_not_lift_what_a_failed_connect_took_down() {
        let rules = rules(Check::Icmp, 1, 1);
        let down = run(rules, &[ConnectFailed]);
        assert!(down.waits_for_connection());
        assert_eq!(down.after(CheckPassed, &rules), down);
        assert!(down.after(Connected, &rules).is_up());
        for life in [CheckPassed, Connected, Answered] {
            assert!(up(rules, &[CheckFailed, life]));
        }
    }

    #[test]
    fn with_none_exchanges_decide_alone() {
        let rules = rules(Check::None, 1, 1);
        assert!(!up(rules, &[ConnectFailed]));
        assert!(up(rules, &[ConnectFailed, Connected]));
        assert!(up(rules, &[Died, Answered]));
    }

    proptest::proptest! {
        #[test]
        fn every_down_backend_can_come_up_and_every_counter_stays_in_bounds(
            events in proptest::collection::vec(0..6usize, 0..40), rise in 1..5u32, fall in 1..5u32, check in 0..4usize
        ) {
            let check = [Check::Tcp, Check::Http, Check::Icmp, Check::None][check];
            let rules = rules(check, rise, fall);
            let mut health = Health::NEW;
            for event in events {
                health = health.after(ALL[event], &rules);
                proptest::prop_assert!(health.failures <= fall && health.successes < rise);
                proptest::prop_assert_eq!(health.up, health.failures < fall);
            }
            for _ in 0..rise {
                health = health.after(Connected, &rules).after(Answered, &rules);
                if check != Check::None {
                    health = health.after(CheckPassed, &rules);
                }
            }
            proptest::prop_assert_eq!(health, Health::NEW);
        }
    }
}
