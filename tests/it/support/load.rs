//! Requests that go on while something changes.

use super::{Client, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Clients that ask again and again, each as soon as it has its answer.
#[derive(Default)]
pub(crate) struct Load {
    answered: AtomicUsize,
    is_over: AtomicBool,
}

/// Ends the load, also when the test fails: else it would wait for its clients for ever.
struct End<'a>(&'a Load);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Waits until so many more requests were answered.
    #[track_caller]
    pub(crate) fn goes_on(&self, count: usize) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let wanted = answered() + count;
        eventually("requests go on", || answered() >= wanted);
    }

    fn ask(&self, client: &mut Client) {
        while !self.is_over.load(Ordering::Relaxed) {
            let response = client.get("/");
            assert_eq!(response.status, 200, "{response:?}");
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Changes something while these clients ask; each request is answered with 200.
pub(crate) fn under_load(mut clients: Vec<Client>, change: impl FnOnce(&Load)) {
    let load = Load::default();
    std::thread::scope(|scope| {
        let _end = End(&load);
        for client in &mut clients {
            scope.spawn(|| load.ask(client));
        }
        change(&load);
    });
}
