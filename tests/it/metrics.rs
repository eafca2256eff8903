//! What is counted, as a scraper of Prometheus reads it.

use std::net::SocketAddr;

use kit::exposition::{Metrics, parse};
use rustix::process::Signal;

use crate::support::admin::{address, ask};
use crate::support::client::get;
use crate::support::proxy::Plan;
use crate::support::{Addressed, Backend, Client, Origin, Proxy, Refusing, eventually};

fn plan(backends: &[&dyn Addressed]) -> Plan {
    Proxy::over(backends).set("admin.address", "127.0.0.1:0")
}

fn scrape(admin: SocketAddr) -> Metrics {
    let response = ask(admin, "GET", "/metrics", "");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.fields.one("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    parse(&response.text()).unwrap()
}

/// A proxy and where to scrape it.
struct Scraped {
    proxy: Proxy,
    admin: SocketAddr,
}

impl Scraped {
    fn start(plan: Plan) -> Scraped {
        let proxy = plan.start();
        let admin = address(&proxy);
        Scraped { proxy, admin }
    }

    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let metrics = scrape(self.admin);
        let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
        let value = metric.value(labels);
        value.unwrap_or_else(|| panic!("no {name}{labels:?}: {:?}", metric.samples))
    }

    /// Waits until it has this value: a client may have its answer before it is counted.
    #[track_caller]
    fn expect(&self, name: &str, labels: &[(&str, &str)], wanted: u32) {
        let wanted = f64::from(wanted);
        let what = format!("{name}{labels:?} {wanted}");
        eventually(&what, || {
            let value = self.value(name, labels);
            assert!(value <= wanted, "{what}, not {value}");
            (value - wanted).abs() < 0.5
        });
    }

    /// All failures of requests are of this kind, and there are so many.
    #[track_caller]
    fn expect_failures(&self, kind: &str, wanted: u32) {
        self.expect("rondo_request_failures_total", &[("kind", kind)], wanted);
        let metrics = scrape(self.admin);
        let all = &metrics["rondo_request_failures_total"].samples;
        let sum: f64 = all.iter().map(|(_, _, value)| value).sum();
        assert!((sum - f64::from(wanted)).abs() < 0.5, "{all:?}");
    }
}

#[test]
fn requests_and_answers_count_for_all_and_for_their_backend() {
    let origin = Origin::start("one");
    let it = Scraped::start(plan(&[&origin]).set("backends.0.name", "one"));
    it.expect("rondo_requests_total", &[], 0);
    let mut client = it.proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    let (one, two) = ([("backend", "one")], ("code", "2xx"));
    it.expect("rondo_requests_total", &[], 3);
    it.expect("rondo_backend_requests_total", &one, 3);
    it.expect("rondo_responses_total", &[two], 3);
    it.expect("rondo_backend_responses_total", &[one[0], two], 3);
    for name in [
        "rondo_response_head_seconds",
        "rondo_backend_response_head_seconds",
        "rondo_request_duration_seconds",
    ] {
        let metrics = scrape(it.admin);
        let counts = metrics[name].samples.iter();
        let counts: Vec<f64> = counts
            .filter(|(full_name, ..)| full_name.ends_with("_count"))
            .map(|(.., value)| *value)
            .collect();
        assert_eq!(counts, [3.0], "{name}");
    }
    assert!(it.value("rondo_client_sent_bytes_total", &[]) > 200.0);
    assert!(it.value("rondo_client_received_bytes_total", &[]) > 60.0);
    it.expect_failures("died", 0);
    // What could not be understood is a request too, and no failure.
    client.send("GET / HTTP/3.0\r\n\r\n");
    assert_eq!(client.read_response().status, 505);
    it.expect("rondo_requests_total", &[], 4);
    it.expect("rondo_responses_total", &[("code", "5xx")], 1);
    it.expect("rondo_backend_requests_total", &one, 3);
    it.expect_failures("died", 0);
}

#[test]
fn a_failed_try_is_the_backends_failure_and_only_what_the_client_gets_is_one_of_all() {
    let (dead, origin) = (Refusing::start(), Origin::start("two"));
    let it = Scraped::start(
        plan(&[&dead, &origin])
            .set("backends.0.name", "dead")
            .set("backends.1.name", "two")
            .set("health_check.down_interval", "1h")
            .one_worker(),
    );
    assert_eq!(it.proxy.client().get("/").status, 200);
    let kind = ("kind", "connect_failed");
    it.expect(
        "rondo_backend_failures_total",
        &[("backend", "dead"), kind],
        1,
    );
    it.expect("rondo_backend_requests_total", &[("backend", "dead")], 1);
    it.expect("rondo_backend_retries_total", &[("backend", "dead")], 0);
    it.expect("rondo_backend_retries_total", &[("backend", "two")], 1);
    it.expect("rondo_retries_total", &[], 1);
    it.expect("rondo_requests_total", &[], 1);
    it.expect_failures("connect_failed", 0);
    it.expect("rondo_backend_up", &[("backend", "dead")], 0);
    it.expect("rondo_backend_up", &[("backend", "two")], 1);
    origin.kill();
    assert_eq!(it.proxy.client().get("/").status, 502);
    it.expect_failures("connect_failed", 1);
}

/// A backend that does this with each request.
fn scripted(script: impl Fn(crate::support::Wire) + Send + Sync + 'static) -> impl Addressed {
    Backend::start().run(move |_, wire| script(wire))
}

#[test]
fn each_kind_of_failure_counts_where_it_belongs() {
    let dying = scripted(|mut wire| {
        wire.expect_request();
        wire.close();
    });
    let silent = scripted(|mut wire| {
        wire.expect_request();
        wire.read_until_gone();
    });
    let babbling = scripted(|mut wire| {
        wire.expect_request();
        wire.send("SSH-2.0-OpenSSH_9.2\r\n");
        wire.read_until_gone();
    });
    let breaking = scripted(|mut wire| {
        wire.expect_request();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        wire.close();
    });
    let pausing = scripted(|mut wire| {
        wire.expect_request();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        wire.read_until_gone();
    });
    let cases: [(&dyn Addressed, &str); 5] = [
        (&dying, "died"),
        (&silent, "head_timed_out"),
        (&babbling, "bad_answer"),
        (&breaking, "broke_off"),
        (&pausing, "broke_off"),
    ];
    for (backend, kind) in cases {
        let it = Scraped::start(
            plan(&[backend])
                .set("backends.0.name", "x")
                .set("timeouts.response_head", "100ms")
                .set("timeouts.response_body", "100ms"),
        );
        let mut client = it.proxy.client();
        client
            .send("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.read_until_gone();
        let labels = [("backend", "x"), ("kind", kind)];
        it.expect("rondo_backend_failures_total", &labels, 1);
        it.expect_failures(kind, 1);
    }
}

#[test]
fn without_a_backend_to_take_it_a_request_fails_for_no_backends_fault() {
    let origin = Origin::start("one");
    let weightless = plan(&[&origin]).set("backends.0.name", "one");
    let it = Scraped::start(weightless.set("backends.0.weight", 0));
    assert_eq!(it.proxy.client().get("/").status, 503);
    it.expect_failures("no_backend", 1);
    it.expect("rondo_backend_requests_total", &[("backend", "one")], 0);
    it.expect("rondo_backend_weight", &[("backend", "one")], 0);
    it.expect("rondo_responses_total", &[("code", "5xx")], 1);
}

#[test]
fn a_stale_connection_is_a_retry_and_no_failure() {
    let backend = Backend::start();
    let it = Scraped::start(plan(&[&backend]).set("backends.0.name", "x").one_worker());
    let mut client = it.proxy.client();
    client.send(get("/1"));
    let mut wire = backend.accept();
    wire.serve("one");
    assert_eq!(client.read_response().text(), "one");
    client.send(get("/2"));
    wire.expect_request();
    wire.close();
    backend.accept().serve("two");
    assert_eq!(client.read_response().text(), "two");
    it.expect("rondo_retries_total", &[], 1);
    it.expect("rondo_backend_requests_total", &[("backend", "x")], 3);
    it.expect(
        "rondo_backend_failures_total",
        &[("backend", "x"), ("kind", "died")],
        0,
    );
}

#[test]
fn connections_count_by_state_and_by_the_reason_of_their_end() {
    let backend = Backend::start();
    let it = Scraped::start(plan(&[&backend]).set("timeouts.tunnel_idle", "1h"));
    let state = |state: &'static str| [("state", state)];
    let name = "rondo_client_connections";
    let expect = |label: &'static str, wanted: u32| {
        eventually(label, || {
            (it.value(name, &state(label)) - f64::from(wanted)).abs() < 0.5
        });
    };
    let idle = it.proxy.client();
    let mut busy = it.proxy.client();
    expect("idle", 2);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request_head();
    expect("exchanging", 1);
    expect("idle", 1);
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(busy.read_response_head().status, 101);
    expect("tunnels", 1);
    expect("exchanging", 0);
    // Refused with its input unread: it lingers.
    let mut refused = it.proxy.client();
    refused.send("no request\r\n\r\n");
    assert_eq!(refused.read_response().status, 400);
    expect("closing", 1);
    refused.close();
    expect("closing", 0);
    idle.close();
    expect("idle", 0);
    wire.close();
    busy.read_to_end();
    busy.close();
    expect("tunnels", 0);
    let closed = "rondo_client_connections_closed_total";
    it.expect(closed, &[("reason", "client_done"), ("error", "false")], 1);
    it.expect("rondo_client_connections_accepted_total", &[], 3);
    let metrics = scrape(it.admin);
    let ended: f64 = metrics[closed]
        .samples
        .iter()
        .map(|(.., value)| value)
        .sum();
    assert!((ended - 3.0).abs() < 0.5, "{:?}", metrics[closed].samples);
}

#[test]
fn in_tcp_mode_a_connection_is_a_request_and_a_tunnel() {
    let backend = Backend::start();
    let tcp = plan(&[&backend]).set("backends.0.name", "x");
    let it = Scraped::start(tcp.set("proxy.mode", "tcp"));
    let mut client = it.proxy.client();
    client.send("ping");
    let mut wire = backend.accept();
    assert_eq!(wire.read_exact(4), b"ping");
    it.expect("rondo_requests_total", &[], 1);
    it.expect("rondo_backend_requests_total", &[("backend", "x")], 1);
    it.expect("rondo_backend_in_flight", &[("backend", "x")], 1);
    it.expect("rondo_client_connections", &[("state", "tunnels")], 1);
    drop(wire);
    client.read_to_end();
    drop(backend);
    client.close();
    Client::connect(&it.proxy).read_until_gone();
    it.expect_failures("connect_failed", 1);
}

#[test]
fn the_series_of_a_removed_backend_vanish_and_the_totals_go_on() {
    let [one, two] = Origin::several();
    let mut it = Scraped::start(
        plan(&[&one, &two])
            .set("backends.0.name", "one")
            .set("backends.1.name", "two"),
    );
    for _ in 0..4 {
        assert_eq!(it.proxy.client().get("/").status, 200);
    }
    it.expect("rondo_backend_requests_total", &[("backend", "two")], 2);
    it.proxy.reload(|config| {
        config["backends"].as_array_mut().unwrap().pop();
    });
    let metrics = scrape(it.admin);
    for (name, metric) in &metrics {
        let of_two = metric
            .samples
            .iter()
            .filter(|(_, labels, _)| labels.contains(&("backend".to_owned(), "two".to_owned())));
        assert_eq!(of_two.count(), 0, "{name}");
    }
    it.expect("rondo_backend_requests_total", &[("backend", "one")], 2);
    it.expect("rondo_requests_total", &[], 4);
    it.proxy.signal(Signal::TERM);
}

#[test]
fn a_scrape_tells_the_version_and_the_memory() {
    let origin = Origin::start("one");
    let it = Scraped::start(plan(&[&origin]));
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    it.expect("rondo_build_info", &version, 1);
    let resident = it.value("rondo_resident_memory_bytes", &[]);
    assert!(resident > 100_000.0 && resident < 1e9, "{resident}");
    assert!(it.value("rondo_start_time_seconds", &[]) > 1.6e9);
    for metric in scrape(it.admin).values() {
        assert!(!metric.help.is_empty());
    }
    assert_eq!(ask(it.admin, "GET", "/metrics?x=1", "").status, 400);
    assert_eq!(ask(it.admin, "POST", "/metrics", "").status, 405);
}

// The reader of the format itself.

#[test]
fn a_label_is_read_as_it_was_meant() {
    let text = "# HELP a b\n# TYPE a counter\na{x=\"q\\\"\\\\\\nz\",y=\"\"} 1.5\n";
    let metrics = parse(text).unwrap();
    let labels = [("y", ""), ("x", "q\"\\\nz")];
    assert_eq!(metrics["a"].value(&labels), Some(1.5));
    assert_eq!(metrics["a"].value(&labels[..1]), None);
}

#[test]
fn what_a_scraper_could_misread_is_refused() {
    let head = "# HELP a b\n# TYPE a counter\n";
    for rest in [
        "a 1",
        "a  1\n",
        "a\n",
        "b 1\n",
        "a 1\na 2\n",
        "a{x=\"1\"} 1\na{x=\"1\"} 2\n",
        "a{x=\"1\n\"} 1\n",
        "a{x=\"\\t\"} 1\n",
        "a{x=\"1\",} 1\n",
        "a{x=\"1\"}1\n",
        "a{x=\"1\",x=\"2\"} 1\n",
        "a{1x=\"1\"} 1\n",
        "a -1\n",
        "a NaN\n",
        "a 1 7\n",
        "# TYPE a counter\n",
        "# HELP a again\n",
        "# HELP c d\nc 1\n",
    ] {
        assert!(parse(&format!("{head}{rest}")).is_err(), "{rest}");
    }
    assert!(parse("").is_ok_and(|metrics| metrics.is_empty()));
}

#[test]
fn the_buckets_of_a_histogram_rise_to_its_count() {
    let head = "# HELP a b\n# TYPE a histogram\n";
    let bucket = |le: &str, count: u32| format!("a_bucket{{le=\"{le}\"}} {count}\n");
    let good = [
        bucket("0.1", 1),
        bucket("+Inf", 3),
        "a_sum 1\na_count 3\n".to_owned(),
    ];
    assert!(parse(&format!("{head}{}", good.concat())).is_ok());
    for bad in [
        [
            bucket("0.1", 4),
            bucket("+Inf", 3),
            "a_sum 1\na_count 3\n".to_owned(),
        ],
        [
            bucket("0.1", 1),
            bucket("+Inf", 3),
            "a_sum 1\na_count 4\n".to_owned(),
        ],
        [
            bucket("0.1", 1),
            bucket("0.2", 3),
            "a_sum 1\na_count 3\n".to_owned(),
        ],
        [
            bucket("0.1", 1),
            bucket("+Inf", 3),
            "a_count 3\n".to_owned(),
        ],
        [bucket("0.1", 1), bucket("+Inf", 3), "a_sum 1\n".to_owned()],
    ] {
        assert!(
            parse(&format!("{head}{}", bad.concat())).is_err(),
            "{bad:?}"
        );
    }
}
