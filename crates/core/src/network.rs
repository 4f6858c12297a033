//! Whom a function may talk to: rules, and the decision about one address.
//!
//! Left out: which addresses are the node's own. Only the machine knows, so the shell asks it.

use core::net::Ipv4Addr;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Rules of one function, at most.
const RULES_MAX: usize = 64;

/// A network of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Network {
    /// The addresses that agree with `address` in the first `prefix` bits; `None` above 32.
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        match prefix <= 32 {
            true => Some(Self { address, prefix }),
            false => None,
        }
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let differing = self.address.to_bits() ^ address.to_bits();
        differing.leading_zeros() >= u32::from(self.prefix)
    }
}

const fn network([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Network {
    Ipv4Network {
        address: Ipv4Addr::new(a, b, c, d),
        prefix,
    }
}

/// What no function reaches, whatever its rules say: nobody's, everybody's, and those at which
/// clouds hand out a machine's secrets.
static NEVER: [Ipv4Network; 8] = [
    network([0, 0, 0, 0], 8),
    network([127, 0, 0, 0], 8),
    network([169, 254, 0, 0], 16),
    network([224, 0, 0, 0], 4),
    network([240, 0, 0, 0], 4),
    network([100, 100, 100, 200], 32),
    network([168, 63, 129, 16], 32),
    network([192, 0, 0, 192], 32),
];

/// Addresses and ports that a function may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    network: Ipv4Network,
    ports: RangeInclusive<u16>,
}

/// Whom a function may talk to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkPolicy {
    /// Nobody.
    #[default]
    None,
    /// The world, but not the node itself nor what else is never allowed.
    Egress,
    /// Those alone.
    Only {
        /// Where to.
        rules: Vec<Rule>,
        /// Whether names can be looked up.
        names: bool,
    },
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// No word was given.
    #[error("a list of rules is empty: say none")]
    Empty,
    /// More than anybody reads.
    #[error("there are more than {RULES_MAX} rules")]
    TooMany,
    /// `none` or `egress` beside others.
    #[error("{0:?} stands alone, not in a list of rules")]
    NotAlone(String),
    /// An IPv6 address.
    #[error("{0:?}: sandboxes have no IPv6")]
    Ipv6(String),
    /// A name, or something else.
    #[error(
        "{0:?} is not ADDRESS[/PREFIX][:PORT[-PORT]]; host names can't be rules, as what they \
         stand for changes"
    )]
    NotARule(String),
}

impl NetworkPolicy {
    /// Reads `none`, `egress`, or rules such as `10.0.0.0/8`, `10.1.2.3:443`, `10.1.2.3:1-99`, and
    /// `dns` for looking names up.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPolicy> {
        let words: Vec<&str> = words.into_iter().map(str::trim).collect();
        match words[..] {
            [] | [""] => return Err(InvalidPolicy::Empty),
            ["none"] => return Ok(Self::None),
            ["egress"] => return Ok(Self::Egress),
            _ if words.len() > RULES_MAX => return Err(InvalidPolicy::TooMany),
            _ => {}
        }
        let (mut rules, mut names) = (Vec::new(), false);
        for word in words {
            match word {
                "none" | "egress" => return Err(InvalidPolicy::NotAlone(word.to_owned())),
                "dns" => names = true,
                rule => rules.push(rule.parse()?),
            }
        }
        Ok(Self::Only { rules, names })
    }

    /// Whether names can be looked up, through the node's own resolvers.
    pub fn allows_names(&self) -> bool {
        match self {
            Self::None => false,
            Self::Egress => true,
            Self::Only { names, .. } => *names,
        }
    }

    /// Whether the function may send to this address and port; `denied` is the operator's word,
    /// which goes before the function's.
    pub fn allows(&self, address: Ipv4Addr, port: u16, denied: &[Ipv4Network]) -> bool {
        if NEVER
            .iter()
            .chain(denied)
            .any(|network| network.contains(address))
        {
            return false;
        }
        match self {
            Self::None => false,
            Self::Egress => true,
            Self::Only { rules, .. } => rules
                .iter()
                .any(|rule| rule.network.contains(address) && rule.ports.contains(&port)),
        }
    }
}

impl FromStr for Rule {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        if text.matches(':').count() > 1 {
            return Err(InvalidPolicy::Ipv6(text.to_owned()));
        }
        let (network, ports) = match text.split_once(':') {
            Some((network, ports)) => (network, self::ports(ports)),
            None => (text, Some(1..=u16::MAX)),
        };
        let network = network.parse().ok();
        network
            .zip(ports)
            .map(|(network, ports)| Self { network, ports })
            .ok_or_else(|| InvalidPolicy::NotARule(text.to_owned()))
    }
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

impl FromStr for Ipv4Network {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let parsed = address.parse().ok().zip(prefix.parse().ok());
        parsed
            .and_then(|(address, prefix)| Self::new(address, prefix))
            .ok_or_else(|| InvalidPolicy::NotARule(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(words: &str) -> NetworkPolicy {
        NetworkPolicy::parse(words.split(',')).unwrap()
    }

    fn allows(words: &str, address: &str, port: u16) -> bool {
        policy(words).allows(address.parse().unwrap(), port, &[])
    }

    #[test]
    fn rules_name_networks_and_ports() {
        let rules = "10.0.0.0/8, 93.184.216.34:443, 10.1.2.3:5000-5010";
        for (address, port, expected) in [
            ("10.255.0.1", 1, true),
            ("11.0.0.1", 1, false),
            ("93.184.216.34", 443, true),
            ("93.184.216.34", 80, false),
        ] {
            assert_eq!(allows(rules, address, port), expected, "{address}:{port}");
        }
        assert!(allows("10.1.2.3:5000-5010", "10.1.2.3", 5010));
        assert!(!allows("10.1.2.3:5000-5010", "10.1.2.3", 5011));
        assert!(!policy("10.0.0.0/8").allows_names());
        assert!(policy("dns,10.0.0.0/8").allows_names());
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for wrong in [
            "",
            "all",
            "example.com",
            "example.com:443",
            "::1",
            "[::1]:443",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:9-1",
            "10.0.0.1:65536",
            "none,10.0.0.1",
            "10.0.0.1,egress",
        ] {
            let read = NetworkPolicy::parse(wrong.split(','));
            assert!(read.is_err(), "{wrong:?}: {read:?}");
        }
        let many = vec!["10.0.0.1"; RULES_MAX + 1];
        assert_eq!(NetworkPolicy::parse(many), Err(InvalidPolicy::TooMany));
    }

    #[test]
    fn some_addresses_are_never_allowed() {
        for address in [
            "0.0.0.0",
            "127.0.0.53",
            "169.254.169.254",
            "224.0.0.251",
            "255.255.255.255",
            "100.100.100.200",
        ] {
            assert!(!allows("egress", address, 80), "{address}");
            assert!(!allows("0.0.0.0/0", address, 80), "{address}");
            assert!(!allows(address, address, 80), "{address}");
        }
        assert!(allows("egress", "192.168.1.1", 80));
    }

    proptest! {
        #[test]
        fn the_operator_goes_before_the_function(bits in any::<u32>(), prefix in 0..=32_u8, port in 1..=u16::MAX) {
            let address = Ipv4Addr::from_bits(bits);
            let denied = [Ipv4Network::new(address, prefix).unwrap()];
            for words in ["egress", "0.0.0.0/0"] {
                prop_assert!(!policy(words).allows(address, port, &denied));
            }
        }

        #[test]
        fn no_rule_allows_more_than_egress(bits in any::<u32>(), rule in any::<u32>(), prefix in 0..=32_u8, port in 1..=u16::MAX) {
            let address = Ipv4Addr::from_bits(bits);
            let only = policy(&format!("{}/{prefix}", Ipv4Addr::from_bits(rule)));
            let allowed = only.allows(address, port, &[]);
            prop_assert!(!allowed || NetworkPolicy::Egress.allows(address, port, &[]));
            prop_assert!(!NetworkPolicy::None.allows(address, port, &[]));
        }
    }
}
