//! A process that was paused (SIGSTOP, a frozen container, a debugger) sees first what has arrived, and judges
//! deadlines then.

use crate::support::client::get;
use crate::support::{Backend, Client, Holding, Proxy, eventually};
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// More than the kernel hands out at once, from either side.
const MANY: usize = 600;

#[test]
fn answers_that_arrived_during_a_pause_are_passed_on_though_their_time_is_over() {
    let held = Holding::start("one");
    let proxy = Proxy::over(&[&held])
        .one_worker()
        .set("timeouts.response_head", "5s")
        .set("proxy.access_log", false)
        .start();
    let begin = Instant::now();
    let mut clients: Vec<Client> = (0..MANY)
        .map(|_| {
            let mut client = proxy.client();
            client.send(get("/hold"));
            client
        })
        .collect();
    eventually("all are with the backend", || held.held() == MANY);
    if begin.elapsed() > Duration::from_secs(4) {
        // Some may be late by right; a machine this slow proves nothing.
        return;
    }
    proxy.signal(Signal::STOP);
    eventually("it is stopped", || proxy.is_stopped());
    held.release();
    thread::sleep(Duration::from_secs(6).saturating_sub(begin.elapsed()));
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn pauses_at_any_moment_cost_no_answer() {
    let backend = Backend::start().run(|_, mut wire| {
        while wire.next_request().is_some() {
            thread::sleep(Duration::from_millis(2));
            if !wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                return;
            }
        }
    });
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.response_head", "2s")
        .set("proxy.access_log", false)
        .start();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let mut client = proxy.client();
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(client.get("/").status, 200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=5 {
            let before = answered.load(Ordering::SeqCst);
            eventually("traffic flows", || {
                answered.load(Ordering::SeqCst) > before + 40 * round
            });
            proxy.signal(Signal::STOP);
            thread::sleep(Duration::from_millis(2200));
            proxy.signal(Signal::CONT);
        }
        stop.store(true, Ordering::SeqCst);
    });
}
