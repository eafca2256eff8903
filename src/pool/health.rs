//! When a backend is up: rise, fall, and what each event proves. Pure: events in, the next state
//! out.
//!
//! The state is kept in `state.rs` behind an `RwLock` and written only if [`Health::after`] returns
//! another value, so a successful exchange on a healthy backend costs one read lock. Checks and
//! exchanges prove different things: a backend that refuses connections may still answer on one
//! that it accepted earlier.

use crate::pool::settings::HealthCheckSettings;
/// What a check proves differs by its kind.
pub(crate) use crate::pool::settings::Kind as Check;

/// Deaths in a row that are no failure: a request that kills every backend that serves it must not
/// take them all down, and a backend that is really dead refuses the next connection, or fails the
/// check that a death asks for.
const DEATHS_FORGIVEN: u8 = 2;

/// What is remembered of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    up: bool,
    /// In a row, up to `fall`.
    failures: u32,
    /// Deaths without an answer in between, up to one more than are forgiven.
    deaths: u8,
    /// In a row while down, below `rise`.
    successes: u32,
    /// What must be seen before the failures are forgotten.
    needs: Proof,
}

/// An observation of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection was opened for an exchange.
    Connected,
    /// A response head arrived.
    Answered,
    /// A connection could not be opened for an exchange.
    ConnectFailed,
    /// A connection opened for an exchange ended before a response head; at most once per exchange.
    Died,
    /// A connection opened for an exchange brought bytes that are no HTTP; at most once per
    /// exchange.
    NotHttp,
    /// A check succeeded.
    CheckPassed,
    /// A check failed.
    CheckFailed,
}

/// The settings that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How it is checked.
    pub check: Check,
    /// Successes in a row to come up.
    pub rise: u32,
    /// Failures in a row to go down.
    pub fall: u32,
}

/// What refutes a failure, the weakest first; of several failures in a row the strongest demand
/// holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// A response head: the backend died before one, or what it sent was none.
    Answer,
    /// Any sign of life: the host did not answer an echo request.
    Life,
    /// A new connection: the backend refused one.
    Connection,
    /// A check: with `http`, nothing else brings a backend up.
    Check,
}

impl Health {
    /// Backends start up; the first check runs at once.
    pub(crate) const NEW: Health = Health {
        up: true,
        failures: 0,
        deaths: 0,
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

    /// Whether only a new connection can bring it up, which an echo cannot prove.
    pub(crate) fn waits_for_connection(self) -> bool {
        !self.up && self.needs >= Proof::Connection
    }

    /// The state after an event.
    #[must_use]
    pub(crate) fn after(self, event: Event, rules: &Rules) -> Health {
        let deaths = self.deaths_after(event, rules);
        let counted = Health { deaths, ..self };
        match event {
            Event::ConnectFailed => counted.after_failure(Proof::Connection, rules),
            Event::NotHttp => counted.after_failure(Proof::Answer, rules),
            Event::Died if deaths > DEATHS_FORGIVEN => counted.after_failure(Proof::Answer, rules),
            Event::Died => counted,
            Event::CheckFailed => match rules.check {
                Check::Tcp | Check::None => counted.after_failure(Proof::Connection, rules),
                Check::Http => counted.after_failure(Proof::Check, rules),
                Check::Icmp => counted.after_failure(Proof::Life, rules),
            },
            Event::Connected | Event::Answered | Event::CheckPassed
                if counted.refutes(event, rules) =>
            {
                counted.after_success(rules)
            }
            Event::Connected | Event::Answered | Event::CheckPassed => counted,
        }
    }

    /// Only an answer proves that it does not die of a request; a connection does not.
    fn deaths_after(self, event: Event, rules: &Rules) -> u8 {
        match event {
            Event::Died => self.deaths.saturating_add(1).min(DEATHS_FORGIVEN + 1),
            Event::Answered => 0,
            Event::CheckPassed if rules.check == Check::Http => 0,
            _ => self.deaths,
        }
    }

    /// Whether an event is the proof that is needed, by the present rules: the check by which it
    /// went down may have changed or gone since.
    fn refutes(self, event: Event, rules: &Rules) -> bool {
        match self.needs {
            _ if !self.up && rules.check == Check::Http => event == Event::CheckPassed,
            Proof::Check if rules.check == Check::Http => event == Event::CheckPassed,
            Proof::Answer => matches!(event, Event::Answered | Event::CheckPassed),
            Proof::Life => true,
            // Only a successful connect refutes a failed one; an echo does not.
            Proof::Connection | Proof::Check => {
                event == Event::Connected
                    || event == Event::CheckPassed && rules.check != Check::Icmp
            }
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
            ..self
        }
    }

    fn after_success(self, rules: &Rules) -> Health {
        let successes = self.successes + 1;
        if self.up || successes >= rules.rise {
            let deaths = self.deaths;
            return Health {
                deaths,
                ..Health::NEW
            };
        }
        Health { successes, ..self }
    }
}

impl Rules {
    /// The settings that matter here.
    pub(crate) fn new(settings: &HealthCheckSettings) -> Rules {
        // Zero would mean "never" for one and "at once" for the other; the configuration refuses
        // it.
        Rules {
            check: settings.kind,
            rise: settings.rise.max(1),
            fall: settings.fall.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Answered, CheckFailed, CheckPassed, ConnectFailed, Connected, Died, NotHttp};

    const ALL: [Event; 7] = [
        Connected,
        Answered,
        ConnectFailed,
        Died,
        NotHttp,
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
        for failure in [ConnectFailed, NotHttp, CheckFailed] {
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
            &[ConnectFailed, NotHttp, CheckFailed]
        ));
    }

    #[test]
    fn a_success_in_between_restarts_the_count() {
        let rules = rules(Check::Tcp, 1, 2);
        assert!(up(rules, &[NotHttp, Answered, NotHttp]));
        assert!(up(rules, &[ConnectFailed, Connected, ConnectFailed]));
        assert!(up(rules, &[NotHttp, CheckPassed, NotHttp]));
    }

    #[test]
    fn the_first_two_deaths_in_a_row_are_no_failure_and_the_third_and_each_later_one_is() {
        let once = rules(Check::Tcp, 1, 1);
        assert_eq!(run(once, &[Died, Died]).failures(), 0);
        assert!(!up(once, &[Died, Died, Died]));
        let twice = rules(Check::Tcp, 1, 2);
        assert_eq!(run(twice, &[Died, Died, Died]).failures(), 1);
        assert!(!up(twice, &[Died, Died, Died, Died]));
        let down = run(once, &[Died, Died, Died]);
        assert_eq!(down.after(Died, &once), down, "no further write");
    }

    #[test]
    fn an_answer_or_a_passed_http_check_begins_the_count_of_deaths_again_and_nothing_else_does() {
        let tcp = rules(Check::Tcp, 1, 1);
        assert!(up(tcp, &[Died, Died, Answered, Died, Died]));
        for other in [Connected, CheckPassed] {
            assert!(!up(tcp, &[Died, Died, other, Died]), "{other:?}");
        }
        let http = rules(Check::Http, 1, 1);
        assert!(up(http, &[Died, Died, CheckPassed, Died, Died]));
        let back = run(tcp, &[Died, Died, Died, CheckPassed]);
        assert!(back.is_up());
        assert!(
            !back.after(Died, &tcp).is_up(),
            "what a connection brought up goes down at the next death"
        );
    }

    #[test]
    fn a_connection_does_not_excuse_a_backend_that_dies_before_it_answers() {
        let rules = rules(Check::Tcp, 1, 3);
        let deaths = [Connected, Died, Connected, Died, Connected, Died];
        assert!(up(rules, &deaths));
        assert!(!up(rules, &[&deaths[..], &deaths[..4]].concat()));
        let down = run(rules, &[Died; 5]);
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
        for failure in [ConnectFailed, NotHttp, CheckFailed] {
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
            up(rules, &[NotHttp, Answered, NotHttp]),
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
        assert!(up(rules, &[NotHttp, Answered]));
        assert!(!up(rules, &[Died, Connected, Died, Connected, Died]));
    }

    proptest::proptest! {
        #[test]
        fn every_down_backend_can_come_up_and_every_counter_stays_in_bounds(
            events in proptest::collection::vec(0..7usize, 0..40), rise in 1..5u32, fall in 1..5u32, check in 0..4usize
        ) {
            let check = [Check::Tcp, Check::Http, Check::Icmp, Check::None][check];
            let rules = rules(check, rise, fall);
            let mut health = Health::NEW;
            for event in events {
                health = health.after(ALL[event], &rules);
                proptest::prop_assert!(health.failures <= fall && health.successes < rise && health.deaths <= 3);
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
