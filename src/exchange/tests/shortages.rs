//! What follows when this process is short of memory, ports or descriptors.

use crate::exchange::tests::*;

#[test]
fn a_post_that_we_lack_memory_to_send_goes_to_another_backend_and_blames_none() {
    for errno in [Errno::NOBUFS, Errno::NOMEM] {
        let ((one, first), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Send, errno);
        assert!(table.exchange(POST).starts_with("HTTP/1.1 200 "));
        assert!(has_failed());
        table.expect_no_blame();
        drop(table);
        assert_eq!(first.join().unwrap(), [""]);
        let received = second.join().unwrap();
        assert!(received[0].ends_with("\r\n\r\nbody"), "{received:?}");
    }
}

#[test]
fn a_post_that_we_lack_memory_to_send_on_a_used_connection_goes_over_a_new_one() {
    let (one, thread) = backend(vec![ANSWER, ANSWER]);
    let mut table = Table::over(&[one]);
    assert!(table.exchange(GET).ends_with("ok"));
    fail_next(one, Call::Send, Errno::NOBUFS);
    assert!(table.exchange(POST).ends_with("ok"));
    assert!(has_failed());
    table.expect_no_blame();
    let received = received(table, thread);
    assert!(received[0].starts_with("GET ") && !received[0].contains("POST "));
    assert!(received[1].starts_with("POST ") && received[1].ends_with("body"));
}

#[test]
fn with_no_memory_to_send_to_the_only_backend_the_client_gets_503() {
    let (one, _thread) = backend(vec![ANSWER]);
    let mut table = Table::over(&[one]);
    fail_next(one, Call::Send, Errno::NOBUFS);
    let answer = table.exchange(POST);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "));
    assert!(has_failed());
    table.expect_no_blame();
}

#[test]
fn an_answer_that_we_lack_memory_to_receive_sends_a_get_on_and_a_post_never_again() {
    for (request, status) in [(GET, "200"), (POST, "503")] {
        let ((one, first), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Receive, Errno::NOMEM);
        let answer = table.exchange(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(has_failed());
        table.expect_no_blame();
        drop(table);
        assert_eq!(first.join().unwrap().len(), 1);
        if status == "200" {
            assert_eq!(second.join().unwrap().len(), 1);
        }
    }
}

#[test]
fn an_answer_that_we_lack_memory_for_in_its_midst_is_cut_and_blames_none() {
    // The second one is long enough for splice.
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n12345",
    ] {
        let (one, thread) = backend(vec![head]);
        let mut table = Table::over(&[one]);
        table.peer.write_all(GET.as_bytes()).unwrap();
        table.carry(|table| {
            matches!(&table.client.state, State::Busy(busy) if busy.exchange.status.is_some())
        });
        fail_next(one, Call::Receive, Errno::NOMEM);
        let State::Busy(busy) = &mut table.client.state else {
            panic!("the exchange is under way");
        };
        busy.stage.connection().unwrap().mark_readable();
        table.carry(|table| table.closed.is_some());
        assert!(has_failed());
        assert_eq!(table.closed, Some(CloseReason::OurShortage));
        assert_eq!(table.told(), [OK]);
        table.expect_no_blame();
        received(table, thread);
    }
}

#[test]
fn with_no_port_left_towards_one_backend_the_next_is_asked_and_none_is_blamed() {
    let ((one, _), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
    let mut table = Table::over(&[one, two]);
    fail_next(one, Call::Connect, Errno::ADDRNOTAVAIL);
    assert!(table.exchange(POST).ends_with("ok"));
    assert!(has_failed());
    table.expect_no_blame();
    drop(table);
    assert!(second.join().unwrap()[0].ends_with("body"));
}

#[test]
fn with_no_port_left_towards_the_only_backend_the_client_gets_503() {
    let (one, _) = backend(vec![ANSWER]);
    let mut table = Table::over(&[one]);
    fail_next(one, Call::Connect, Errno::ADDRNOTAVAIL);
    let answer = table.exchange(GET);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "));
    assert!(has_failed());
    table.expect_no_blame();
}

#[test]
fn with_no_descriptor_left_no_other_backend_is_asked() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        let ((one, _), (two, _)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Connect, errno);
        assert!(table.exchange(GET).starts_with("HTTP/1.1 503 "));
        table.expect_no_blame();
    }
}
