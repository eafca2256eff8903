//! Starts threads. Each has a name and a bounded stack, and if it panics the process ends with
//! status 1.
//!
//! A process that has lost a thread still holds its port, but accepts nothing, checks nothing or
//! logs nothing: a supervisor can restart only what has ended. A panic in one exchange is caught
//! earlier, by its worker.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::thread::{Builder, JoinHandle};

/// Measured, no thread touches more than 40 KiB, name lookups of glibc and musl included. The
/// default of 8 MiB would count against a small machine's limits.
pub(crate) const STACK_BYTES: usize = 256 * 1024;

/// Starts a thread. An error means that the system has no room for one more.
/// `run` is called once. It is a `FnMut` so that what it owns outlives a panic: another thread
/// would take a closed channel for an orderly end, and might end the process with 0 first.
pub(crate) fn start(name: &str, run: impl FnMut() + Send + 'static) -> io::Result<JoinHandle<()>> {
    start_boxed(name, Box::new(run))
}

/// In a box, because each other type of closure has std's whole start of a thread for itself: 5 KB.
#[inline(never)]
fn start_boxed(name: &str, mut run: Box<dyn FnMut() + Send>) -> io::Result<JoinHandle<()>> {
    let own_name = name.to_owned();
    let contained = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            fail_if_planted(&own_name);
            run();
        }));
        if outcome.is_err() {
            // The panic hook has logged where and why.
            log::error!("internal error: thread {own_name} failed, exiting; please report it");
            log::logger().flush();
            process::exit(1);
        }
    };
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(contained)
}

/// Lets a test make this thread panic. Not in a release build.
#[cfg(debug_assertions)]
fn fail_if_planted(name: &str) {
    let planted = std::env::var_os("RONDO_TEST_PANIC");
    assert!(
        planted.is_none_or(|planted| planted != name),
        "planted in {name}"
    );
}

#[cfg(not(debug_assertions))]
fn fail_if_planted(_: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_once_under_its_name() {
        let (tell, told) = std::sync::mpsc::channel();
        let name = move || {
            let name = std::thread::current().name().map(str::to_owned);
            tell.send(name).unwrap();
        };
        start("checker", name).unwrap().join().unwrap();
        let names: Vec<_> = told.iter().collect();
        assert_eq!(names, [Some("checker".to_owned())]);
    }
}
