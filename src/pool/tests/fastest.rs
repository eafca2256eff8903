//! `fastest`, under load on a clock that is set: what the pool chooses among backends that are
//! slow, fail, or recover.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::pool::chooser::draws::Random;
use crate::pool::hash::log2;
use crate::pool::tests::*;
use crate::pool::time::Sources;
use crate::pool::*;

const SECOND: u64 = 1_000_000;
const MS: u64 = 1000;

/// What a backend does with a request that comes at a time.
struct Fate {
    /// Until it is there.
    connect_us: u64,
    /// In one of the backend's places.
    service_us: u64,
    /// It fails at once, and needs no place.
    fails: bool,
}

impl Fate {
    fn takes(service_us: u64) -> Fate {
        Fate {
            connect_us: 0,
            service_us,
            fails: false,
        }
    }
}

type Fates<'a> = dyn Fn(usize, u64, &mut Random) -> Fate + 'a;

/// A load on some equal backends.
struct Load<'a> {
    backends: usize,
    /// How many requests each of them serves at once.
    at_once: usize,
    /// Requests in a second, at random.
    rate: u64,
    seconds: u64,
    /// Of a backend, at a time.
    fate: &'a Fates<'a>,
}

/// What came of a load.
struct Played {
    /// Of the requests of the last three quarters, in order of length.
    took_us: Vec<u64>,
    /// For each second, how many requests each backend got.
    hits: Vec<Vec<u32>>,
    failed: u64,
    /// The longest time between two choices of each backend.
    waited_us: Vec<u64>,
}

impl Played {
    fn percentile(&self, thousandths: usize) -> u64 {
        self.took_us[self.took_us.len() * thousandths / 1000]
    }

    /// The share of a backend in these seconds, in per cent.
    fn share(&self, backend: usize, seconds: std::ops::Range<usize>) -> u32 {
        let hits = &self.hits[seconds];
        let own: u32 = hits.iter().map(|hits| hits[backend]).sum();
        let all: u32 = hits.iter().flatten().sum();
        own * 100 / all
    }
}

/// An exponential time of this mean.
fn exponential(mean_us: u64, random: &mut Random) -> u64 {
    // ln 2 in 1 / 2^16.
    let minus_ln = ((48 << 32) - log2(random.below(1 << 48) + 1)) >> 16;
    (mean_us * ((minus_ln * 45_426) >> 16)) >> 16
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Comes,
    Arrives,
    Ends,
}

/// One request at a backend.
struct Request {
    in_flight: InFlight,
    began_us: u64,
    fate: Fate,
}

fn play(method: Method, load: &Load<'_>, seed: u64) -> Played {
    let (sources, now_us) = Sources::set(seed);
    let list = backends(load.backends);
    let pool = Pool::with_sources(sources, list, &balance(method), &health(Kind::Tcp));
    let mut random = Random::new(seed);
    let mut fates = Random::new(!seed);
    let mut steps = BinaryHeap::new();
    let mut requests: Vec<Option<Request>> = Vec::new();
    let mut queues = vec![VecDeque::new(); load.backends];
    let mut busy = vec![0; load.backends];
    let mut last_us = vec![0; load.backends];
    let mut played = Played {
        took_us: Vec::new(),
        hits: vec![vec![0; load.backends]; usize::try_from(load.seconds).unwrap()],
        failed: 0,
        waited_us: vec![0; load.backends],
    };
    steps.push(Reverse((0, 0, Step::Comes)));
    while let Some(Reverse((at_us, number, step))) = steps.pop() {
        if at_us >= load.seconds * SECOND {
            break;
        }
        now_us.store(at_us, Ordering::Relaxed);
        match step {
            Step::Comes => {
                let next_us = at_us + exponential(SECOND / load.rate, &mut random);
                steps.push(Reverse((next_us, 0, Step::Comes)));
                let choice = pool.choose(&selection(), &mut Tried::default(), None);
                let Choice::Backend { in_flight, .. } = choice else {
                    panic!("{choice:?}");
                };
                let place = in_flight.index;
                let second = usize::try_from(at_us / SECOND).unwrap();
                played.hits[second][place] += 1;
                let waited_us = at_us - std::mem::replace(&mut last_us[place], at_us);
                played.waited_us[place] = played.waited_us[place].max(waited_us);
                let fate = (load.fate)(place, at_us, &mut fates);
                let arrives_us = at_us + fate.connect_us;
                requests.push(Some(Request {
                    in_flight,
                    began_us: at_us,
                    fate,
                }));
                steps.push(Reverse((arrives_us, requests.len() - 1, Step::Arrives)));
            }
            Step::Arrives => {
                let request = requests[number].as_ref().unwrap();
                let (place, fate) = (request.in_flight.index, &request.fate);
                if fate.fails || busy[place] < load.at_once {
                    busy[place] += usize::from(!fate.fails);
                    steps.push(Reverse((at_us + fate.service_us, number, Step::Ends)));
                } else {
                    queues[place].push_back(number);
                }
            }
            Step::Ends => {
                let request = requests[number].take().unwrap();
                let place = request.in_flight.index;
                let took_us = at_us - request.began_us;
                let status = if request.fate.fails { 503 } else { 200 };
                let took = Duration::from_micros(took_us);
                pool.served(&request.in_flight, Served::Answered { status, took });
                played.failed += u64::from(request.fate.fails);
                if request.began_us >= load.seconds * SECOND / 4 {
                    played.took_us.push(took_us);
                }
                if request.fate.fails {
                    continue;
                }
                match queues[place].pop_front() {
                    Some(next) => {
                        let fate = &requests[next].as_ref().unwrap().fate;
                        steps.push(Reverse((at_us + fate.service_us, next, Step::Ends)));
                    }
                    None => busy[place] -= 1,
                }
            }
        }
    }
    played.took_us.sort_unstable();
    for (waited_us, last_us) in played.waited_us.iter_mut().zip(last_us) {
        *waited_us = (*waited_us).max(load.seconds * SECOND - last_us);
    }
    played
}

/// The same for several seeds, the times together.
fn play_often(method: Method, load: &Load<'_>) -> Played {
    let mut all = play(method, load, 1);
    for seed in 2..=4 {
        let mut next = play(method, load, seed);
        all.took_us.append(&mut next.took_us);
        all.failed += next.failed;
        for (longest, next) in all.waited_us.iter_mut().zip(next.waited_us) {
            *longest = (*longest).max(next);
        }
        for (hits, next) in all.hits.iter_mut().zip(next.hits) {
            hits.iter_mut()
                .zip(next)
                .for_each(|(hits, next)| *hits += next);
        }
    }
    all.took_us.sort_unstable();
    all
}

/// A request takes 10 ms on average.
const MEAN_US: u64 = 10 * MS;

/// 60 per cent of what so many backends take that serve four at once.
fn sixty_per_cent(backends: u64) -> u64 {
    backends * 4 * SECOND / MEAN_US * 6 / 10
}

#[test]
fn with_one_of_four_ten_times_slower_clients_hardly_notice() {
    let slow = |backend, _, random: &mut Random| {
        Fate::takes(exponential(MEAN_US, random) * if backend == 3 { 10 } else { 1 })
    };
    let four = Load {
        backends: 4,
        at_once: 4,
        rate: sixty_per_cent(4),
        seconds: 60,
        fate: &slow,
    };
    let three = Load {
        backends: 3,
        ..four
    };
    let (alone, with_slow) = (
        play_often(Method::Fastest, &three),
        play_often(Method::Fastest, &four),
    );
    let (alone_us, with_slow_us) = (alone.percentile(990), with_slow.percentile(990));
    assert!(
        with_slow_us * 10 <= alone_us * 12,
        "{with_slow_us} {alone_us}"
    );
    let others_us = play_often(Method::LeastConnections, &four).percentile(990);
    assert!(with_slow_us * 2 < others_us, "{with_slow_us} {others_us}");
    for waited_us in with_slow.waited_us {
        assert!(waited_us < 10 * SECOND + SECOND / 10, "{waited_us}");
    }
}

#[test]
fn among_equal_backends_it_is_as_good_as_least_connections() {
    let equal = |_, _, random: &mut Random| Fate::takes(exponential(MEAN_US, random));
    let load = Load {
        backends: 4,
        at_once: 4,
        rate: sixty_per_cent(4),
        seconds: 60,
        fate: &equal,
    };
    let fastest = play_often(Method::Fastest, &load);
    let least = play_often(Method::LeastConnections, &load);
    for thousandths in [500, 990] {
        let (found_us, other_us) = (
            fastest.percentile(thousandths),
            least.percentile(thousandths),
        );
        assert!(
            found_us.abs_diff(other_us) * 20 <= other_us,
            "{found_us} {other_us}"
        );
    }
    for backend in 0..4 {
        let share = fastest.share(backend, 0..60);
        assert!((22..=28).contains(&share), "{share}");
    }
}

#[test]
fn a_backend_that_is_fast_again_has_its_share_within_half_a_minute() {
    // From second 20 to 40 it is slow, or fails at once.
    let sick = |backend, at_us| backend == 3 && (20 * SECOND..40 * SECOND).contains(&at_us);
    let slow = |backend, at_us, random: &mut Random| {
        let slower = if sick(backend, at_us) { 100 } else { 1 };
        Fate::takes(exponential(MEAN_US, random) * slower)
    };
    let failing = |backend, at_us, random: &mut Random| Fate {
        fails: sick(backend, at_us),
        ..Fate::takes(if sick(backend, at_us) {
            100
        } else {
            exponential(MEAN_US, random)
        })
    };
    let fates: [&Fates<'_>; 2] = [&slow, &failing];
    for fate in fates {
        let load = Load {
            backends: 4,
            at_once: 4,
            rate: sixty_per_cent(3),
            seconds: 80,
            fate,
        };
        let played = play_often(Method::Fastest, &load);
        assert!(played.share(3, 0..20) >= 20);
        // Regression, Envoy 20907: failures that are fast attract no load.
        assert!(played.share(3, 22..40) <= 1, "{:?}", played.hits);
        assert!(played.share(3, 70..80) >= 20, "{:?}", played.hits);
        assert!(played.failed <= 4 * 100, "{}", played.failed);
    }
}

#[test]
fn regression_traefik_12306_a_backend_that_was_slow_once_is_not_starved() {
    // The first request of one waits for the backend to warm up.
    let fate = |backend, at_us, _: &mut Random| {
        let cold = backend == 3 && at_us < SECOND / 10;
        Fate::takes(if cold { 5 * SECOND } else { 5 * MS })
    };
    let load = Load {
        backends: 4,
        at_once: 4,
        rate: 1000,
        seconds: 60,
        fate: &fate,
    };
    let played = play(Method::Fastest, &load, 1);
    assert!(played.share(3, 30..60) >= 20, "{:?}", played.hits);
}

#[test]
fn regression_envoy_44989_a_slow_connect_counts() {
    let fate = |backend, _, random: &mut Random| Fate {
        connect_us: if backend == 3 { 200 * MS } else { 0 },
        ..Fate::takes(exponential(MEAN_US, random))
    };
    let load = Load {
        backends: 4,
        at_once: 4,
        rate: sixty_per_cent(3),
        seconds: 60,
        fate: &fate,
    };
    let played = play_often(Method::Fastest, &load);
    assert!(played.share(3, 5..60) <= 1, "{:?}", played.hits);
}

#[test]
fn regression_linkerd_11043_dear_requests_do_not_punish_the_backend_that_got_them() {
    let fate = |_, _, random: &mut Random| {
        let is_dear = random.below(100) == 0;
        Fate::takes(if is_dear { SECOND } else { 5 * MS })
    };
    let load = Load {
        backends: 4,
        at_once: 4,
        // A request takes 15 ms on average.
        rate: 640,
        seconds: 60,
        fate: &fate,
    };
    let fastest = play_often(Method::Fastest, &load);
    let least = play_often(Method::LeastConnections, &load);
    assert_eq!(fastest.percentile(500), 5 * MS);
    let mean_us = |played: &Played| {
        let took_us = &played.took_us;
        took_us.iter().sum::<u64>() / took_us.len() as u64
    };
    let (found_us, other_us) = (mean_us(&fastest), mean_us(&least));
    assert!(
        found_us * 10 <= other_us * 14,
        "{found_us} us, {other_us} us"
    );
    for backend in 0..4 {
        let share = fastest.share(backend, 0..60);
        assert!((20..=30).contains(&share), "{share} per cent");
    }

    // One alone: the backend that got it goes on.
    let one = |backend, at_us, random: &mut Random| {
        let is_dear = backend == 3 && (20 * SECOND..20 * SECOND + 8 * MS).contains(&at_us);
        Fate::takes(if is_dear {
            SECOND
        } else {
            exponential(5 * MS, random)
        })
    };
    let load = Load { fate: &one, ..load };
    let played = play_often(Method::Fastest, &load);
    let share = played.share(3, 22..25);
    assert!(share >= 10, "{share} per cent");
}
