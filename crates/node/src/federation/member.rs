//! Members of the fleet, as the registry has them: `registry/<area>/<arch>/<key>` for a node,
//! `registry/<area>/__lb/<arch>/<key>` for a load balancer, `ip;apiPort;udpPort;arch` for both.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use tokio::sync::watch;

use super::etcd::{Entry, Event};
use super::follow::Change;

/// What begins the keys of members.
pub(super) const PREFIX: &str = "registry/";

/// In the place of an architecture: a load balancer's follows.
const BALANCER: &str = "__lb";

/// A node or load balancer that has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its own name.
    pub key: String,
    /// Where it is.
    pub area: String,
    /// Whether it is a load balancer.
    pub is_balancer: bool,
    /// Address or name.
    pub host: String,
    /// Port of its API.
    pub api_port: u16,
    /// Port where it tells its status.
    pub udp_port: u16,
    /// `amd64`, `arm64`.
    pub architecture: String,
}

/// An address or a name, and nothing that would mean more in a URL.
fn is_host(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !text.is_empty() && text.bytes().all(is_plain);
    is_name || text.parse::<Ipv6Addr>().is_ok()
}

impl Member {
    /// As the registry has it; `None` for what is no member.
    pub(super) fn parse(key: &str, value: &[u8]) -> Option<Self> {
        let mut path = key.strip_prefix(PREFIX)?.split('/');
        let area = path.next()?;
        let is_balancer = path.clone().next()? == BALANCER;
        let name = path.next_back()?;
        let mut fields = std::str::from_utf8(value).ok()?.split(';');
        let host = fields.next().filter(|host| is_host(host))?;
        Some(Self {
            key: name.to_owned(),
            area: area.to_owned(),
            is_balancer,
            host: host.to_owned(),
            api_port: fields.next()?.parse().ok()?,
            udp_port: fields.next()?.parse().ok()?,
            // Not the path's: the original's nodes write there what their configuration says.
            architecture: fields.next()?.to_owned(),
        })
    }

    /// Where its API is, as URLs have it.
    pub(crate) fn authority(&self) -> String {
        let Self { host, api_port, .. } = self;
        match host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{api_port}"),
            Err(_) => format!("{host}:{api_port}"),
        }
    }

    /// Those of an area, load balancers first.
    pub(super) fn of_area<'a>(all: &'a All, area: &str) -> impl Iterator<Item = &'a Arc<Self>> {
        // Paths are sorted, and begin with the area.
        let start = format!("{PREFIX}{area}/");
        let from = all.range(start.clone()..);
        from.take_while(move |(path, _)| path.starts_with(&start))
            .map(|(_, member)| member)
    }

    /// Where the registry has it.
    pub(super) fn path(&self) -> String {
        let Self {
            key,
            area,
            architecture,
            ..
        } = self;
        let kind = if self.is_balancer { "__lb/" } else { "" };
        format!("{PREFIX}{area}/{kind}{architecture}/{key}")
    }

    /// What the registry says of it.
    pub(super) fn value(&self) -> String {
        let Self {
            host,
            api_port,
            udp_port,
            architecture,
            ..
        } = self;
        format!("{host};{api_port};{udp_port};{architecture}")
    }
}

/// Who is there, by key in the registry: a copy in memory.
#[derive(Debug, Default)]
pub struct Members {
    all: watch::Sender<Arc<All>>,
}

/// By path in the registry.
pub(super) type All = BTreeMap<String, Arc<Member>>;

impl Members {
    /// Everybody, this node included. A snapshot; cheap.
    pub fn all(&self) -> Arc<BTreeMap<String, Arc<Member>>> {
        Arc::clone(&self.all.borrow())
    }

    /// Tells of changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<All>> {
        self.all.subscribe()
    }

    /// Takes over who is there, without a registry.
    pub(super) fn replace(&self, all: All) {
        self.all.send_if_modified(|former| {
            let is_news = **former != all;
            if is_news {
                *former = Arc::new(all);
            }
            is_news
        });
    }

    /// Takes over what the registry says. While it says nothing, those who were there are taken to
    /// be still there: whether they are shows when they are asked.
    pub(super) fn change(&self, change: Change) {
        let mut all = match &change {
            Change::Listed(..) => BTreeMap::new(),
            Change::Event(_) => BTreeMap::clone(&self.all()),
            Change::Away => return,
        };
        let mut add = |entry: Entry| match Member::parse(&entry.key, &entry.value) {
            Some(member) => drop(all.insert(entry.key, Arc::new(member))),
            None => drop(all.remove(&entry.key)),
        };
        match change {
            Change::Listed(entries, _) => entries.into_iter().for_each(add),
            Change::Event(Event::Put(entry)) => add(entry),
            Change::Event(Event::Deleted(key, _)) => drop(all.remove(&key)),
            Change::Away => {}
        }
        self.all.send_replace(Arc::new(all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry {
            key: key.into(),
            value: value.into(),
            revision: 1,
        }
    }

    /// Recorded from the Go original.
    const RECORDED: [(&str, &str); 3] = [
        ("registry/CLOUD/amd64/peer", "127.0.0.1;1996;9996;amd64"),
        (
            "registry/EDGE/__lb/amd64/9kxaAkD7UXBJZvh5XbeoK1795427298436106402",
            "192.0.2.2;1330;9876;amd64",
        ),
        ("registry/ROME/amd64/node-a", "192.0.2.2;1323;9876;amd64"),
    ];

    #[test]
    fn what_the_original_registers_is_read_and_written() {
        for (key, value) in RECORDED {
            let member = Member::parse(key, value.as_bytes()).unwrap();
            assert_eq!(
                (member.path().as_str(), member.value().as_str()),
                (key, value)
            );
            assert_eq!(member.is_balancer, key.contains("__lb"));
        }
    }

    #[test]
    fn what_is_no_member_is_left_out() {
        for (key, value) in [
            ("registry/ROME/amd64/a", "127.0.0.1;1;2"),
            ("registry/ROME/amd64/a", "127.0.0.1;http;2;amd64"),
            ("registry/ROME/amd64/a", ";1;2;amd64"),
            ("registry/ROME", "127.0.0.1;1;2;amd64"),
            ("function/f", "{}"),
        ] {
            assert_eq!(Member::parse(key, value.as_bytes()), None, "{key} {value}");
        }
    }

    #[test]
    fn an_area_is_told_from_others() {
        let members = Members::default();
        let more = [
            ("registry/EDGE/amd64/a", "h;1;2;amd64"),
            ("registry/EDGE2/amd64/b", "h;1;2;amd64"),
        ];
        let listed = RECORDED.into_iter().chain(more).map(|(k, v)| entry(k, v));
        members.change(Change::Listed(listed.collect(), 1));
        let all = members.all();
        let of = |area| {
            let members = Member::of_area(&all, area);
            members
                .map(|it| (it.is_balancer, it.api_port))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("EDGE"), [(true, 1330), (false, 1)]);
        assert_eq!(of("CLOUD"), [(false, 1996)]);
        assert_eq!(of("ED"), []);
    }

    #[test]
    fn members_come_and_go() {
        let members = Members::default();
        let listed = RECORDED.map(|(key, value)| entry(key, value));
        members.change(Change::Listed(listed.to_vec(), 1));
        assert_eq!(members.all().len(), 3);
        members.change(Change::Event(Event::Deleted(RECORDED[0].0.into(), 2)));
        assert_eq!(members.all().len(), 2);
        members.change(Change::Away);
        assert_eq!(members.all().len(), 2);
        members.change(Change::Event(Event::Put(entry(
            RECORDED[0].0,
            "h;1;2;arm64",
        ))));
        assert_eq!(members.all()[RECORDED[0].0].architecture, "arm64");
        members.change(Change::Listed(vec![listed[1].clone()], 9));
        assert_eq!(members.all().len(), 1);
    }
}
