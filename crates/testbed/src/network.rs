//! Hosts by name, and the links between them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::emulator::{Emulator, Link, Traffic};
use crate::forward::Forward;
use crate::host::Host;
use crate::router::Router;

/// Hosts have addresses in 10.83.0.0/16. They are in no namespace but the hosts' own.
const NETWORK: [u8; 2] = [10, 83];

/// More would need other addresses.
const HOSTS_MAX: usize = 250;

/// A network of hosts. Dropping it ends all of them and what runs on them.
#[derive(Debug)]
pub struct Network {
    names: Vec<String>,
    // In this order: the router lets go of the devices when the hosts are gone.
    hosts: Vec<Host>,
    router: Router,
}

impl Network {
    /// Makes hosts of these names, all linked to each other by `usual`. `program` calls
    /// [`host_main`](crate::host_main). `seed` is that of losses and jitter.
    pub fn start(program: &Path, names: &[&str], usual: Link, seed: u64) -> anyhow::Result<Self> {
        if names.len() > HOSTS_MAX {
            bail!("a network has at most {HOSTS_MAX} hosts");
        }
        let addresses: Vec<Ipv4Addr> = (0..names.len()).map(address).collect();
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for (name, address) in names.iter().zip(&addresses) {
            let (host, device) =
                Host::start(program, *address).with_context(|| format!("making host {name}"))?;
            hosts.push(host);
            devices.push(device);
        }
        Ok(Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            hosts,
            router: Router::start(Emulator::new(addresses, usual, seed), devices)?,
        })
    }

    /// The address of a host. One that isn't there has none.
    pub fn address(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        self.find(host).map(address)
    }

    /// Names of all hosts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn find(&self, host: &str) -> anyhow::Result<usize> {
        let found = self.names.iter().position(|name| name == host);
        found.with_context(|| format!("no host '{host}'; there are: {}", self.names.join(", ")))
    }

    /// Changes the link between two hosts, in both directions.
    pub fn link(&self, one: &str, other: &str, link: Link) -> anyhow::Result<()> {
        let (one, other) = (self.find(one)?, self.find(other)?);
        let mut links = self.router.links();
        links.set(one, other, link);
        links.set(other, one, link);
        Ok(())
    }

    /// Lets nothing through between the two any more, or again.
    fn set_cut(&self, one: &str, other: &str, is_cut: bool) -> anyhow::Result<()> {
        let (one, other) = (self.find(one)?, self.find(other)?);
        let mut links = self.router.links();
        links.cut(one, other, is_cut);
        links.cut(other, one, is_cut);
        Ok(())
    }

    /// Cuts a host off from another.
    pub fn cut(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.set_cut(one, other, true)
    }

    /// Mends every cut of a host.
    pub fn heal(&self, host: &str) -> anyhow::Result<()> {
        for other in self.names.iter().filter(|name| *name != host) {
            self.set_cut(host, other, false)?;
        }
        Ok(())
    }

    /// Cuts a host off from all others.
    pub fn isolate(&self, host: &str) -> anyhow::Result<()> {
        self.find(host)?;
        for other in self.names.iter().filter(|name| *name != host) {
            self.set_cut(host, other, true)?;
        }
        Ok(())
    }

    /// What has gone from one host to another.
    pub fn traffic(&self, from: &str, to: &str) -> anyhow::Result<Traffic> {
        let (from, to) = (self.find(from)?, self.find(to)?);
        Ok(self.router.links().traffic(from, to))
    }

    /// A command that is run on `host`. Its process dies with the thread that starts it.
    pub fn command(&self, host: &str, program: &Path) -> anyhow::Result<Command> {
        Ok(self.hosts[self.find(host)?].command(program))
    }

    /// Runs `work` on a thread that is on `host`: sockets that it makes are the host's.
    pub fn inside<T: Send>(
        &self,
        host: &str,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        let host = &self.hosts[self.find(host)?];
        let run = || {
            host.enter()?;
            Ok(work())
        };
        std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(result) => result,
            // As if the caller had done the work itself.
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Makes a port of this machine's loopback lead to a port of `host`, for as long as the result
    /// lives; 0 takes a free one.
    pub(crate) fn forward(&self, port: u16, host: &str, to: u16) -> anyhow::Result<Forward> {
        let index = self.find(host)?;
        Forward::start(port, &self.hosts[index], (address(index), to).into())
    }
}

fn address(host: usize) -> Ipv4Addr {
    let [a, b] = NETWORK;
    Ipv4Addr::new(a, b, 0, host as u8 + 1)
}
