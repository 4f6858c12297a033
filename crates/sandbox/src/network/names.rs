//! Looking names up at the node's resolvers, for functions whose sandbox sends no datagrams to them
//! by itself.
//!
//! The machine's own way (`getaddrinfo`) takes a thread for as long as a resolver is silent, can't be
//! stopped, and tells what is in the machine's `/etc/hosts`. Here a look-up is a socket, dropped when
//! nobody wants the answer any more. What a name stands for decides nothing: each address is judged
//! when it is connected to.
//!
//! Left out: IPv6, search domains, answers of more than one datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Access, random};

/// How long one resolver may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often all of them are asked.
const ROUNDS: usize = 2;
/// Resolvers that are asked, as by the machine's own library.
const RESOLVERS_MAX: usize = 3;
/// Addresses taken from an answer.
const ADDRESSES_MAX: usize = 32;
/// Longest name and longest part of one, bytes.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Largest answer, bytes: more was not asked for.
const DATAGRAM_MAX: usize = 4096;

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The function may not look names up.
    #[error("names can't be looked up")]
    Denied,
    /// It is no name.
    #[error("it is no name")]
    Invalid,
    /// There is no such name, or it has no IPv4 address.
    #[error("there is no such name")]
    Unknown,
    /// No resolver has answered.
    #[error("no resolver answers")]
    Unanswered,
}

/// The addresses of a name; an address is its own.
pub(crate) async fn resolve(access: &Access, name: &str) -> Result<Vec<Ipv4Addr>, NameError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if !access.policy.allows_names() {
        return Err(NameError::Denied);
    }
    let question = encoded(name)?;
    for _ in 0..ROUNDS {
        for resolver in access.resolvers().into_iter().take(RESOLVERS_MAX) {
            // Others have failed, or say that they can't.
            if let Ok(Ok(Some(answer))) = timeout(ANSWER_MAX, ask(resolver, &question)).await {
                return answer;
            }
        }
    }
    Err(NameError::Unanswered)
}

/// A name as it is sent: each part after its length.
fn encoded(name: &str) -> Result<Vec<u8>, NameError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label =
        |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(is_plain);
    // What ends in a number is meant as an address, in a notation that we don't read.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    if name.len() > NAME_MAX || is_number || !name.split('.').all(is_label) {
        return Err(NameError::Invalid);
    }
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    bytes.push(0);
    Ok(bytes)
}

type Answer = Result<Vec<Ipv4Addr>, NameError>;

/// What a resolver says; `None` if it can't tell.
async fn ask(resolver: SocketAddr, name: &[u8]) -> io::Result<Option<Answer>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port and a number that nobody else can guess; nobody else's datagrams arrive anyway.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let id = random() as u16;
    let repr = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question: DnsQuestion {
            name,
            type_: DnsQueryType::A,
        },
    };
    let mut query = vec![0; repr.buffer_len()];
    repr.emit(&mut DnsPacket::new_unchecked(&mut query[..]));
    socket.send(&query).await?;
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let size = socket.recv(&mut buffer).await?;
        if let Some(read) = read(&buffer[..size], id, name) {
            return Ok(read);
        }
    }
}

/// `None` if it answers something else.
fn read(bytes: &[u8], id: u16, name: &[u8]) -> Option<Option<Answer>> {
    let packet = DnsPacket::new_checked(bytes).ok()?;
    let is_answer = packet.transaction_id() == id
        && packet.flags().contains(DnsFlags::RESPONSE)
        && packet.question_count() == 1;
    let (mut rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
    if !is_answer || question.type_ != DnsQueryType::A || !question.name.eq_ignore_ascii_case(name)
    {
        return None;
    }
    match packet.rcode() {
        DnsRcode::NoError => {}
        DnsRcode::NXDomain => return Some(Some(Err(NameError::Unknown))),
        _ => return Some(None),
    }
    let mut addresses = Vec::new();
    for _ in 0..packet.answer_record_count() {
        // What was cut off or is malformed ends it; what came before is good.
        let Ok((after, record)) = DnsRecord::parse(rest) else {
            break;
        };
        rest = after;
        if let DnsRecordData::A(address) = record.data
            && addresses.len() < ADDRESSES_MAX
        {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true if packet.flags().contains(DnsFlags::TRUNCATED) => Some(None),
        true => Some(Some(Err(NameError::Unknown))),
        false => Some(Some(Ok(addresses))),
    }
}

#[cfg(test)]
mod tests {
    use serverledge_core::NetworkPolicy;

    use super::super::NetworkConfig;
    use super::*;

    const NAME: &[u8] = b"\x01a\x07example\0";

    fn answer(id: u16, flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [id, flags, 1, records.len() as u16, 0, 0] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(NAME);
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(records.concat());
        bytes
    }

    const A: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03";
    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x0c";

    #[test]
    fn names_are_checked_and_encoded() {
        assert_eq!(encoded("a.Example.").unwrap(), NAME);
        for wrong in [
            "",
            ".",
            "a..b",
            "a b",
            "127.1",
            "2130706433",
            "é.example",
            "[::1]",
            "::1",
            "a.0",
        ] {
            assert_eq!(encoded(wrong), Err(NameError::Invalid), "{wrong:?}");
        }
        assert!(encoded(&"a".repeat(64)).is_err());
        assert!(encoded(&["ab"; 85].join(".")).is_err());
    }

    #[test]
    fn answers_are_read_and_what_answers_something_else_is_not() {
        let good = answer(7, 0x8180, &[ALIAS, A]);
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(read(&good, 7, NAME), Some(Some(Ok(vec![address]))));
        assert_eq!(read(&good, 8, NAME), None);
        assert_eq!(read(&good, 7, b"\x01b\x07example\0"), None);
        // A question is no answer.
        assert_eq!(read(&answer(7, 0x0100, &[A]), 7, NAME), None);
        let unknown = Some(Some(Err(NameError::Unknown)));
        assert_eq!(read(&answer(7, 0x8183, &[]), 7, NAME), unknown);
        assert_eq!(read(&answer(7, 0x8180, &[ALIAS]), 7, NAME), unknown);
        // A failure, a refusal, and nothing of a long answer.
        for flags in [0x8182, 0x8185, 0x8380] {
            assert_eq!(read(&answer(7, flags, &[]), 7, NAME), Some(None));
        }
        // Cut anywhere, it is read as far as it goes.
        for end in 0..good.len() {
            read(&good[..end], 7, NAME);
        }
        let many = vec![A; 1000];
        let read = read(&answer(7, 0x8180, &many), 7, NAME).unwrap().unwrap();
        assert_eq!(read.unwrap().len(), ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn addresses_need_no_resolver_and_names_a_permission() {
        let mut access = Access {
            policy: NetworkPolicy::None,
            config: NetworkConfig {
                resolv_conf: "/nonexistent".into(),
                ..NetworkConfig::default()
            },
        };
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(resolve(&access, "10.1.2.3").await, Ok(vec![address]));
        let denied = resolve(&access, "a.example").await;
        assert_eq!(denied, Err(NameError::Denied));
        access.policy = NetworkPolicy::Egress;
        let unanswered = resolve(&access, "a.example").await;
        assert_eq!(unanswered, Err(NameError::Unanswered));
    }
}
