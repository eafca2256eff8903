//! What follows when time is over.

use crate::exchange::tests::*;

/// An address at which a connect neither succeeds nor fails: the queue of the listener is full.
fn silent_address() -> (SocketAddr, Vec<socket2::Socket>) {
    let new = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        socket.unwrap()
    };
    let listener = new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        // Those that do not fit in the queue are under way for good.
        let _ = socket.connect(&address);
        held.push(socket);
    }
    (address.as_socket().unwrap(), held)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_head_that_is_not_whole_in_time_is_answered_and_an_empty_line_is_not() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.1\r\nHo");
    table.carry_until(WaitFor::ClientHead);
    let timeout = table.cx.snapshot.config.timeouts.client_head;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
    assert!(matches!(table.client.state, State::Lingering(_)));

    let mut table = Table::over(&[address]);
    table.send("\r\n");
    table.carry_until(WaitFor::ClientHead);
    let closed = Turn::Closed(CloseReason::IdleTimeout);
    assert_eq!(table.time_out_after(timeout), closed);
    assert!(table.cx.decisions.snapshot().is_empty());
}

#[test]
fn a_body_that_stops_is_answered_and_gives_its_place_back() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(POST.strip_suffix("dy").unwrap());
    table.carry_until(WaitFor::ClientBody);
    let mut backend = origin.accept().unwrap().0;
    let timeout = table.cx.snapshot.config.timeouts.client_body;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
    assert!(matches!(table.client.state, State::Lingering(_)));
    let decision = table.decision();
    let reason = CloseReason::ClientBodyTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(408), Some(reason))
    );
    table.expect_no_blame();
    // The backend is not kept waiting for the rest either.
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    backend.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_body_that_stops_behind_an_answer_closes_the_connection() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(POST.strip_suffix("dy").unwrap());
    table.carry_until(WaitFor::ClientBody);
    let mut backend = origin.accept().unwrap().0;
    backend.write_all(ANSWER.as_bytes()).unwrap();
    table.carry(|table| table.busy().exchange.status.is_some());
    let deadline = table.client.deadline();
    let closed = Turn::Closed(CloseReason::ClientBodyTimeout);
    assert_eq!(table.expire_at(deadline - 1), Turn::Waiting);
    assert_eq!(table.expire_at(deadline), closed);
    let decision = table.decision();
    let reason = CloseReason::ClientBodyTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(200), Some(reason))
    );
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_client_that_expects_100_gets_it_after_a_second_and_then_has_the_time_for_its_body() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    table.carry_until(WaitFor::ClientBodyExpected);
    assert_eq!(table.time_out_after(seconds(1)), Turn::Waiting);
    assert!(table.received().starts_with("HTTP/1.1 100 "));
    let timeout = table.cx.snapshot.config.timeouts.client_body;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_client_that_takes_nothing_is_cut_when_one_more_write_brings_no_progress() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    backend.write_all(head.as_bytes()).unwrap();
    let writer = thread::spawn(move || while backend.write_all(&[b'x'; 16384]).is_ok() {});
    table.carry_until(WaitFor::ClientWrite);
    // Each time that the kernel takes more, the time begins again.
    for _ in 0..10_000 {
        if table.closed.is_some() {
            break;
        }
        let deadline = table.client.deadline();
        assert_eq!(table.expire_at(deadline - 1), Turn::Waiting);
        table.expire_at(deadline);
    }
    assert_eq!(table.closed, Some(CloseReason::ClientWriteTimeout));
    assert_eq!(table.in_flight(), 0);
    drop(table);
    writer.join().unwrap();
}

#[test]
fn a_connect_that_takes_too_long_costs_a_try_and_goes_to_another_backend_or_gives_504() {
    let ((silent, _held), (origin, address)) = (silent_address(), origin());
    let mut table = Table::over(&[silent, address]);
    table.send(GET);
    table.carry(|table| {
        matches!(&table.client.state, State::Busy(busy) if matches!(busy.stage, Stage::Opening(_)))
    });
    let timeout = table.cx.snapshot.config.timeouts.connect;
    table.time_out_after(timeout);
    table.carry_until(WaitFor::ResponseHead);
    assert_eq!(table.busy().exchange.tries.used, 1);
    origin
        .accept()
        .unwrap()
        .0
        .write_all(ANSWER.as_bytes())
        .unwrap();
    table.carry_to_the_end();
    assert!(table.received().ends_with("ok"));
    let first = table.decision().tries().0[0].outcome;
    assert_eq!(first, Outcome::ConnectTimedOut);

    let mut table = Table::over(&[silent]);
    table.send(GET);
    table.carry(|table| matches!(table.client.state, State::Busy(_)));
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 504 "));
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn an_answer_that_does_not_come_is_504_and_one_that_stops_is_cut() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let timeout = table.cx.snapshot.config.timeouts.response_head;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 504 "));
    assert!(matches!(table.client.state, State::Idle { .. }));
    assert_eq!(table.decision().reason, Some(Outcome::HeadTimedOut.text()));
    let told = lock(&table.cx.snapshot.pool.heard).pop();
    let Some(Served::Failed { outcome, took }) = told else {
        panic!("it has failed: {told:?}");
    };
    assert_eq!(outcome, Outcome::HeadTimedOut);
    assert!(took.abs_diff(timeout) < seconds(10), "{took:?}");
    table.expect_no_blame();

    let _first = origin.accept().unwrap();
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    backend.write_all(half.as_bytes()).unwrap();
    table.carry_until(WaitFor::ResponseBody);
    let timeout = table.cx.snapshot.config.timeouts.response_body;
    let closed = Turn::Closed(CloseReason::BackendTimeout);
    assert_eq!(table.time_out_after(timeout), closed);
    let decision = table.decision();
    let reason = CloseReason::BackendTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(200), Some(reason))
    );
    assert_eq!(table.told(), [OK, Served::BrokeOff]);
    table.expect_no_blame();
}

#[test]
fn a_client_that_has_closed_its_side_is_given_up_after_two_silent_seconds() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.peer.shutdown(Shutdown::Write).unwrap();
    table.carry_until(WaitFor::HalfClosed);
    let closed = Turn::Closed(CloseReason::ClientGone);
    assert_eq!(table.time_out_after(seconds(2)), closed);
    assert_eq!(table.outcome(), Outcome::ClientGone);
    assert_eq!(table.told(), []);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_silent_tunnel_ends_and_one_with_a_closed_side_ends_sooner() {
    for half_closes in [false, true] {
        let (origin, address) = origin();
        let mut table = Table::over(&[address]);
        table.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        table.carry_until(WaitFor::ResponseHead);
        let mut backend = origin.accept().unwrap().0;
        let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        backend.write_all(switch.as_bytes()).unwrap();
        table.carry_until(WaitFor::Tunnel);
        assert!(matches!(table.busy().stage, Stage::Tunnel(_)));
        let timeouts = &table.cx.snapshot.config.timeouts;
        let mut timeout = timeouts.tunnel_idle;
        if half_closes {
            timeout = timeouts.tunnel_half_closed;
            table.peer.shutdown(Shutdown::Write).unwrap();
            table.carry_until(WaitFor::HalfTunnel);
        }
        let closed = Turn::Closed(CloseReason::TunnelTimeout);
        assert_eq!(table.time_out_after(timeout), closed);
        let reason = CloseReason::TunnelTimeout.text();
        assert_eq!(table.decision().reason, Some(reason));
        assert_eq!(table.in_flight(), 0);
    }
}
