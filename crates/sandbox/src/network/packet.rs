//! Packets from and to a sandbox. What arrives is hostile; what can't be read is dropped.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket,
    UdpPacket, UdpRepr,
};

use super::{GATEWAY, GUEST};

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// So much of a packet comes back with an error about it.
pub(super) const QUOTE: usize = IP_HEADER + 8;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
}

/// What a packet is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Tcp {
        /// Whether it asks for a connection.
        opens: bool,
    },
    Udp(&'a [u8]),
}

/// Reads a packet that is whole, IPv4, and from the sandbox's one address.
pub(super) fn parse(bytes: &[u8]) -> Option<(Flow, Content<'_>)> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let whole = packet.frag_offset() == 0 && !packet.more_frags();
    if packet.version() != 4 || !whole || packet.src_addr() != GUEST {
        return None;
    }
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    let protocol = packet.next_header();
    let payload = packet.payload();
    let (ports, content) = match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            let opens = tcp.syn() && !tcp.ack() && !tcp.rst();
            ((tcp.src_port(), tcp.dst_port()), Content::Tcp { opens })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            (
                (udp.src_port(), udp.dst_port()),
                Content::Udp(udp.payload()),
            )
        }
        _ => return None,
    };
    let flow = Flow {
        from: SocketAddrV4::new(source, ports.0),
        to: SocketAddrV4::new(target, ports.1),
    };
    // Zero is no port, and the stack takes it for none.
    (ports.0 != 0 && ports.1 != 0).then_some((flow, content))
}

/// A datagram for the sandbox: the answer to one of this flow.
pub(super) fn datagram(flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: flow.to.port(),
        dst_port: flow.from.port(),
    };
    let (source, target) = (*flow.to.ip(), *flow.from.ip());
    compose(
        source,
        target,
        IpProtocol::Udp,
        UDP_HEADER + payload.len(),
        |bytes| {
            udp.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &source.into(),
                &target.into(),
                payload.len(),
                |out| out.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        },
    )
}

/// Tells the sandbox that a packet it has sent came to nothing. The packet may be cut to
/// [`QUOTE`] bytes, and is one that [`parse`] has read.
pub(super) fn unreachable(packet: &[u8], reason: Icmpv4DstUnreachable) -> Option<Vec<u8>> {
    let original = Ipv4Packet::new_unchecked(packet.get(..IP_HEADER)?);
    let start = usize::from(original.header_len());
    let data = packet.get(start..start + 8)?;
    let header = Ipv4Repr {
        src_addr: original.src_addr(),
        dst_addr: original.dst_addr(),
        next_header: original.next_header(),
        payload_len: usize::from(original.total_len()).checked_sub(start)?,
        hop_limit: original.hop_limit(),
    };
    let icmp = Icmpv4Repr::DstUnreachable {
        reason,
        header,
        data,
    };
    let size = icmp.buffer_len();
    Some(compose(GATEWAY, GUEST, IpProtocol::Icmp, size, |bytes| {
        let mut packet = Icmpv4Packet::new_unchecked(bytes);
        icmp.emit(&mut packet, &ChecksumCapabilities::default());
    }))
}

fn compose(
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: IpProtocol,
    size: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut bytes = vec![0; IP_HEADER + size];
    let header = Ipv4Repr {
        src_addr: source,
        dst_addr: target,
        next_header: protocol,
        payload_len: size,
        hop_limit: 64,
    };
    header.emit(
        &mut Ipv4Packet::new_unchecked(&mut bytes[..]),
        &ChecksumCapabilities::default(),
    );
    fill(&mut bytes[IP_HEADER..]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow() -> Flow {
        Flow {
            from: SocketAddrV4::new(GUEST, 4000),
            to: SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 53),
        }
    }

    /// A datagram as the sandbox would send it.
    fn sent(payload: &[u8]) -> Vec<u8> {
        let flow = flow();
        let back = Flow {
            from: flow.to,
            to: flow.from,
        };
        datagram(&back, payload)
    }

    #[test]
    fn datagrams_are_read_as_written() {
        let bytes = sent(b"hello");
        assert_eq!(parse(&bytes), Some((flow(), Content::Udp(b"hello"))));
        // Not from the sandbox's address.
        assert_eq!(parse(&datagram(&flow(), b"hello")), None);
    }

    #[test]
    fn errors_quote_what_they_are_about() {
        let bytes = sent(b"hello");
        let reason = Icmpv4DstUnreachable::CommProhibited;
        let error = unreachable(&bytes[..QUOTE], reason).unwrap();
        assert_eq!(error[IP_HEADER..IP_HEADER + 2], [3, 13]);
        assert_eq!(error[IP_HEADER + 8 + IP_HEADER..], bytes[IP_HEADER..QUOTE]);
        assert_eq!(unreachable(&bytes[..10], reason), None);
    }

    proptest! {
        #[test]
        fn no_packet_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..80), start in any::<bool>()) {
            let mut packet = sent(&bytes);
            if start {
                // Ours, with any bytes over its headers.
                let end = bytes.len().min(packet.len());
                packet[..end].copy_from_slice(&bytes[..end]);
                packet[0] = 0x40 | (packet[0] & 0xf);
            }
            if parse(&packet).is_some() {
                unreachable(&packet, Icmpv4DstUnreachable::PortUnreachable);
            }
        }
    }
}
