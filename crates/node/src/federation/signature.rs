//! Signatures of requests between nodes with one secret: who has one may say that a call has come
//! from another node, under which identity, and may have code.
//!
//! A header of its own, `t=MICROSECONDS,s=SEAL`, over the method, the path, what is said of the call
//! and the body. A request that is sent again within [`AGE_MAX`] is believed again: it makes a node
//! do no more than a request without a signature does.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::copies::FUNCTION;
use super::offload::{HOPS, REQUEST_ID};
use super::question::AGE_MAX;
use super::seal::{Purpose, Secret};

const SIGNATURE: HeaderName = HeaderName::from_static("serverledge-signature");

/// What a signature covers of the headers: what others are believed only with one. [`FUNCTION`] is
/// covered as well, where there is one.
const COVERED: [HeaderName; 2] = [HOPS, REQUEST_ID];

/// Signs `request`, whose body is `body`, as of `now`, microseconds since 1970.
pub(super) fn sign<B>(secret: &Secret, request: &mut Request<B>, body: &[u8], now: u64) {
    let seal = seal_parts(
        request.method(),
        request.uri().path(),
        request.headers(),
        body,
        now,
        |parts| hex::encode(secret.seal(Purpose::Call, parts)),
    );
    if let Ok(value) = HeaderValue::try_from(format!("t={now},s={seal}")) {
        request.headers_mut().insert(SIGNATURE, value);
    }
}

/// Whether a request is signed with the secret, and not long ago.
pub(super) fn is_signed(
    secret: &Secret,
    (method, path): (&Method, &str),
    headers: &HeaderMap,
    body: &[u8],
    now: u64,
) -> bool {
    let Some((then, seal)) = headers.get(SIGNATURE).and_then(read) else {
        return false;
    };
    let is_now = now.abs_diff(then) <= AGE_MAX.as_micros() as u64;
    is_now
        && seal_parts(method, path, headers, body, then, |parts| {
            secret.verifies(Purpose::Call, parts, &seal)
        })
}

fn read(value: &HeaderValue) -> Option<(u64, Vec<u8>)> {
    let (time, seal) = value.to_str().ok()?.strip_prefix("t=")?.split_once(",s=")?;
    Some((time.parse().ok()?, hex::decode(seal).ok()?))
}

fn seal_parts<T>(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
    time: u64,
    seal: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    let covered = COVERED.map(|name| headers.get(name).map_or(&[][..], HeaderValue::as_bytes));
    let time = time.to_be_bytes();
    let parts = [
        method.as_str().as_bytes(),
        path.as_bytes(),
        &time,
        covered[0],
        covered[1],
        body,
    ];
    match headers.get(FUNCTION) {
        None => seal(&parts),
        Some(function) => {
            let [method, path, time, hops, id, body] = parts;
            seal(&[method, path, time, hops, id, body, function.as_bytes()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn signed() -> (Secret, Request<()>) {
        let secret = Secret::new("the secret of one fleet");
        let request = Request::post("http://127.0.0.1:1/invoke/f")
            .header(HOPS, "1")
            .header(REQUEST_ID, "f-1");
        let mut request = request.body(()).unwrap();
        sign(&secret, &mut request, b"{}", NOW);
        (secret, request)
    }

    #[test]
    fn a_signature_is_for_one_request() {
        let (secret, request) = signed();
        let check =
            |secret: &Secret, method: Method, path: &str, headers: &HeaderMap, body: &[u8]| {
                is_signed(secret, (&method, path), headers, body, NOW)
            };
        let headers = request.headers();
        assert!(check(&secret, Method::POST, "/invoke/f", headers, b"{}"));
        assert!(!check(&secret, Method::GET, "/invoke/f", headers, b"{}"));
        assert!(!check(&secret, Method::POST, "/invoke/g", headers, b"{}"));
        assert!(!check(&secret, Method::POST, "/invoke/f", headers, b"{ }"));
        let other = Secret::new("the secret of another fleet");
        assert!(!check(&other, Method::POST, "/invoke/f", headers, b"{}"));
        for (name, value) in [
            (HOPS, "2"),
            (REQUEST_ID, "f-2"),
            (SIGNATURE, ""),
            (SIGNATURE, "t=1,s="),
            (SIGNATURE, "t=1800000000000000,s=00"),
            (SIGNATURE, "t=x,s=y"),
        ] {
            let mut headers = headers.clone();
            headers.insert(name, value.parse().unwrap());
            assert!(
                !check(&secret, Method::POST, "/invoke/f", &headers, b"{}"),
                "{value}"
            );
        }
        let mut more = headers.clone();
        more.insert(FUNCTION, HeaderValue::from_static("of somebody else"));
        assert!(!check(&secret, Method::POST, "/invoke/f", &more, b"{}"));
        let mut without = headers.clone();
        without.remove(SIGNATURE);
        assert!(!check(&secret, Method::POST, "/invoke/f", &without, b"{}"));
    }

    #[test]
    fn a_signature_is_for_a_while() {
        let (secret, request) = signed();
        let at = |now| {
            let what = (&Method::POST, "/invoke/f");
            is_signed(&secret, what, request.headers(), b"{}", now)
        };
        let age = AGE_MAX.as_micros() as u64;
        assert!(at(NOW + age) && at(NOW - age));
        assert!(!at(NOW + age + 1) && !at(NOW - age - 1) && !at(0) && !at(u64::MAX));
    }
}
