//! What becomes of a packet between two hosts: when it arrives, or that it doesn't. Pure: time is an
//! argument, and randomness comes from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::Ipv4Addr;
use std::time::Duration;

/// What a sender's queue holds, as time to send it. More is dropped, as by a router.
const QUEUE_MAX: Duration = Duration::from_millis(200);

/// The way from one host to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    bytes_per_second: Option<u64>,
    is_cut: bool,
}

impl Link {
    /// Packets arrive after this time; nothing else happens to them.
    pub const fn delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            bytes_per_second: None,
            is_cut: false,
        }
    }

    /// Up to so much is added to the delay of each packet. They keep their order.
    pub const fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// This share of packets, 0 to 1, is lost.
    pub const fn loss(mut self, share: f64) -> Self {
        self.loss = share;
        self
    }

    /// No more bytes than this leave a second.
    pub const fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = Some(bytes_per_second);
        self
    }
}

/// What went through a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that arrived or are on their way.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets that were lost, cut off or found the queue full.
    pub dropped: u64,
}

/// The place of a host in [`Emulator`].
pub(crate) type Host = usize;

/// A packet that has arrived.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    due: Duration,
    /// Keeps the order of those that are due together.
    number: u64,
    pub(crate) to: Host,
    pub(crate) packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Way {
    link: Option<Link>,
    /// Until when what was sent before takes to leave.
    busy_until: Duration,
    last_due: Duration,
    traffic: Traffic,
}

/// All hosts, links and packets on their way.
#[derive(Debug)]
pub(crate) struct Emulator {
    hosts: Vec<Ipv4Addr>,
    usual: Link,
    ways: BTreeMap<(Host, Host), Way>,
    coming: BinaryHeap<Reverse<Arrival>>,
    random: u64,
    number: u64,
}

impl Emulator {
    pub(crate) fn new(hosts: Vec<Ipv4Addr>, usual: Link, seed: u64) -> Self {
        Self {
            hosts,
            usual,
            ways: BTreeMap::new(),
            coming: BinaryHeap::new(),
            random: seed,
            number: 0,
        }
    }

    /// Changes the link in one direction. Packets on their way aren't touched.
    pub(crate) fn set(&mut self, from: Host, to: Host, link: Link) {
        self.ways.entry((from, to)).or_default().link = Some(link);
    }

    pub(crate) fn cut(&mut self, from: Host, to: Host, is_cut: bool) {
        let mut link = self.link(from, to);
        link.is_cut = is_cut;
        self.set(from, to, link);
    }

    pub(crate) fn traffic(&self, from: Host, to: Host) -> Traffic {
        let way = self.ways.get(&(from, to));
        way.map_or_else(Traffic::default, |way| way.traffic)
    }

    fn link(&self, from: Host, to: Host) -> Link {
        let way = self.ways.get(&(from, to));
        way.and_then(|way| way.link).unwrap_or(self.usual)
    }

    /// Takes a packet that a host has sent. One for no host is dropped.
    pub(crate) fn send(&mut self, from: Host, packet: &[u8], now: Duration) {
        let Some(to) = destination(packet)
            .and_then(|address| self.hosts.iter().position(|host| *host == address))
        else {
            return;
        };
        let link = self.link(from, to);
        let lost = link.is_cut || self.draw() < link.loss;
        let jitter = link.jitter.mul_f64(self.draw());
        let way = self.ways.entry((from, to)).or_default();
        let sent = way.busy_until.max(now);
        if lost || sent - now > QUEUE_MAX {
            way.traffic.dropped += 1;
            return;
        }
        let size = packet.len() as u64;
        way.busy_until = sent + transmission(size, link.bytes_per_second);
        way.last_due = way.last_due.max(way.busy_until + link.delay + jitter);
        way.traffic.packets += 1;
        way.traffic.bytes += size;
        self.number += 1;
        self.coming.push(Reverse(Arrival {
            due: way.last_due,
            number: self.number,
            to,
            packet: packet.to_vec(),
        }));
    }

    /// The next packet that has arrived by `now`.
    pub(crate) fn arrived(&mut self, now: Duration) -> Option<Arrival> {
        let Reverse(next) = self.coming.peek()?;
        if next.due > now {
            return None;
        }
        self.coming.pop().map(|Reverse(arrival)| arrival)
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.coming.peek().map(|Reverse(arrival)| arrival.due)
    }

    /// From 0 to below 1; SplitMix64 (Steele, Lea, Flood 2014).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn transmission(bytes: u64, bytes_per_second: Option<u64>) -> Duration {
    bytes_per_second.map_or(Duration::ZERO, |rate| {
        Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1))
    })
}

/// Whom a packet of IPv4 is for.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let version = packet.first()? >> 4;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| address.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn address(host: Host) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, host as u8 + 1)
    }

    fn packet(to: Host, size: usize, mark: u8) -> Vec<u8> {
        let mut packet = vec![mark; size.max(20)];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&address(to).octets());
        packet
    }

    fn emulator(link: Link) -> Emulator {
        Emulator::new((0..3).map(address).collect(), link, 7)
    }

    /// All that arrives, with the time.
    fn all(emulator: &mut Emulator) -> Vec<(Duration, u8)> {
        let mut seen = Vec::new();
        while let Some(next) = emulator.next() {
            assert!(emulator.arrived(next - Duration::from_nanos(1)).is_none());
            let arrival = emulator.arrived(next).unwrap();
            seen.push((next, *arrival.packet.last().unwrap()));
        }
        seen
    }

    #[test]
    fn a_packet_arrives_after_the_delay_at_whom_it_is_for() {
        let mut emulator = emulator(Link::delay(25 * MS));
        emulator.send(0, &packet(2, 60, 1), 3 * MS);
        assert!(emulator.arrived(27 * MS).is_none());
        assert_eq!(emulator.arrived(28 * MS).unwrap().to, 2);
        let expected = Traffic {
            packets: 1,
            bytes: 60,
            dropped: 0,
        };
        assert_eq!(emulator.traffic(0, 2), expected);
        assert_eq!(emulator.traffic(2, 0), Traffic::default());
    }

    #[test]
    fn a_cut_works_in_its_direction_until_it_is_mended() {
        let mut emulator = emulator(Link::delay(MS));
        emulator.cut(0, 1, true);
        emulator.send(0, &packet(1, 60, 1), MS);
        emulator.send(1, &packet(0, 60, 2), MS);
        emulator.cut(0, 1, false);
        emulator.send(0, &packet(1, 60, 3), MS);
        assert_eq!(all(&mut emulator), [(2 * MS, 2), (2 * MS, 3)]);
        assert_eq!(emulator.traffic(0, 1).dropped, 1);
    }

    #[test]
    fn what_is_no_packet_for_a_host_is_dropped() {
        let mut emulator = emulator(Link::delay(MS));
        let strange: [&[u8]; 4] = [&[], &[0x45; 19], &[0x60; 40], &[0x45; 40]];
        for packet in strange {
            emulator.send(0, packet, MS);
        }
        assert_eq!(emulator.next(), None);
    }

    #[test]
    fn bandwidth_spreads_packets_and_drops_what_the_queue_does_not_hold() {
        // A packet of 1,000 bytes takes 10 ms.
        let mut emulator = emulator(Link::delay(Duration::ZERO).bandwidth(100_000));
        for mark in 0..30 {
            emulator.send(0, &packet(1, 1_000, mark), Duration::ZERO);
        }
        let seen = all(&mut emulator);
        let times: Vec<_> = seen.iter().map(|(at, _)| at.as_millis()).collect();
        let expected: Vec<_> = (1..=21).map(|n| n * 10).collect();
        assert_eq!(times, expected);
        assert_eq!(emulator.traffic(0, 1).dropped, 9);
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_asked_for() {
        let mut emulator = emulator(Link::delay(MS).loss(0.2));
        for _ in 0..10_000 {
            emulator.send(0, &packet(1, 60, 0), Duration::ZERO);
        }
        let dropped = emulator.traffic(0, 1).dropped;
        assert!((1_800..2_200).contains(&dropped), "{dropped}");
    }

    proptest! {
        #[test]
        fn packets_keep_their_order_and_none_is_early(
            jitter in 0_u32..50,
            rate in prop::option::of(10_000_u64..1_000_000),
            gaps in prop::collection::vec(0_u32..5, 1..60),
        ) {
            let mut link = Link::delay(10 * MS).jitter(jitter * MS);
            link.bytes_per_second = rate;
            let mut emulator = emulator(link);
            let mut now = Duration::ZERO;
            let mut sent = Vec::new();
            for (mark, gap) in gaps.iter().enumerate() {
                now += *gap * MS;
                emulator.send(0, &packet(1, 100, mark as u8), now);
                sent.push(now);
            }
            let seen = all(&mut emulator);
            prop_assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
            for (at, mark) in seen {
                prop_assert!(at >= sent[usize::from(mark)] + 10 * MS);
            }
        }
    }
}
