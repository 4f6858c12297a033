//! Which addresses the node may connect to on behalf of a caller.
//!
//! The node sits where its callers don't: beside services of its own machine, of its network and of
//! its cloud. So only public addresses are reached, and networks that the operator named.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether `address` is in it. Never true for addresses of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }
}

/// Not an address, nor a network in the notation `10.0.0.0/8`.
#[derive(Debug, PartialEq, Eq)]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| NotANetwork))?;
        if prefix > bits {
            return Err(NotANetwork);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// Whether the node may connect to `address`; if not, what kind of address it is.
pub(super) fn check(address: IpAddr, allowed: &[Network]) -> Result<(), &'static str> {
    // The kernel takes `::ffff:127.0.0.1` for 127.0.0.1.
    let address = address.to_canonical();
    if allowed.iter().any(|network| network.contains(address)) {
        return Ok(());
    }
    special(address).map_or(Ok(()), Err)
}

/// What an address is if it isn't a public one.
fn special(address: IpAddr) -> Option<&'static str> {
    let address = match address {
        IpAddr::V6(address) => match NAT64.contains(address.into()) {
            // What is behind the translator counts.
            true => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() as u32)),
            false if !GLOBAL_UNICAST.contains(address.into()) => {
                return Some(named(address.into()).unwrap_or("reserved"));
            }
            false => address.into(),
        },
        v4 => v4,
    };
    named(address)
}

fn named(address: IpAddr) -> Option<&'static str> {
    SPECIAL
        .iter()
        .find(|(network, _)| network.contains(address))
        .map(|(_, kind)| *kind)
}

/// The only part of IPv6 with public addresses.
const GLOBAL_UNICAST: Network = v6([0x2000, 0, 0], 3);

/// IPv4 addresses, written as IPv6 for a translator (RFC 6052).
const NAT64: Network = v6([0x64, 0xff9b, 0], 96);

/// From the registries of special-purpose addresses of IANA, and one of a cloud.
static SPECIAL: [(Network, &str); 31] = [
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([0, 0, 0, 0], 8), "unspecified"),
    (v4([10, 0, 0, 0], 8), "private"),
    (v4([172, 16, 0, 0], 12), "private"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([100, 64, 0, 0], 10), "private"),
    (v4([192, 0, 0, 0], 24), "reserved"),
    (v4([192, 0, 2, 0], 24), "reserved"),
    (v4([192, 88, 99, 0], 24), "reserved"),
    (v4([198, 18, 0, 0], 15), "reserved"),
    (v4([198, 51, 100, 0], 24), "reserved"),
    (v4([203, 0, 113, 0], 24), "reserved"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    // Azure's service of metadata; those of others are link-local, private or reserved.
    (v4([168, 63, 129, 16], 32), "metadata"),
    (v6([0, 0, 0], 128), "unspecified"),
    (LOOPBACK_V6, "loopback"),
    (v6([0xfe80, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0], 10), "private"),
    (v6([0xfc00, 0, 0], 7), "private"),
    (v6([0xff00, 0, 0], 8), "multicast"),
    (v6([0x100, 0, 0], 64), "reserved"),
    (v6([0x5f00, 0, 0], 16), "reserved"),
    // Within the global unicast addresses: tunnels, which hide an IPv4 address, and the like.
    (v6([0x2001, 0, 0], 23), "reserved"),
    (v6([0x2001, 0xdb8, 0], 32), "reserved"),
    (v6([0x2002, 0, 0], 16), "reserved"),
    (v6([0x2620, 0x4f, 0x8000], 48), "reserved"),
    (v6([0x3fff, 0, 0], 20), "reserved"),
    (v6([0x64, 0xff9b, 1], 48), "reserved"),
    (v6([0, 0, 0], 96), "reserved"),
];

const LOOPBACK_V6: Network = Network {
    address: IpAddr::V6(Ipv6Addr::LOCALHOST),
    prefix: 128,
};

const fn v4([a, b, c, d]: [u8; 4], prefix: u32) -> Network {
    Network {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
    }
}

/// By its first three groups; the others are zero.
const fn v6([a, b, c]: [u16; 3], prefix: u32) -> Network {
    Network {
        address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)),
        prefix,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(address: &str) -> &'static str {
        check(address.parse().unwrap(), &[])
            .err()
            .unwrap_or("public")
    }

    #[test]
    fn addresses_have_kinds() {
        for (address, expected) in [
            ("1.1.1.1", "public"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("128.0.0.1", "public"),
            ("169.254.169.254", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("10.1.2.3", "private"),
            ("172.15.255.255", "public"),
            ("172.31.255.255", "private"),
            ("192.168.0.1", "private"),
            ("100.100.100.200", "private"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("168.63.129.16", "metadata"),
            ("::1", "loopback"),
            ("::", "unspecified"),
            ("fe80::1", "link-local"),
            ("fd00:ec2::254", "private"),
            ("ff02::1", "multicast"),
            ("2606:4700:4700::1111", "public"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "link-local"),
            ("::ffff:1.1.1.1", "public"),
            ("::127.0.0.1", "reserved"),
            ("::ffff:0:127.0.0.1", "reserved"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("64:ff9b::1.1.1.1", "public"),
            ("64:ff9b:1::1.1.1.1", "reserved"),
            ("2002:7f00:1::", "reserved"),
            ("2001::1", "reserved"),
            ("4000::1", "reserved"),
        ] {
            assert_eq!(kind(address), expected, "{address}");
        }
    }

    #[test]
    fn networks_are_read() {
        let contains = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3", "10.1.2.3"));
        assert!(!contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(contains("::/0", "::1"));
        assert!(!contains("::/0", "1.1.1.1"));
        for wrong in [
            "",
            "x",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/129",
            "10.0.0/8",
            "1.1.1.1/",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(NotANetwork), "{wrong}");
        }
    }

    #[test]
    fn what_the_operator_names_is_allowed() {
        let allowed = ["127.0.0.1".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let check = |address: &str| check(address.parse().unwrap(), &allowed);
        assert_eq!(check("127.0.0.1"), Ok(()));
        assert_eq!(check("::ffff:127.0.0.1"), Ok(()));
        assert_eq!(check("127.0.0.2"), Err("loopback"));
        assert_eq!(check("64:ff9b::127.0.0.1"), Err("loopback"));
        assert_eq!(check("fd00::1"), Ok(()));
        assert_eq!(check("1.1.1.1"), Ok(()));
    }

    proptest! {
        /// However an IPv4 address is written in IPv6, it is allowed only if it is by itself.
        #[test]
        fn no_disguise_helps(bits in any::<u32>()) {
            let plain = Ipv4Addr::from_bits(bits);
            let disguised = [
                plain.to_ipv6_mapped(),
                plain.to_ipv6_compatible(),
                Ipv6Addr::from_bits((0x64_ff9b << 96) | u128::from(bits)),
                Ipv6Addr::from_bits((0x2002 << 112) | (u128::from(bits) << 80)),
                Ipv6Addr::from_bits((0xffff << 48) | u128::from(bits)),
            ];
            if check(plain.into(), &[]).is_err() {
                for address in disguised {
                    prop_assert!(check(address.into(), &[]).is_err(), "{address}");
                }
            }
        }
    }
}
