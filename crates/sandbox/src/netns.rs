//! A network namespace with one device, whose packets a program in user space carries.
//!
//! For emulated networks, in which a fleet of nodes is tried. Sandboxes get theirs elsewhere
//! (`network`), made by the same calls.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::oci::sys;

/// Largest packet, bytes: that of an Ethernet.
pub const MTU: usize = 1_500;

/// Moves this process, which must have one thread, into a new network namespace with this address.
/// The result is the end of its only way out: a packet of IPv4 a read, and a write.
pub fn enter(address: Ipv4Addr) -> io::Result<OwnedFd> {
    sys::leave_network()?;
    sys::loopback_up()?;
    sys::make_tunnel(address, MTU)
}
