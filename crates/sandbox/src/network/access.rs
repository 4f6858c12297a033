//! Whether a function may send to an address, and where what its sandbox sends goes to.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use serverledge_core::NetworkPolicy;

use super::{GUEST, NetworkConfig, RESOLVERS};

const DNS_PORT: u16 = 53;

/// The policy of one sandbox, with what the machine adds to it.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) policy: NetworkPolicy,
    pub(crate) config: NetworkConfig,
}

impl Access {
    /// Where to connect for what the sandbox sends to this address; `None` if it may not.
    pub(super) fn target(&self, to: SocketAddrV4) -> Option<SocketAddr> {
        if let Some(index) = RESOLVERS.iter().position(|resolver| resolver == to.ip()) {
            let asks = to.port() == DNS_PORT && self.policy.allows_names();
            return asks.then(|| self.resolver(index)).flatten();
        }
        self.allows(to).then_some(to.into())
    }

    /// Whether the function may send to this address, which is where it goes to.
    pub(crate) fn allows(&self, to: SocketAddrV4) -> bool {
        // The sandboxes' own network, which ends at the device.
        if to.ip().octets()[..3] == GUEST.octets()[..3] {
            return false;
        }
        let denied = &self.config.denied;
        self.policy.allows(*to.ip(), to.port(), denied) && !is_own(*to.ip())
    }

    fn resolver(&self, index: usize) -> Option<SocketAddr> {
        let resolvers = self.resolvers();
        let count = resolvers.len().max(1);
        resolvers.get(index % count).copied()
    }

    /// The machine's own resolvers, which may well be some that only the machine itself can reach.
    /// Read anew each time: what the file says changes with the networks that a machine joins.
    pub(super) fn resolvers(&self) -> Vec<SocketAddr> {
        let text = fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        let addresses = nameservers(&text).into_iter();
        addresses
            .map(|address| SocketAddr::new(address, DNS_PORT))
            .collect()
    }
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let is_one = words.next() == Some("nameserver");
        words.next().filter(|_| is_one)?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

/// Whether the machine itself answers at this address: then it lets one bind to it. Asked each
/// time, as addresses come and go. In doubt, yes.
fn is_own(address: Ipv4Addr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        Ok(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_known() {
        assert!(is_own(Ipv4Addr::LOCALHOST));
        assert!(is_own(Ipv4Addr::UNSPECIFIED));
        // For documentation; no machine has it.
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 77)));
    }

    #[test]
    fn resolvers_take_their_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(
            &path,
            "# x\nsearch a\nnameserver 127.0.0.53\nnameserver ::1\n",
        )
        .unwrap();
        let access = |policy| Access {
            policy,
            config: NetworkConfig {
                resolv_conf: path.clone(),
                ..NetworkConfig::default()
            },
        };
        let target = |access: &Access, index: usize, port| {
            let target = access.target(SocketAddrV4::new(RESOLVERS[index], port));
            target.map(|address| address.to_string())
        };
        let egress = access(NetworkPolicy::Egress);
        assert_eq!(target(&egress, 0, 53).as_deref(), Some("127.0.0.53:53"));
        assert_eq!(target(&egress, 1, 53).as_deref(), Some("[::1]:53"));
        assert_eq!(target(&egress, 0, 80), None);
        assert_eq!(target(&access(NetworkPolicy::None), 0, 53), None);
        fs::write(&path, "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(target(&egress, 1, 53).as_deref(), Some("127.0.0.53:53"));
        fs::write(&path, "").unwrap();
        assert_eq!(target(&egress, 0, 53), None);
    }
}
