//! Names that resolve, late or never, over a name server that the tests hold in their hands.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::commands::Commands;
use crate::config::Config;
use crate::live::Snapshot;
use crate::live::tests::{live_of, snapshot_of};
use crate::pool::Event;
use crate::pool::settings::{Kind, Method};
use crate::pool::tests::{LONG, balance, health, until};

type Answer = io::Result<Vec<IpAddr>>;

/// A name server in the test's hands: it says what is asked, and the test says when and what is
/// answered.
struct NameServer {
    queries: Receiver<(String, Sender<Answer>)>,
    /// Those that are asked and not answered.
    silent: Vec<(String, Sender<Answer>)>,
}

impl NameServer {
    fn new() -> (NameServer, Lookup) {
        let (ask, queries) = channel();
        let lookup = move |name: &str| {
            let (answer, answers) = channel();
            // The test may be over already.
            let _ = ask.send((name.to_owned(), answer));
            answers.recv().unwrap_or_else(|_| Ok(Vec::new()))
        };
        let silent = Vec::new();
        (NameServer { queries, silent }, Arc::new(lookup))
    }

    /// Waits until this name is asked for, and leaves all others without an answer.
    fn answers(&mut self, name: &str, addresses: io::Result<&[&str]>) {
        while !self.is_asked(name) {
            self.is_asked_something();
        }
        let place = self.silent.iter().position(|(asked, _)| asked == name);
        let (_, answer) = self.silent.remove(place.unwrap());
        let parse = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        answer.send(addresses.map(parse)).unwrap();
    }

    fn is_asked(&self, name: &str) -> bool {
        self.silent.iter().any(|(asked, _)| asked == name)
    }

    fn is_asked_something(&mut self) {
        let query = self.queries.recv_timeout(LONG).unwrap();
        assert!(!self.is_asked(&query.0), "{query:?} is asked twice at once");
        self.silent.push(query);
    }

    /// How many are without an answer; none of them is asked for later than this.
    fn count_silent(&mut self, expected: usize) {
        while self.silent.len() < expected {
            self.is_asked_something();
        }
        let more = self.queries.recv_timeout(Duration::from_millis(20));
        assert!(more.is_err(), "{more:?} is asked beyond {expected}");
    }
}

fn failed() -> io::Result<&'static [&'static str]> {
    Err(io::Error::other("no name server answers"))
}

fn pool(hosts: &[impl AsRef<str>]) -> Arc<Pool> {
    let settings = |(place, host): (usize, &str)| {
        let mut settings = crate::pool::backend::tests::settings(host);
        settings.name = format!("{host}#{place}");
        settings.url.host = Host::Name(host.to_owned());
        settings.url.port = 80 + u16::try_from(place).unwrap();
        settings
    };
    let hosts = hosts.iter().map(AsRef::as_ref);
    Arc::new(Pool::new(
        hosts.enumerate().map(settings).collect(),
        &balance(Method::RoundRobin),
        &health(Kind::None),
    ))
}

fn live(pool: &Arc<Pool>) -> Arc<Live> {
    let snapshot = snapshot_of(Arc::clone(pool), health(Kind::None), 0);
    Arc::new(Live::new(snapshot, Commands::default()).unwrap())
}

fn start(pool: &Arc<Pool>) -> (NameServer, Resolver) {
    let (server, lookup) = NameServer::new();
    let resolver = Resolver::start_with(&live(pool), lookup, Duration::ZERO);
    (server, resolver.unwrap())
}

fn first(pool: &Pool, index: usize) -> Option<String> {
    let addresses = pool.backends()[index].addresses();
    addresses.first().map(ToString::to_string)
}

fn fail_to_connect(pool: &Pool, index: usize) {
    let backend = &pool.backends()[index];
    pool.report(backend, Event::ConnectFailed, &"connect to it refused");
}

#[test]
fn names_are_looked_up_at_start_without_waiting_and_localhost_never() {
    let pool = pool(&["localhost", "a.example", "b.localhost", "b.example"]);
    let (mut server, _resolver) = start(&pool);
    assert!(
        pool.backends()[1].is_lookup_pending(),
        "the start did not wait for an answer"
    );
    server.answers("a.example", Ok(&["192.0.2.1"]));
    server.answers("b.example", failed());
    until(|| !pool.backends()[3].is_lookup_pending());
    until(|| first(&pool, 1).is_some());
    assert_eq!(first(&pool, 1).as_deref(), Some("192.0.2.1:81"));
    assert_eq!(first(&pool, 3), None);
    assert_eq!(first(&pool, 0).as_deref(), Some("127.0.0.1:80"));
}

#[test]
fn a_name_that_comes_later_is_looked_up_and_what_is_known_of_the_others_goes_on() {
    let first_pool = pool(&["a.example"]);
    let live = live(&first_pool);
    let (mut server, lookup) = NameServer::new();
    let _resolver = Resolver::start_with(&live, lookup, LONG).unwrap();
    server.answers("a.example", Ok(&["192.0.2.1"]));
    until(|| first(&first_pool, 0).is_some());

    let both = pool(&["a.example", "b.example"]);
    let settings = both.backends().iter().map(|each| each.settings.clone());
    let (balance, health) = (balance(Method::RoundRobin), health(Kind::None));
    let next = Pool::following(Some(&first_pool), settings.collect(), &balance, &health);
    let next = Arc::new(next);
    live.publish(snapshot_of(Arc::clone(&next), health, 0));
    server.answers("b.example", Ok(&["192.0.2.2"]));
    until(|| first(&next, 1).is_some());
    assert_eq!(first(&next, 0).as_deref(), Some("192.0.2.1:80"));
    server.count_silent(0);
}

#[test]
fn a_name_is_looked_up_once_for_all_its_backends() {
    let pool = pool(&["a.example", "A.Example", "a.example"]);
    let (mut server, _resolver) = start(&pool);
    server.count_silent(1);
    server.answers("a.example", Ok(&["192.0.2.1"]));
    until(|| first(&pool, 2).is_some());
    assert_eq!(first(&pool, 0).as_deref(), Some("192.0.2.1:80"));
    assert_eq!(first(&pool, 1).as_deref(), Some("192.0.2.1:81"));
    assert_eq!(first(&pool, 2).as_deref(), Some("192.0.2.1:82"));
    fail_to_connect(&pool, 1);
    fail_to_connect(&pool, 2);
    server.answers("a.example", Ok(&["192.0.2.2"]));
    until(|| first(&pool, 0).as_deref() == Some("192.0.2.2:80"));
}

#[test]
fn a_name_waits_for_no_other_name() {
    let pool = pool(&["silent.example", "mute.example", "a.example"]);
    let (mut server, _resolver) = start(&pool);
    // The others are asked first, and never answered.
    server.count_silent(3);
    for number in 1..10 {
        let address = format!("192.0.2.{number}");
        server.answers("a.example", Ok(&[&address]));
        until(|| first(&pool, 2) == Some(format!("{address}:82")));
        fail_to_connect(&pool, 2);
    }
    assert!(server.is_asked("silent.example") && server.is_asked("mute.example"));
}

#[test]
fn more_silent_names_than_lookups_do_not_keep_a_good_name_waiting() {
    let mut hosts: Vec<String> = (0..20).map(|n| format!("silent-{n}.example")).collect();
    hosts.push("good.example".to_owned());
    let good = hosts.len() - 1;
    let pool = pool(&hosts);
    let (mut server, _resolver) = start(&pool);
    server.count_silent(LOOKUPS_MAX);
    // The C library gives up: each lookup that ends lets the next name in, and those that failed go
    // to the back.
    for host in &hosts[..5] {
        server.answers(host, failed());
    }
    server.answers("good.example", Ok(&["192.0.2.1"]));
    until(|| first(&pool, good).is_some());
    for host in &hosts[5..good] {
        server.answers(host, failed());
    }
    until(|| {
        pool.backends()
            .iter()
            .all(|backend| !backend.is_lookup_pending())
    });

    // All are silent again: from now on some lookups are kept for names that answer.
    for index in 0..good {
        fail_to_connect(&pool, index);
    }
    server.count_silent(DOUBTFUL_MAX);
    for number in 2..10 {
        fail_to_connect(&pool, good);
        let address = format!("192.0.2.{number}");
        server.answers("good.example", Ok(&[&address]));
        until(|| first(&pool, good) == Some(format!("{address}:{}", 80 + good)));
    }
    server.count_silent(DOUBTFUL_MAX);
}

#[test]
fn a_lookup_that_takes_long_is_doubtful_while_it_lasts_and_the_next_time() {
    let pool = pool(&["a.example"]);
    let now = Instant::now();
    let mut name = distinct_names(&pool, now).0.remove(0);
    assert!(!name.is_doubtful(now));
    name.begun = Some(now.checked_sub(SLOW).unwrap());
    assert!(name.is_doubtful(now));
    let answer = || Ok(vec!["192.0.2.1".parse().unwrap()]);
    name.take(answer(), Duration::ZERO, &[]);
    assert!(name.is_doubtful(now), "an answer, but a late one");
    name.begun = Some(Instant::now());
    name.take(answer(), Duration::ZERO, &[]);
    assert!(!name.is_doubtful(now));
}

#[test]
fn a_failed_connect_has_the_name_looked_up_again_and_a_failed_lookup_keeps_the_addresses() {
    let pool = pool(&["a.example"]);
    let (mut server, _resolver) = start(&pool);
    server.answers("a.example", Ok(&["192.0.2.1"]));
    until(|| first(&pool, 0).as_deref() == Some("192.0.2.1:80"));
    fail_to_connect(&pool, 0);
    server.answers("a.example", failed());
    fail_to_connect(&pool, 0);
    server.answers("a.example", Ok(&[]));
    assert_eq!(first(&pool, 0).as_deref(), Some("192.0.2.1:80"));
    fail_to_connect(&pool, 0);
    server.answers("a.example", Ok(&["192.0.2.2"]));
    until(|| first(&pool, 0).as_deref() == Some("192.0.2.2:80"));
}

#[test]
fn asking_often_is_answered_after_the_pause() {
    let pool = pool(&["a.example"]);
    let (mut server, lookup) = NameServer::new();
    let pause = Duration::from_millis(200);
    let _resolver = Resolver::start_with(&live(&pool), lookup, pause).unwrap();
    server.answers("a.example", Ok(&["192.0.2.1"]));
    until(|| first(&pool, 0).is_some());
    let answered = Instant::now();
    for _ in 0..100 {
        fail_to_connect(&pool, 0);
    }
    server.answers("a.example", Ok(&["192.0.2.1"]));
    // The pause began before `answered` was taken, by no more than the time between two threads.
    assert!(answered.elapsed() >= pause / 2);
}

/// The main thread in the test's hands: a configuration, and what is published of it.
struct Main {
    live: Arc<Live>,
    server: NameServer,
    _resolver: Resolver,
}

impl Main {
    fn start(backends: &str) -> Main {
        let text = format!(
            r#"{{"proxy": {{"port": 0}}, "backends": [{backends}], "health_check": {{"fall": 3}}}}"#
        );
        let live = live_of(Config::from_text("test", &text).unwrap());
        let (server, lookup) = NameServer::new();
        let resolver = Resolver::start_with(&live, lookup, Duration::ZERO);
        Main {
            live,
            server,
            _resolver: resolver.unwrap(),
        }
    }

    fn publish(&self, news: Vec<News>) {
        let last = self.live.current();
        let config = last.config.with_news(news).unwrap();
        let (backends, balance) = (config.backends.clone(), &config.balance);
        let pool = Pool::following(Some(&last.pool), backends, balance, &config.health_check);
        self.live
            .publish(Snapshot::new(config, pool, last.descriptors));
    }

    /// Publishes the next news, and gives the names of the backends.
    fn take(&self) -> Vec<String> {
        let news = self.next_news();
        self.publish(news);
        self.names()
    }

    fn next_news(&self) -> Vec<News> {
        until(|| self.live.news_due().is_some());
        self.live.take_news()
    }

    fn names(&self) -> Vec<String> {
        let pool = &self.live.current().pool;
        let names = pool
            .backends()
            .iter()
            .map(|backend| backend.name.to_string());
        names.collect()
    }

    fn backend(&self, name: &str) -> Arc<Backend> {
        let snapshot = self.live.current();
        let mut backends = snapshot.pool.backends().iter();
        Arc::clone(backends.find(|backend| &*backend.name == name).unwrap())
    }

    /// Has the name looked up again because of a backend, which is down then or not, and answered.
    fn answers(&mut self, name: &str, is_down: bool, addresses: io::Result<&[&str]>) {
        let pool = Arc::clone(&self.live.current().pool);
        let backend = &self.backend(name);
        pool.report(backend, Event::ConnectFailed, &"connect to it refused");
        self.server.is_asked_something();
        // Not before it is asked: then what was answered before is taken.
        for _ in 0..2 {
            pool.probed(backend, if is_down { Err("it is gone") } else { Ok(()) });
        }
        assert_eq!(backend.is_healthy(), !is_down);
        self.server.answers("web", addresses);
    }

    /// There were no news of the last answer: it was taken when the next lookup begins.
    fn expect_no_news(&mut self, name: &str) {
        let is_down = !self.backend(name).is_healthy();
        self.answers(name, is_down, failed());
        assert_eq!(self.live.take_news(), []);
    }
}

const WEB: &str = r#"{"url": "http://web", "name": "web", "each_address": true}"#;

#[test]
fn each_address_is_a_backend_and_until_they_are_known_the_name_is_one() {
    let mut main = Main::start(WEB);
    let before = Arc::clone(&main.live.current().pool);
    assert_eq!(main.names(), ["web"]);
    main.server
        .answers("web", Ok(&["192.0.2.2", "::ffff:192.0.2.1", "192.0.2.2"]));
    assert_eq!(main.take(), ["web/192.0.2.1", "web/192.0.2.2"]);
    // What came to the name meanwhile goes on.
    assert_eq!(first(&before, 0).as_deref(), Some("192.0.2.2:80"));
    let pool = &main.live.current().pool;
    assert_eq!(first(pool, 0).as_deref(), Some("192.0.2.1:80"));
    assert_eq!(first(pool, 1).as_deref(), Some("192.0.2.2:80"));
}

#[test]
fn another_order_and_a_lookup_that_fails_are_no_news() {
    let mut main = Main::start(WEB);
    main.server.answers("web", Ok(&["192.0.2.1", "192.0.2.2"]));
    main.take();
    main.answers("web/192.0.2.1", false, Ok(&["192.0.2.2", "192.0.2.1"]));
    main.expect_no_news("web/192.0.2.1");
    for answer in [Ok(&[][..]), failed(), Ok(&[]), failed()] {
        main.answers("web/192.0.2.1", true, answer);
        main.expect_no_news("web/192.0.2.2");
    }
}

#[test]
fn a_server_that_answers_with_a_part_does_not_make_backends_come_and_go() {
    let mut main = Main::start(WEB);
    main.server.answers("web", Ok(&["192.0.2.1", "192.0.2.2"]));
    main.take();
    main.answers("web/192.0.2.1", false, Ok(&["192.0.2.2", "192.0.2.3"]));
    let all = ["web/192.0.2.1", "web/192.0.2.2", "web/192.0.2.3"];
    assert_eq!(main.take(), all);
    for part in [
        &["192.0.2.3", "192.0.2.1"],
        &["192.0.2.1", "192.0.2.2"],
        &["192.0.2.2", "192.0.2.3"],
    ] {
        main.answers("web/192.0.2.1", false, Ok(part));
        main.expect_no_news("web/192.0.2.1");
    }
    assert_eq!(main.names(), all);
}

#[test]
fn an_address_goes_when_three_answers_lack_it_and_at_once_when_it_is_down() {
    let mut main = Main::start(WEB);
    main.server
        .answers("web", Ok(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    main.take();
    let without_1: &[&str] = &["192.0.2.2", "192.0.2.3"];
    main.answers("web/192.0.2.1", false, Ok(without_1));
    main.answers("web/192.0.2.1", false, Ok(without_1));
    main.expect_no_news("web/192.0.2.1");
    main.answers("web/192.0.2.1", false, Ok(without_1));
    assert_eq!(main.take(), ["web/192.0.2.2", "web/192.0.2.3"]);
    let kept = main.live.current().pool.backends()[0].id;
    main.answers("web/192.0.2.3", true, Ok(&["192.0.2.2"]));
    assert_eq!(main.take(), ["web/192.0.2.2"]);
    assert_eq!(main.live.current().pool.backends()[0].id, kept);
}

#[test]
fn what_main_has_not_published_is_told_again() {
    let mut main = Main::start(WEB);
    main.server.answers("web", Ok(&["192.0.2.1"]));
    main.next_news();
    main.answers("web", false, Ok(&["192.0.2.1"]));
    assert_eq!(main.take(), ["web/192.0.2.1"]);
}

#[test]
fn entries_of_one_name_share_its_lookup() {
    let port = r#"{"url": "http://web:81", "each_address": true}"#;
    let plain = r#"{"url": "http://WEB:82"}"#;
    let mut main = Main::start(&format!("{WEB}, {port}, {plain}"));
    main.server.count_silent(1);
    main.server.answers("web", Ok(&["192.0.2.1"]));
    assert_eq!(main.take(), ["web/192.0.2.1", "web:81/192.0.2.1", "web:82"]);
    let pool = &main.live.current().pool;
    assert_eq!(first(pool, 1).as_deref(), Some("192.0.2.1:81"));
    assert_eq!(first(pool, 2).as_deref(), Some("192.0.2.1:82"));
}

#[test]
fn a_name_has_at_most_so_many_addresses_and_keeps_those_that_it_has() {
    let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
    let mut members = Members::default();
    let many: Vec<IpAddr> = (10_000..20_000).map(address).collect();
    members.take(&many, &[], |_| false);
    assert_eq!(members.addresses(), many[..ADDRESSES_MAX]);
    let more: Vec<IpAddr> = (0..20_000).map(address).collect();
    members.take(&more, &[], |_| false);
    assert_eq!(members.addresses(), many[..ADDRESSES_MAX]);
}

#[test]
fn stopping_does_not_wait_for_a_lookup() {
    let pool = pool(&["a.example"]);
    let (mut server, resolver) = start(&pool);
    server.count_silent(1);
    drop(resolver);
    until(|| Arc::strong_count(&pool) == 1);
    server.answers("a.example", Ok(&["192.0.2.1"]));
    assert_eq!(first(&pool, 0), None, "what came too late is not used");
}
