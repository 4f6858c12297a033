//! What can go wrong with fetching code, in words for whoever sent the URL.

use std::io;
use std::time::Duration;

/// An error of fetching code.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that can be fetched.
    #[error("the URL {problem}")]
    Url {
        /// What is wrong with it.
        problem: String,
    },
    /// All addresses of the host are ones that the node doesn't connect to.
    #[error("{host} has the {kind} address {address}, from which this node fetches nothing")]
    Address {
        /// As in the URL.
        host: String,
        /// What it means.
        address: std::net::IpAddr,
        /// What kind of address that is.
        kind: &'static str,
    },
    /// A redirect that isn't followed.
    #[error("{url} redirects to where this node doesn't follow")]
    Redirect {
        /// Which.
        url: String,
        /// What is wrong with where it leads.
        #[source]
        problem: Box<FetchError>,
    },
    /// From https to http.
    #[error("the URL is a step back from https to http")]
    Downgrade,
    /// Redirects without an end.
    #[error("the URL redirects more than {redirects_max} times (code.url.redirects_max)")]
    TooManyRedirects {
        /// The limit.
        redirects_max: usize,
    },
    /// A name without an address.
    #[error("the address of {host} could not be found")]
    Resolve {
        /// The name.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("connecting to {url} failed")]
    Connect {
        /// What was to be fetched.
        url: String,
        /// Why it failed; also a certificate that isn't trusted.
        #[source]
        source: io::Error,
    },
    /// The machine trusts nobody.
    #[error("this machine has no certificates of authorities to check {host} with")]
    NoAuthorities {
        /// The server's name.
        host: String,
    },
    /// Another answer than code.
    #[error("{url} was answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// What came.
        status: u16,
    },
    /// Not HTTP, or not all of it.
    #[error("the answer to {url} broke off or is not HTTP")]
    Broken {
        /// What was asked for.
        url: String,
        /// What the reader said.
        #[source]
        source: hyper::Error,
    },
    /// More than the limit.
    #[error("the code at {url} is larger than {bytes_max} bytes (code.url.size_max)")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit.
        bytes_max: u64,
    },
    /// Slower than the limit.
    #[error("the code did not arrive within {0:?} (code.url.timeout)")]
    Timeout(Duration),
    /// Other fetches took all the time.
    #[error("{0} other URLs are being fetched (code.url.concurrency)")]
    Busy(usize),
    /// Other code than was asked for.
    #[error("the code has the SHA-256 {found}, not that of the URL")]
    Digest {
        /// What came.
        found: String,
    },
}

/// Who is to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Whoever sent the URL.
    Caller,
    /// The server at the URL, or the way there.
    Server,
    /// The same, for being slow.
    Slowness,
    /// This node.
    Node,
}

impl FetchError {
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Url { .. }
            | Self::Address { .. }
            | Self::Downgrade
            | Self::TooLarge { .. }
            | Self::Digest { .. } => Blame::Caller,
            Self::Redirect { problem, .. } => problem.blame(),
            Self::TooManyRedirects { .. }
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Status { .. }
            | Self::Broken { .. } => Blame::Server,
            Self::Timeout(_) => Blame::Slowness,
            Self::NoAuthorities { .. } | Self::Busy(_) => Blame::Node,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } => "send an absolute http or https URL, or the archive itself",
            Self::Address { .. } => {
                "send the archive itself; the operator can open a network in code.url.networks"
            }
            Self::Redirect { problem, .. } => problem.hint(),
            Self::Downgrade | Self::TooManyRedirects { .. } => "send the URL it leads to",
            Self::TooLarge { .. } => "send the archive itself, or raise code.url.size_max",
            Self::Digest { .. } => "check the URL and the digest behind its #sha256=",
            Self::NoAuthorities { .. } => "install ca-certificates, or set SSL_CERT_FILE",
            Self::Busy(_) => "try again later",
            Self::Timeout(_) => "try again, or send the archive itself",
            Self::Resolve { .. } | Self::Connect { .. } => {
                "check that the node can reach the URL, or send the archive itself"
            }
            Self::Status { .. } | Self::Broken { .. } => "check what the URL answers",
        }
    }
}
