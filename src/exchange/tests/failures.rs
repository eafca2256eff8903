//! What an exchange does when its backend fails.

use crate::exchange::tests::*;

/// An exchange whose request has gone out to the first of two backends, over a connection of that
/// age.
fn forwarding(age: Age, request: Request, origins: &[SocketAddr; 2]) -> Table {
    let mut table = Table::with(
        r#""proxy": {"port": 0}, "balance": {"method": "round_robin"}"#,
        origins,
    );
    table.send(if request == Request::Spent { POST } else { GET });
    table.carry_until(WaitFor::ResponseHead);
    let Stage::Forwarding(backend) = &mut table.busy().stage else {
        panic!("the request was sent");
    };
    backend.lent.reused = age == Age::Reused;
    if request == Request::Unsent {
        backend.sent_before = backend.lent.connection.sent();
    }
    table
}

/// The client's exchange leaves its backend for this reason.
fn leave(table: &mut Table, failure: Failure) -> Step {
    let State::Busy(busy) = &mut table.client.state else {
        panic!("an exchange is under way");
    };
    let Busy { stage, exchange } = &mut **busy;
    let trouble = Trouble::Failed(failure);
    let step = ending::leave(
        &mut table.client.side,
        stage,
        exchange,
        trouble,
        &mut table.cx,
    );
    if let Step::Go(to) = step {
        busy.go(to);
    }
    step
}

#[test]
fn after_each_failure_the_exchange_does_what_its_row_says() {
    let ((_one, first), (_two, second)) = (origin(), origin());
    let origins = [first, second];
    // While a connection opens it is fresh, and nothing has gone out.
    for failure in [
        Failure::NoAddress,
        Failure::ConnectRefused(first, Errno::CONNREFUSED),
        Failure::ConnectTimeout(first),
        Failure::NoPort(first),
        Failure::NoDescriptor(Errno::MFILE),
    ] {
        expect_row(failure, Age::Fresh, Request::Unsent, &origins);
    }
    for failure in [
        Failure::NoMemory(Errno::NOBUFS),
        Failure::Ended(None),
        Failure::HeadTimeout,
        Failure::RefusedHead("a bare LF"),
        Failure::NotHttp,
    ] {
        for age in [Age::Fresh, Age::Reused] {
            for request in [Request::Unsent, Request::Repeatable, Request::Spent] {
                expect_row(failure, age, request, &origins);
            }
        }
    }
}

/// The exchange does what the row of this failure says.
fn expect_row(failure: Failure, age: Age, request: Request, origins: &[SocketAddr; 2]) {
    let row = failure.row(age, request);
    let what = format!("{failure:?} {age:?} {request:?}");
    let mut table = forwarding(age, request, origins);
    let step = leave(&mut table, failure);
    let backends = table.cx.snapshot.pool.backends().to_vec();
    assert_eq!(table.cx.backends.len(), 0, "{what}");
    let used = table.busy().exchange.tries.used;
    assert_eq!(used, u32::from(row.costs_try), "{what}");
    let heard = match (backends[0].take_check_wish(), backends[0].is_healthy()) {
        (false, true) => None,
        (true, true) => Some(Event::Died),
        (_, false) => row.event.filter(|&event| event != Event::Died),
    };
    assert_eq!(heard, row.event, "{what}");
    let says_nothing = matches!(row.outcome, Outcome::ReusedEnded | Outcome::OurShortage);
    let failed = Served::Failed {
        outcome: row.outcome,
        took: Duration::ZERO,
    };
    let told = if says_nothing { vec![] } else { vec![failed] };
    assert_eq!(table.told(), told, "{what}");
    match row.next {
        Next::SameBackend => {
            assert!(matches!(table.busy().stage, Stage::Again(_)), "{what}");
            table.carry_until(WaitFor::ResponseHead);
            let backend = table.busy().stage.chosen().unwrap().place.index;
            assert_eq!(backend, 0, "{what}");
            let rule = table.busy().exchange.decision.tries().0[1].rule;
            assert_eq!(rule, Rule::SameAgain, "{what}");
        }
        Next::OtherBackend => {
            assert_eq!(step, Step::Again, "{what}");
            assert_eq!(table.in_flight(), 0, "{what}");
            table.carry_until(WaitFor::ResponseHead);
            let backend = table.busy().stage.chosen().unwrap().place.index;
            assert_eq!(backend, 1, "{what}");
        }
        Next::Answer => {
            assert_eq!(step, Step::Go(To::Reply), "{what}");
            // Its place is held until the client has the answer.
            assert_eq!(table.in_flight(), 1, "{what}");
            table.carry_to_the_end();
            let decision = table.decision();
            let found = (decision.status, decision.reason);
            assert_eq!(found, (Some(row.status), Some(row.reason)), "{what}");
            assert!(matches!(table.client.state, State::Idle { .. }), "{what}");
            assert_eq!(table.in_flight(), 0, "{what}");
        }
    }
}

#[test]
fn a_request_that_kills_both_backends_is_blamed_on_the_first_alone() {
    let ((_one, first), (_two, second)) = (origin(), origin());
    let mut table = forwarding(Age::Fresh, Request::Repeatable, &[first, second]);
    leave(&mut table, Failure::Ended(None));
    table.carry_until(WaitFor::ResponseHead);
    leave(&mut table, Failure::Ended(None));
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 502 "));
    assert_eq!(table.decision().reason, Some(Outcome::Died.text()));
    let backends = table.cx.snapshot.pool.backends();
    assert!(backends[0].take_check_wish() && !backends[1].take_check_wish());
    table.expect_no_blame();
}
