//! How exchanges end, and what becomes of their connections.

use crate::exchange::tests::*;

#[test]
fn a_request_that_is_refused_is_answered_and_its_connection_lingers() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.1\r\n\r\n");
    table.carry(|table| matches!(table.client.state, State::Lingering(_)));
    let answer = table.received();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\r\nConnection: close\r\n"));
    assert_eq!(table.cx.backends.len(), 0);
}

#[test]
fn a_body_that_is_malformed_is_refused_and_its_backend_left() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    table.carry_until(WaitFor::ClientBody);
    let _backend = origin.accept().unwrap();
    table.send("zz\r\n");
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 400 "));
    assert!(matches!(table.client.state, State::Lingering(_)));
    let decision = table.decision();
    assert!(decision.status == Some(400) && decision.reason.is_some());
    assert_eq!(decision.tries().0.len(), 1);
    assert_eq!(table.cx.backends.len(), 0);
    table.expect_no_blame();
}

#[test]
fn a_client_that_leaves_without_a_request_leaves_nothing_behind() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.peer.shutdown(Shutdown::Write).unwrap();
    table.carry(|table| table.closed.is_some());
    assert_eq!(table.closed, Some(CloseReason::ClientDone));
    assert!(table.cx.decisions.snapshot().is_empty());
    let Table {
        mut peer, client, ..
    } = table;
    drop(client);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn an_exchange_that_finishes_keeps_both_connections() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    backend.write_all(ANSWER.as_bytes()).unwrap();
    table.carry_to_the_end();
    assert!(table.received().ends_with("ok"));
    assert!(matches!(table.client.state, State::Idle { .. }));
    let decision = table.decision();
    assert_eq!((decision.status, decision.reason), (Some(200), None));
    assert_eq!(table.outcome(), Outcome::Answered(200));
    assert_eq!(table.told(), [OK, Served::Whole { status: 200 }]);
    assert_eq!(table.cx.snapshot.pool.backends()[0].idle(), 1);
    table.expect_no_blame();

    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let Stage::Forwarding(backend) = &table.busy().stage else {
        panic!("the request was sent");
    };
    assert!(backend.lent.reused);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_broken_off_with_a_reset() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12";
    backend.write_all(half.as_bytes()).unwrap();
    table.carry_until(WaitFor::ResponseBody);
    assert!(table.received().ends_with("12"));
    drop(backend);
    table.carry(|table| table.closed.is_some());
    assert_eq!(table.closed, Some(CloseReason::BackendBrokeOff));
    assert_eq!(table.outcome(), Outcome::BrokeOff);
    assert_eq!(table.told(), [OK, Served::BrokeOff]);
    table.expect_no_blame();
    let Table {
        mut peer, client, ..
    } = table;
    drop(client);
    let error = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
