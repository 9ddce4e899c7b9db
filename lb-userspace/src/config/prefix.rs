//! Address prefixes in text.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{convert::quoted, model::Prefix};

/// Bits of the 16-byte form that stand before an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// Text that is no prefix, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads an address and a length; a lone address stands for itself.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let not_one = || {
            PrefixError(format!(
                "{} is not a prefix; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
                quoted(text)
            ))
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| not_one())?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| not_one())?
            }
            Some(_) => return Err(not_one()),
        };
        if length > most {
            return Err(PrefixError(format!(
                "{} has a length beyond {most}; choose 0 to {most}",
                quoted(text)
            )));
        }
        let network = network(address, length);
        if let IpAddr::V6(v6) = network
            && let Some(v4) = v6.to_ipv4_mapped()
            && length >= MAPPED_BITS
        {
            return Err(PrefixError(format!(
                "{} is an IPv4 prefix in IPv6 notation; write \"{v4}/{}\"",
                quoted(text),
                length - MAPPED_BITS
            )));
        }
        if network != address {
            return Err(PrefixError(format!(
                "{} has bits set after the first {length}; write \"{network}/{length}\"",
                quoted(text)
            )));
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Prefix {
    /// Returns the prefix of `length` bits that `address` lies in; a length beyond the family's
    /// counts as its whole.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Self {
            address: network(address, length),
            length,
        }
    }

    /// Returns whether an address lies in the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && network(address, self.length) == self.address
    }
}

fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Prefix>().expect_err(text).to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.3/32",
            "::/0",
            "2001:db8::/32",
            "fd00::1/128",
        ] {
            assert_eq!(text.parse::<Prefix>().expect(text).to_string(), text);
        }
        for (lone, whole) in [("10.1.2.3", "10.1.2.3/32"), ("fd00::1", "fd00::1/128")] {
            assert_eq!(lone.parse::<Prefix>().expect(lone).to_string(), whole);
        }
    }

    #[test]
    fn a_refusal_says_what_to_write() {
        for (text, message) in [
            (
                "10.1.2.3/8",
                "\"10.1.2.3/8\" has bits set after the first 8; write \"10.0.0.0/8\"",
            ),
            (
                "2001:db8::1/32",
                "\"2001:db8::1/32\" has bits set after the first 32; write \"2001:db8::/32\"",
            ),
            (
                "10.0.0.0/33",
                "\"10.0.0.0/33\" has a length beyond 32; choose 0 to 32",
            ),
            (
                "::ffff:10.1.0.0/112",
                "\"::ffff:10.1.0.0/112\" is an IPv4 prefix in IPv6 notation; write \"10.1.0.0/16\"",
            ),
            (
                "::ffff:10.1.2.3",
                "\"::ffff:10.1.2.3\" is an IPv4 prefix in IPv6 notation; write \"10.1.2.3/32\"",
            ),
            (
                "campus",
                "\"campus\" is not a prefix; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
            ),
        ] {
            assert_eq!(refused(text), message);
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
        ] {
            assert!(refused(text).contains("is not a prefix"), "{text}");
        }
    }

    #[test]
    fn an_address_lies_in_one_prefix_of_each_length() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");

        assert_eq!(Prefix::of(ip("10.1.2.3"), 0).to_string(), "0.0.0.0/0");
        assert_eq!(Prefix::of(ip("10.1.2.3"), 16).to_string(), "10.1.0.0/16");
        assert_eq!(Prefix::of(ip("10.1.2.3"), 99).to_string(), "10.1.2.3/32");
        assert_eq!(
            Prefix::of(ip("2001:db8::1"), 32).to_string(),
            "2001:db8::/32"
        );
    }
}
