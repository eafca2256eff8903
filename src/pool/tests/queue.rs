//! The queue: who gets a free place, and in which order.

use std::collections::VecDeque;

use crate::pool::queue::{Given, Waiter, Waiting};
use crate::pool::settings::{Choices as _, EjectionSettings, QueueSettings};
use crate::pool::tests::*;
use crate::pool::*;

/// A queue of this length, in turn.
fn queue(length: usize) -> BalanceSettings {
    let timeout = Duration::from_secs(1);
    BalanceSettings {
        queue: Some(QueueSettings { length, timeout }),
        ..balance(Method::RoundRobin)
    }
}

/// Backends that take one exchange at a time each.
fn narrow(count: usize) -> Vec<BackendSettings> {
    let mut list = backends(count);
    for backend in &mut list {
        backend.max_connections = Some(1);
    }
    list
}

fn narrow_pool(count: usize, length: usize) -> Pool {
    Pool::for_workers(2, narrow(count), &queue(length), &health(Kind::Tcp))
}

fn next(pool: &Pool, list: Vec<BackendSettings>, balance: &BalanceSettings) -> Pool {
    Pool::following(Some(pool), list, balance, &health(Kind::Tcp))
}

/// A request as a worker has it.
struct Request {
    tried: Tried,
    number: u64,
    waiting: Option<Waiting>,
}

impl Request {
    /// Number 7 is on connection 7; even numbers are at worker 0.
    fn new(number: u64) -> Request {
        Request {
            tried: Tried::default(),
            number,
            waiting: None,
        }
    }

    fn choose(&mut self, pool: &Pool) -> Option<InFlight> {
        self.choose_as(pool, &selection())
    }

    fn choose_as(&mut self, pool: &Pool, selection: &Selection<'_>) -> Option<InFlight> {
        let waiter = Waiter {
            worker: usize::from(self.number % 2 == 1),
            connection: self.number,
        };
        match pool.choose_or_wait(selection, &mut self.tried, None, Some(waiter)) {
            Choice::Backend { in_flight, .. } => Some(in_flight),
            Choice::Waiting(waiting) => {
                self.waiting = Some(waiting);
                None
            }
            other => panic!("{other:?}"),
        }
    }

    /// It waits.
    fn waits(number: u64, pool: &Pool) -> Request {
        let mut request = Request::new(number);
        assert!(request.choose(pool).is_none());
        request
    }

    fn take(&mut self) -> Option<Given> {
        let given = self.waiting.as_mut()?.take(&mut self.tried)?;
        self.waiting = None;
        Some(given)
    }

    /// It fails at this backend, and another is chosen.
    fn again(&mut self, place: InFlight, pool: &Pool) -> Option<InFlight> {
        self.tried.insert(&place);
        drop(place);
        self.choose(pool)
    }
}

fn first(pool: &Pool) -> InFlight {
    Request::new(0).choose(pool).unwrap()
}

fn is_refused(pool: &Pool) -> bool {
    let waiter = Some(Waiter::default());
    let choice = pool.choose_or_wait(&selection(), &mut Tried::default(), None, waiter);
    matches!(choice, Choice::QueueFull)
}

#[test]
fn a_free_place_goes_to_the_oldest_whichever_worker_has_it_and_its_worker_alone_is_told() {
    let pool = narrow_pool(1, 10);
    let mut held = first(&pool);
    let mut waiting: Vec<Request> = (1..5).map(|number| Request::waits(number, &pool)).collect();
    for (place, request) in waiting.iter_mut().enumerate() {
        assert!(request.take().is_none());
        drop(held);
        let worker = usize::from(request.number % 2 == 1);
        assert_eq!(pool.next_given(1 - worker), None);
        assert_eq!(pool.next_given(worker), Some(request.number));
        assert_eq!(pool.next_given(worker), None, "it is told once");
        let given = request.take().unwrap();
        assert_eq!((given.rule, given.in_flight.index), (Rule::FreePlace, 0));
        assert_eq!(pool.waiting(), 3 - place);
        held = given.in_flight;
    }
    drop(held);
    assert_eq!(pool.backends()[0].in_flight(), 0);
    drop(first(&pool));
}

#[test]
fn a_newcomer_overtakes_no_request_that_waits() {
    let pool = narrow_pool(2, 10);
    let [one, other] = [first(&pool), first(&pool)];
    let mut waiting = Request::waits(1, &pool);
    drop(one);
    // It has its place, though its worker has not looked yet.
    let mut newcomer = Request::waits(2, &pool);
    drop(other);
    assert_eq!(waiting.take().unwrap().in_flight.index, 0);
    assert_eq!(newcomer.take().unwrap().in_flight.index, 1);
}

#[test]
fn so_many_may_wait_and_one_more_is_refused() {
    for length in [1, 2, 100] {
        let pool = narrow_pool(1, length);
        let held = first(&pool);
        let mut waiting: VecDeque<Request> = (0..length as u64)
            .map(|number| Request::waits(number, &pool))
            .collect();
        assert!(is_refused(&pool), "{length}");
        drop(held);
        // One has a place and does not wait any more.
        waiting.push_back(Request::waits(1000, &pool));
        assert!(is_refused(&pool), "{length}");
        waiting.pop_back();
        assert_eq!(pool.waiting(), length - 1);
        drop(waiting);
        assert_eq!((pool.waiting(), pool.backends()[0].in_flight()), (0, 0));
    }
}

#[test]
fn without_a_queue_or_a_wish_to_wait_none_waits() {
    let pool = Pool::new(narrow(1), &balance(Method::RoundRobin), &health(Kind::Tcp));
    let _held = first(&pool);
    assert!(is_refused(&pool));
    let pool = narrow_pool(1, 1);
    let _held = first(&pool);
    let choice = pool.choose(&selection(), &mut Tried::default(), None);
    assert!(matches!(choice, Choice::Unavailable));
    let waiter = Waiter {
        worker: 2,
        connection: 0,
    };
    let choice = pool.choose_or_wait(&selection(), &mut Tried::default(), None, Some(waiter));
    assert!(matches!(choice, Choice::QueueFull), "no such worker");
}

#[test]
fn one_that_leaves_gives_up_its_place_and_what_it_was_given_goes_to_the_next() {
    let pool = narrow_pool(1, 3);
    let held = first(&pool);
    let [mut one, two, mut three] = [1, 2, 3].map(|number| Request::waits(number, &pool));
    drop(two);
    assert_eq!(pool.waiting(), 2);
    let two = Request::waits(4, &pool);
    drop(held);
    drop(two);
    assert_eq!(pool.next_given(1), Some(1));
    // Its client is gone before it takes the place up.
    one.waiting = None;
    assert_eq!(pool.next_given(1), Some(3));
    assert_eq!(three.take().unwrap().in_flight.index, 0);
    assert_eq!((pool.waiting(), pool.backends()[0].in_flight()), (0, 0));
}

#[test]
fn a_retry_waits_in_front_of_others_and_behind_older_retries() {
    let pool = narrow_pool(2, 10);
    let mut one = Request::new(2);
    let at_first = one.choose(&pool).unwrap();
    let held = first(&pool);
    let [mut two, mut three] = [4, 6].map(|number| Request::waits(number, &pool));
    // What it leaves goes to one that waits.
    assert!(one.again(at_first, &pool).is_none());
    let at_first = two.take().unwrap().in_flight;
    let _newcomer = Request::waits(8, &pool);
    assert!(two.again(at_first, &pool).is_none());
    let _at_first = three.take().unwrap();
    drop(held);
    assert_eq!(pool.next_given(0), Some(2), "the older retry");
    drop(one.take().unwrap());
    assert_eq!(pool.next_given(0), Some(4), "the other one");
    drop(two.take().unwrap());
    assert_eq!(pool.next_given(0), Some(8), "and then the oldest");
}

#[test]
fn a_retry_that_cannot_use_the_free_place_lets_the_next_one_have_it() {
    let pool = narrow_pool(2, 200);
    let held = first(&pool);
    let mut stuck: Vec<Request> = Vec::new();
    for number in 0..100 {
        let mut retry = Request::new(number);
        let place = retry.choose(&pool).unwrap();
        assert_eq!(place.index, 1);
        assert!(retry.again(place, &pool).is_none());
        stuck.push(retry);
    }
    // A newcomer has the place at once, since no other can use it.
    let place = first(&pool);
    let mut newcomer = Request::waits(1000, &pool);
    drop(place);
    assert_eq!(newcomer.take().unwrap().in_flight.index, 1);
    drop(held);
    assert_eq!(stuck[0].take().unwrap().in_flight.index, 0);
}

#[test]
fn a_backup_is_not_used_because_others_are_full_and_is_when_they_are_down() {
    let mut list = narrow(2);
    list[1].backup = true;
    let pool = Pool::new(list, &queue(5), &health(Kind::Tcp));
    let held = first(&pool);
    let mut waiting = Request::waits(0, &pool);
    assert!(waiting.take().is_none());
    down(&pool, 0);
    assert_eq!(waiting.take().unwrap().in_flight.index, 1);
    drop(held);
}

#[test]
fn places_that_come_with_a_backend_are_given_at_once() {
    let mut list = narrow(3);
    list[2].disabled = true;
    let pool = Pool::new(list, &queue(5), &health(Kind::Tcp));
    down(&pool, 1);
    let _held = first(&pool);
    let mut waiting: Vec<Request> = [0, 2].map(|number| Request::waits(number, &pool)).into();
    up(&pool, 1);
    assert_eq!(waiting[0].take().unwrap().in_flight.index, 1);
    let mut third = Request::waits(4, &pool);
    pool.backends()[2].set_operator(Operator::Enabled);
    // The place that the first left went to the second.
    assert_eq!(waiting[1].take().unwrap().in_flight.index, 1);
    assert_eq!(third.take().unwrap().in_flight.index, 2);
}

#[test]
fn a_reload_serves_those_that_wait_by_the_new_configuration() {
    let pool = narrow_pool(1, 10);
    let held = first(&pool);
    let mut waiting: Vec<Request> = (0..6).map(|number| Request::waits(number, &pool)).collect();
    let mut list = narrow(3);
    list[0].max_connections = Some(3);
    let after = next(&pool, list.clone(), &queue(2));
    assert!(waiting.iter_mut().all(|request| request.take().is_none()));
    after.serve_waiting();
    let mut places: Vec<InFlight> = waiting
        .drain(..4)
        .map(|mut request| request.take().unwrap().in_flight)
        .collect();
    let mut served: Vec<usize> = places.iter().map(|place| place.index).collect();
    served.sort_unstable();
    assert_eq!(served, [0, 0, 1, 2]);
    // Two wait, as many as may; then a reload takes the queue away, and they wait on.
    assert!(is_refused(&after));
    let without = next(&after, list, &balance(Method::RoundRobin));
    without.serve_waiting();
    assert!(is_refused(&without));
    places.pop();
    assert!(waiting[0].take().is_some());
    // It was given back at once, so the last one has it, too.
    assert!(waiting[1].take().is_some() && without.waiting() == 0);
    drop((held, places));
    drop(first(&without));
}

#[test]
fn room_that_a_reload_takes_away_goes_when_none_is_in_it() {
    let room = |pool: &Pool| lock(&pool.shared.state).queue.room();
    let pool = narrow_pool(1, 10);
    let held = first(&pool);
    let mut waiting: Vec<Request> = (0..10)
        .map(|number| Request::waits(number, &pool))
        .collect();
    let pool = next(&pool, narrow(1), &queue(2));
    assert_eq!(room(&pool), 20, "ten wait");
    waiting.truncate(4);
    let pool = next(&pool, narrow(1), &queue(2));
    assert_eq!((room(&pool), pool.waiting()), (4, 4));
    let pool = next(&pool, narrow(1), &queue(100));
    assert_eq!((room(&pool), pool.waiting()), (200, 4));
    let mut order = Vec::new();
    drop(held);
    while let Some(number) = pool.next_given((order.len()) % 2) {
        order.push(number);
        drop(waiting.remove(0).take());
    }
    assert_eq!(order, [0, 1, 2, 3]);
    let pool = next(&pool, narrow(1), &balance(Method::RoundRobin));
    assert_eq!(room(&pool), 0);
}

#[test]
fn a_retry_that_waits_across_a_reload_keeps_what_it_has_tried() {
    let pool = narrow_pool(2, 10);
    let mut retry = Request::new(0);
    let place = retry.choose(&pool).unwrap();
    assert_eq!(place.index, 0);
    let other = first(&pool);
    assert!(retry.again(place, &pool).is_none());
    let mut list = narrow(2);
    list.reverse();
    let after = next(&pool, list, &queue(10));
    after.serve_waiting();
    assert!(
        retry.take().is_none(),
        "the free one is the one that it has tried"
    );
    drop(other);
    let given = retry.take().unwrap();
    assert_eq!((&*given.in_flight.name, given.in_flight.index), ("b", 0));
}

#[test]
fn a_bound_client_is_served_by_its_backend_or_elsewhere_and_stays_bound() {
    let settings = BalanceSettings {
        queue: queue(5).queue,
        ..by_cookie()
    };
    let pool = Pool::new(narrow(2), &settings, &health(Kind::Tcp));
    let value = persist::cookie_value("a");
    let bound = Selection {
        cookie: Some(&value),
        ..selection()
    };
    let [at_a, at_b] = [first(&pool), first(&pool)];
    let waits = |selection: &Selection<'_>| {
        let mut request = Request::new(0);
        assert!(request.choose_as(&pool, selection).is_none());
        request
    };
    let [mut one, mut two, mut free] = [waits(&bound), waits(&bound), waits(&selection())];
    drop(at_b);
    let one = one.take().unwrap();
    assert_eq!(
        (one.in_flight.index, one.set_cookie),
        (1, false),
        "a is full"
    );
    drop(at_a);
    let two = two.take().unwrap();
    assert_eq!(
        (two.in_flight.index, two.set_cookie, two.rule),
        (0, false, Rule::Cookie)
    );
    drop(two);
    let free = free.take().unwrap();
    assert_eq!((free.in_flight.index, free.set_cookie), (0, true));
    // Its backend is down: the client is bound to the one that serves it.
    let mut lost = waits(&bound);
    down(&pool, 0);
    drop(one);
    let lost = lost.take().unwrap();
    assert_eq!((lost.in_flight.index, lost.set_cookie), (1, true));
    drop(free);
}

#[test]
fn a_bound_client_that_waits_is_given_no_place_of_a_backend_that_is_ejected() {
    let balance = BalanceSettings {
        queue: queue(10).queue,
        ejection: Some(EjectionSettings::default()),
        ..by_cookie()
    };
    let pool = Pool::for_workers(2, narrow(2), &balance, &health(Kind::Tcp));
    let [a, b] = [first(&pool), first(&pool)];
    let value = persist::cookie_value("a");
    let bound = Selection {
        cookie: Some(&value),
        ..selection()
    };
    let mut waiting = Request::new(1);
    assert!(waiting.choose_as(&pool, &bound).is_none());
    for _ in 0..5 {
        pool.served(&a, Served::BrokeOff);
    }
    assert!(a.ejection.is_out());
    drop(a);
    let mut later = Request::waits(2, &pool);
    assert!(waiting.take().is_none(), "it is out");
    drop(b);
    let given = waiting.take().unwrap();
    assert_eq!((given.in_flight.index, given.set_cookie), (1, true));
    assert!(later.take().is_none());
}

#[test]
fn each_method_gives_the_places_of_its_backends() {
    for method in Method::ALL {
        let settings = BalanceSettings {
            method: method.value,
            ..queue(10)
        };
        let pool = Pool::new(narrow(3), &settings, &health(Kind::Tcp));
        let mut held = [first(&pool), first(&pool), first(&pool)].map(Some);
        let mut waiting = [1, 2, 3].map(|_| Request::waits(0, &pool));
        for (request, at) in waiting.iter_mut().zip([1, 0, 2]) {
            let index = held[at].as_ref().unwrap().index;
            held[at] = None;
            let given = request.take().unwrap();
            assert_eq!(given.in_flight.index, index, "{}", method.name);
            std::mem::forget(given.in_flight);
        }
    }
}

#[test]
fn threads_that_wait_and_end_lose_no_place_and_no_request() {
    const THREADS: usize = 4;
    let pool = Pool::for_workers(THREADS, narrow(2), &queue(8), &health(Kind::Tcp));
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                for number in 0..2000u64 {
                    let waiter = Waiter {
                        worker,
                        connection: number,
                    };
                    let mut tried = Tried::default();
                    let choice = pool.choose_or_wait(&selection(), &mut tried, None, Some(waiter));
                    match choice {
                        Choice::Backend { in_flight, .. } => drop(in_flight),
                        // Some leave before they are served.
                        Choice::Waiting(waiting) if number % 7 == 0 => drop(waiting),
                        Choice::Waiting(waiting) => {
                            let waiting = std::cell::RefCell::new(waiting);
                            until(|| {
                                while pool.next_given(waiter.worker).is_some() {}
                                let mut waiting = waiting.borrow_mut();
                                waiting.take(&mut Tried::default()).is_some()
                            });
                        }
                        other => panic!("{other:?}"),
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.into_inner(), 8000);
    assert_eq!(pool.waiting(), 0);
    assert!(
        pool.backends()
            .iter()
            .all(|backend| backend.in_flight() == 0)
    );
}

#[derive(Debug, Clone)]
enum Change {
    Come(u8),
    End(usize),
    Leave(usize),
    Take(usize),
    Fail(usize),
    Health(usize, bool),
    Operator(usize, bool),
    Publish(Option<usize>, usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (1..4u8).prop_map(Change::Come),
        4 => any::<usize>().prop_map(Change::End),
        1 => any::<usize>().prop_map(Change::Leave),
        4 => any::<usize>().prop_map(Change::Take),
        2 => any::<usize>().prop_map(Change::Fail),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, up)| Change::Health(at, up)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, on)| Change::Operator(at, on)),
        1 => (prop::option::of(1..9usize), 0..3usize).prop_map(|(n, more)| Change::Publish(n, more)),
    ]
}

/// Plays a history: no place is ever free that a waiting request could have.
fn play(changes: Vec<Change>, method: Method, count: usize) -> Result<(), TestCaseError> {
    let settings = |length: Option<usize>| BalanceSettings {
        method,
        queue: length.map(|length| QueueSettings {
            length,
            timeout: Duration::from_secs(1),
        }),
        ..balance(Method::RoundRobin)
    };
    let list = |more: usize| {
        let mut list = narrow(count + more);
        list[0].backup = count > 2;
        list[count - 1].max_connections = Some(1 + more);
        list
    };
    let mut pool = Pool::new(list(0), &settings(Some(4)), &health(Kind::Tcp));
    let (mut length, mut has_reloaded) = (4, false);
    let (mut waiting, mut held): (Vec<Request>, Vec<(Request, InFlight)>) = Default::default();
    for change in changes {
        match change {
            Change::Come(number) => {
                for _ in 0..number {
                    let mut request = Request::new(0);
                    let before = pool.waiting();
                    let waiter = Some(Waiter::default());
                    match pool.choose_or_wait(&selection(), &mut request.tried, None, waiter) {
                        Choice::Backend { in_flight, .. } => held.push((request, in_flight)),
                        Choice::Waiting(place) => {
                            // A retry of an earlier pool may have been given a place just before.
                            prop_assert!(pool.waiting() <= length);
                            request.waiting = Some(place);
                            waiting.push(request);
                        }
                        // Those that were given a place and have not taken it up take room, too.
                        Choice::QueueFull => {
                            prop_assert!(before >= length || waiting.len() >= 2 * length);
                        }
                        _ => {}
                    }
                }
            }
            Change::End(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
            Change::Leave(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
            Change::Take(at) if !waiting.is_empty() => {
                let at = at % waiting.len();
                if let Some(given) = waiting[at].take() {
                    held.push((waiting.remove(at), given.in_flight));
                }
            }
            Change::Fail(at) if !held.is_empty() => {
                let (mut request, place) = held.swap_remove(at % held.len());
                request.tried.insert(&place);
                drop(place);
                match pool.choose_or_wait(
                    &selection(),
                    &mut request.tried,
                    None,
                    Some(Waiter::default()),
                ) {
                    Choice::Backend { in_flight, .. } => {
                        prop_assert!(!request.tried.has(&in_flight));
                        held.push((request, in_flight));
                    }
                    Choice::Waiting(place) => {
                        request.waiting = Some(place);
                        waiting.push(request);
                    }
                    _ => {}
                }
            }
            Change::Health(at, true) => up(&pool, at % count),
            Change::Health(at, false) => down(&pool, at % count),
            Change::Operator(at, on) => pool.backends()[at % count].set_operator(if on {
                Operator::Enabled
            } else {
                Operator::Disabled
            }),
            Change::Publish(next, more) => {
                (length, has_reloaded) = (next.unwrap_or(0), true);
                let balance = settings(next);
                pool = Pool::following(Some(&pool), list(more), &balance, &health(Kind::Tcp));
                pool.serve_waiting();
            }
            _ => {}
        }
        while pool.next_given(0).is_some() {}
        // A reload may lower the limit below what is there.
        prop_assert!(has_reloaded || pool.backends().iter().all(|b| b.in_flight() <= 1));
        let mut state = lock(&pool.shared.state);
        let state = &mut *state;
        if state.queue.has_newcomers() {
            let picked = state.chooser.pick(&Tried::default(), &mut state.random, 0);
            prop_assert!(picked.is_err(), "{picked:?} is free");
        }
    }
    drop(waiting);
    drop(held);
    prop_assert_eq!(pool.waiting(), 0);
    prop_assert!(
        pool.backends()
            .iter()
            .all(|backend| backend.in_flight() == 0)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_no_place_is_free_that_a_waiting_request_could_have(
        changes in prop::collection::vec(change(), 1..120), method in 0..Method::ALL.len(), count in 1..5usize
    ) {
        play(changes, Method::ALL[method].value, count)?;
    }
}

#[test]
fn a_queue_that_goes_and_comes_again_while_requests_wait_leaves_no_place_free() {
    use Change::{Come, End, Publish, Take};
    let changes = vec![
        Come(2),
        Come(3),
        Take(0),
        End(0),
        Publish(None, 1),
        Come(1),
        Publish(None, 0),
    ];
    play(changes, Method::RoundRobin, 1).unwrap();
}

#[test]
fn a_retry_that_waits_across_two_reloads_is_served_late_and_no_more_wait_than_may() {
    use Change::{Come, End, Fail, Health, Leave, Publish, Take};
    let changes = vec![
        Come(6),
        End(9_760_166_965_128_904_723),
        End(2_955_841_509_910_630_937),
        Take(2_315_867_727_534_882_768),
        Publish(None, 1),
        Come(2),
        Leave(0),
        Take(0),
        Fail(867_998_331_192_868_496),
        Publish(None, 2),
        Fail(8_789_992_287_640_104_113),
        Fail(10_179_939_631_601_031_414),
        Publish(Some(1), 0),
        Health(8_688_757_792_044_771_447, false),
        Fail(4_824_569_758_807_617_078),
        Publish(Some(1), 0),
        End(349_759_477_298_252_153),
        Come(2),
    ];
    play(changes, Method::LeastConnections, 4).unwrap();
}
