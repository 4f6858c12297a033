//! Settings of a fleet: its registry, or how it does without.

use std::path::PathBuf;
use std::time::Duration;

use super::Config;

/// What the nodes of a fleet share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Etcd {
    /// `host:port` of each endpoint, `https://` before it if it says so; none: no fleet.
    pub endpoints: Vec<String>,
    /// User to log in as; none.
    pub username: Option<String>,
    /// Its password; none.
    pub password: Option<Hidden>,
    /// File with the certificates of authorities to trust; those of the machine.
    pub ca: Option<PathBuf>,
    /// File with this node's certificate; none.
    pub certificate: Option<PathBuf>,
    /// File with its private key; none.
    pub key: Option<PathBuf>,
}

impl Etcd {
    /// Whether endpoints without a scheme are asked by TLS.
    pub fn uses_tls(&self) -> bool {
        let says_so = |endpoint: &String| endpoint.starts_with("https://");
        self.ca.is_some() || self.certificate.is_some() || self.endpoints.iter().any(says_so)
    }

    /// The endpoints' hosts and ports.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.endpoints
            .iter()
            .map(|it| it.strip_prefix("https://").unwrap_or(it))
    }
}

/// How the nodes of a fleet treat each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Federation {
    /// What all of them know and nobody else; none: they believe whoever can reach them.
    pub secret: Option<Hidden>,
    /// Of some others, in a fleet without etcd: `host:port` where they tell their status; none.
    pub peers: Vec<String>,
}

impl Federation {
    /// Characters of what a node is called by others, together, where they gossip: more don't fit
    /// into their messages.
    const NAMES_MAX: usize = 140;

    /// What is wrong with the names by which a node would be told of.
    pub(super) fn wrong_names(config: &Config) -> Option<(&'static str, String)> {
        let registry = &config.registry;
        let names = [
            ("registry.area", Some(&registry.area)),
            ("registry.node.id", registry.node_id.as_ref()),
            ("api.ip", config.api.ip.as_ref()),
        ];
        let names = names.map(|(key, name)| (key, name.map_or("", String::as_str)));
        let is_wrong = |name: &str| name.contains(['/', ';']) || name.contains(char::is_control);
        if let Some((key, name)) = names.into_iter().find(|(_, name)| is_wrong(name)) {
            let text = format!("is {name:?}: with federation.peers, it can't have such characters");
            return Some((key, text));
        }
        let bytes: usize = names.iter().map(|(_, name)| name.len()).sum();
        (bytes > Self::NAMES_MAX).then(|| {
            let max = Self::NAMES_MAX;
            let text = format!(
                "is too long for federation.peers: with registry.node.id and api.ip it has {bytes} \
                 characters, of {max}"
            );
            ("registry.area", text)
        })
    }
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Who this node is.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// Its area; ROME.
    pub area: String,
    /// Its key; made at the first start and kept.
    pub node_id: Option<String>,
    /// How often everything is read from etcd, besides being watched; 30 s.
    pub monitoring_interval: Duration,
    /// Port where others ask for the status; 9876.
    pub udp_port: u16,
    /// Area of the cloud; none.
    pub remote_area: Option<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            area: "ROME".into(),
            node_id: None,
            monitoring_interval: Duration::from_secs(30),
            udp_port: 9876,
            remote_area: None,
        }
    }
}
