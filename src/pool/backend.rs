//! One backend as one configuration has it: its settings, its place in the list, its cookie.
//!
//! There is one [`Backend`] for each pool that it is in; its [`BackendState`] lives on from pool to
//! pool. Places in flight are taken by `Pool::choose` alone, under the balancer's lock, and given
//! back when [`InFlight`] is dropped, however an exchange ends.
//!
//! Read next: `pool/state.rs`, the part that lives on.

use std::ops::Deref;
use std::sync::Arc;

use crate::pool::persist::SetCookie;
use crate::pool::roster::Roster;
use crate::pool::settings::BackendSettings;
use crate::pool::state::{BackendState, Operator};

/// A backend in a pool.
#[derive(Debug)]
pub struct Backend {
    /// As configured.
    pub settings: BackendSettings,
    /// Its place in this pool; in another one it may have another.
    pub index: usize,
    pub(in crate::pool) set_cookie: Option<SetCookie>,
    /// The hash of its name.
    pub(in crate::pool) name_key: u64,
    /// The pool's list, which `index` refers to.
    pub(in crate::pool) roster: Arc<Roster>,
    pub(in crate::pool) state: Arc<BackendState>,
}

impl Backend {
    /// What lives on when the configuration changes.
    pub(crate) fn state(&self) -> &Arc<BackendState> {
        &self.state
    }

    /// Whether it has as many exchanges as it may have.
    pub fn is_full(&self) -> bool {
        self.settings
            .max_connections
            .is_some_and(|max| self.in_flight() >= max)
    }

    /// Whether it serves clients that are bound to it, if it has a free place for them.
    pub(in crate::pool) fn serves_bound(&self) -> bool {
        self.is_fit() && self.operator() != Operator::Disabled
    }

    /// The value of the `Set-Cookie` field that binds a client to it, for a client that came by
    /// https or not; `None` if cookies do not bind.
    pub fn set_cookie(&self, https: bool) -> Option<&[u8]> {
        let set_cookie = self.set_cookie.as_ref()?;
        Some(set_cookie.value(https))
    }
}

impl Deref for Backend {
    type Target = BackendState;

    fn deref(&self) -> &BackendState {
        &self.state
    }
}

/// A place among a backend's exchanges; dropping it gives the place back.
#[derive(Debug)]
pub struct InFlight {
    backend: Arc<Backend>,
    counts: bool,
}

impl InFlight {
    /// Takes a place. Only the pool does, under the balancer's lock: two workers could exceed
    /// `max_connections` otherwise.
    pub(in crate::pool) fn take(backend: &Arc<Backend>) -> InFlight {
        backend.take_in_flight();
        InFlight {
            backend: Arc::clone(backend),
            counts: true,
        }
    }

    /// The backend whose place it is.
    pub fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.backend)
    }

    /// Gives the place back as soon as the backend has done its part: a client that has its
    /// response must find the place free.
    pub fn give_back(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.backend.give_back_in_flight();
        }
    }
}

impl Deref for InFlight {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::pool::settings::{BackendUrl, Host};
    use crate::pool::state::BackendId;

    /// A backend that is never connected to.
    pub(crate) fn settings(name: &str) -> BackendSettings {
        BackendSettings {
            name: name.to_owned(),
            url: BackendUrl {
                host: Host::Ip(Ipv4Addr::LOCALHOST.into()),
                port: 1,
                base_path: String::new(),
                authority: "127.0.0.1:1".to_owned(),
            },
            weight: 1,
            backup: false,
            max_connections: None,
            check: true,
            lenient: false,
            send_proxy_protocol: false,
            disabled: false,
            each_address: false,
        }
    }

    #[test]
    fn a_place_in_flight_comes_back_even_when_its_holder_panics() {
        let backend = Arc::new(Backend {
            index: 0,
            set_cookie: None,
            name_key: 0,
            roster: Arc::new(Roster::new(vec![BackendId(1)])),
            state: Arc::new(BackendState::new(
                BackendId(1),
                &settings("a"),
                1,
                "start",
                || true,
            )),
            settings: settings("a"),
        });
        let place = InFlight::take(&backend);
        assert_eq!(backend.in_flight(), 1);
        let holder = std::thread::spawn(move || {
            let _place = place;
            panic!("the exchange fails, on purpose");
        });
        assert!(holder.join().is_err());
        assert_eq!(backend.in_flight(), 0);
    }
}
