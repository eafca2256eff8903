//! The hand-over of connections, snapshots, room and commands between threads, in many schedules of a model checker. What is
//! checked and which order it needs stands at each model in `tests/model`; each of these tests fails without that order.

/// Schedules of each model, unless `RONDO_SCHEDULES` says otherwise.
const SCHEDULES: usize = 20_000;

fn check(model: fn()) {
    let wanted = std::env::var("RONDO_SCHEDULES").ok();
    let schedules = wanted.map_or(SCHEDULES, |wanted| wanted.parse().unwrap());
    model::check(schedules, model);
}

#[test]
fn every_connection_is_received_whenever_the_worker_falls_asleep() {
    check(model::connections);
}

#[test]
fn every_thread_goes_by_the_last_snapshot_in_the_end() {
    check(model::snapshots);
}

#[test]
fn each_wish_for_room_is_answered_once() {
    check(model::room);
}

#[test]
fn a_connection_that_ends_makes_room_in_time() {
    check(model::room_of_busy_clients);
}

#[test]
fn every_place_that_was_given_is_found_by_its_worker() {
    check(model::calls);
}

#[test]
fn every_command_and_every_call_reaches_the_main_thread() {
    check(model::commands);
}

#[test]
fn a_drain_wakes_the_listener_and_every_worker() {
    check(model::drain);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_lost_wake_up_is_found() {
    model::check(1_000, model::unannounced_sleep);
}
