//! Headers of messages that are passed on: what is meant for one connection is taken out, where the
//! message has been is added, and what targets tell the balancer is read and kept from clients.

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use serverledge_core::balancer::{Architecture, Stock};

use super::router::Told;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What is between two ends of one connection (RFC 9110, 7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

const NODE_NAME: HeaderName = HeaderName::from_static("serverledge-node-name");
const FREE_MEM: HeaderName = HeaderName::from_static("serverledge-free-mem");
const FREE_CPU: HeaderName = HeaderName::from_static("serverledge-free-cpu");
const NODE_ARCH: HeaderName = HeaderName::from_static("serverledge-node-arch");
const MAB_REQUEST_ID: HeaderName = HeaderName::from_static("serverledge-mab-request-id");

fn take_out_hop_by_hop(headers: &mut HeaderMap) {
    // Few messages name any: mostly `close` and `keep-alive`, which are gone anyway.
    if headers.contains_key(CONNECTION) {
        let named = headers.get_all(CONNECTION).iter();
        let named = named.filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|value| value.split(','));
        let named = named.filter_map(|name| HeaderName::try_from(name.trim()).ok());
        for name in named.collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether the connection must end with this request (RFC 9112, 6.1): of one whose body comes in chunks
/// and that also says its length, who is in front of us may have seen another end. The parser takes
/// the length out, so that this can't be told from a request without: all of them end theirs.
pub(super) fn must_close(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
}

/// Whether a message has been at the balancer called `name`.
pub(super) fn has_been_at(headers: &HeaderMap, name: &str) -> bool {
    let stations = headers.get_all(VIA).iter();
    let stations = stations.filter_map(|value| value.to_str().ok());
    // `1.1 name (comment)`, several with commas.
    stations
        .flat_map(|value| value.split(','))
        .any(|station| station.split_whitespace().nth(1) == Some(name))
}

/// Makes a request's headers fit to be passed on. Where its body ends is said anew.
pub(super) fn pass_on(headers: &mut HeaderMap, via: &HeaderValue) {
    take_out_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    // Answered by this end of the connection.
    headers.remove(EXPECT);
    headers.append(VIA, via.clone());
}

/// Makes an answer's headers fit to be passed back, and reads what they say of the target.
pub(super) fn pass_back(headers: &mut HeaderMap) -> Told {
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    take_out_hop_by_hop(headers);
    if is_chunked {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(NODE_NAME);
    headers.remove(MAB_REQUEST_ID);
    let number = |value: HeaderValue| value.to_str().ok()?.parse().ok();
    Told {
        stock: Stock {
            memory_free: headers.remove(FREE_MEM).and_then(number),
            cpu_free: headers.remove(FREE_CPU).and_then(number),
            ..Stock::default()
        },
        architecture: headers
            .get(NODE_ARCH)
            .and_then(|value| value.to_str().ok())
            .map(Architecture::parse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    const VIA_US: HeaderValue = HeaderValue::from_static("1.1 lb-1");

    #[test]
    fn what_is_for_one_connection_stays_there() {
        let mut request = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "keep-alive"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("content-length", "5"),
            ("expect", "100-continue"),
            ("x-theirs", "2"),
            ("serverledge-hops", "1"),
        ]);
        pass_on(&mut request, &VIA_US);
        assert_eq!(names(&request), ["serverledge-hops", "via", "x-theirs"]);
    }

    #[test]
    fn circles_are_seen() {
        let been = headers(&[
            ("via", "1.1 other (a, comment)"),
            ("via", "1.0 x, 1.1 lb-1"),
        ]);
        assert!(has_been_at(&been, "lb-1"));
        for elsewhere in ["1.1 lb-10", "lb-1", "1.1", ""] {
            assert!(!has_been_at(&headers(&[("via", elsewhere)]), "lb-1"));
        }
    }

    #[test]
    fn what_targets_tell_is_kept_from_clients() {
        let mut answer = headers(&[
            ("serverledge-node-name", "n"),
            ("serverledge-free-mem", "512"),
            ("serverledge-free-cpu", "1.500000"),
            ("serverledge-mab-request-id", "x"),
            ("serverledge-node-arch", "arm64"),
            ("serverledge-timestamp", "7"),
            ("retry-after", "1"),
            ("content-length", "3"),
            ("connection", "keep-alive"),
        ]);
        let told = pass_back(&mut answer);
        let left = [
            "content-length",
            "retry-after",
            "serverledge-node-arch",
            "serverledge-timestamp",
        ];
        assert_eq!(names(&answer), left);
        assert_eq!(told.stock.memory_free, Some(512.0));
        assert_eq!(told.stock.cpu_free, Some(1.5));
        assert_eq!(told.architecture, Some(Architecture::Arm64));

        let mut nonsense = headers(&[
            ("serverledge-free-mem", "plenty"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
        ]);
        assert_eq!(pass_back(&mut nonsense).stock, Stock::default());
        assert!(nonsense.is_empty());
    }
}
