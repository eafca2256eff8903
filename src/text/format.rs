//! Numbers and addresses as text, straight into a buffer: a head and an access line are written for
//! every request, and the formatter of the standard library takes five times as long.

use std::io::Write as _;
use std::net::IpAddr;

/// Appends a number in decimal digits.
pub(crate) fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends an address as its `Display` shows it.
pub(crate) fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(address) = address else {
        // Their zeros are shortened by rules that the standard library has.
        return write!(out, "{address}").expect("a Vec takes every write");
    };
    let mut text = *b"255.255.255.255";
    let mut length = 0;
    let mut push = |byte| {
        text[length] = byte;
        length += 1;
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(digit(octet / 100));
        }
        if octet >= 10 {
            push(digit(octet / 10));
        }
        push(digit(octet));
    }
    out.extend_from_slice(&text[..length]);
}

/// The last decimal digit of a number.
pub(crate) fn digit(number: impl Into<u64>) -> u8 {
    b"0123456789"[usize::try_from(number.into() % 10).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = b">".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_what_the_formatter_writes() {
        for number in [0, 7, 10, 99, 100, 304, 65_535, u64::MAX - 1, u64::MAX] {
            assert_eq!(text(|out| write_decimal(number, out)), format!(">{number}"));
        }
    }

    #[test]
    fn addresses_are_what_the_formatter_writes() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, octet / 2, 9]);
            assert_eq!(
                text(|out| write_address(address, out)),
                format!(">{address}")
            );
        }
        for address in ["::1", "2001:db8::1:0:0:1", "::ffff:192.0.2.1", "ff02::"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                text(|out| write_address(address, out)),
                format!(">{address}")
            );
        }
    }
}
