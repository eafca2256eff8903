//! Whose fault the kernel's errors are.

use std::io;

use rustix::io::Errno;

/// Whether an error says that this machine ran out of something, which is no backend's fault.
///
/// EADDRNOTAVAIL from a connect means that no local port is left (or that the address family is not
/// configured here).
pub(crate) fn is_our_shortage(error: &io::Error) -> bool {
    let ours = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_here_is_not_a_backends_fault() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(is_our_shortage(&errno.into()));
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::CONNRESET,
        ] {
            assert!(!is_our_shortage(&errno.into()));
        }
        assert!(!is_our_shortage(&io::Error::other("no code")));
    }
}
