//! Servers that behave and servers that don't, all on loopback: 127.0.0.1 is allowed to the
//! fetcher of these tests, 127.0.0.2 isn't.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const PEM: &[u8] = include_bytes!("tests/localhost.pem");

fn limits() -> FetchLimits {
    FetchLimits {
        networks: vec!["127.0.0.1".parse().unwrap()],
        bytes_max: 100_000,
        time_max: Duration::from_secs(20),
        redirects_max: 3,
        concurrency: 2,
    }
}

fn fetcher(limits: FetchLimits) -> Fetcher {
    Fetcher::trusting(limits, RootCertStore::empty)
}

/// Answers each connection to `host` with the bytes that `answer` makes of the request's head,
/// then closes it, or keeps it open if `hold`. Gives the authority for URLs.
async fn serve(host: &str, hold: bool, answer: fn(&str) -> Vec<u8>) -> String {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, hold, answer));
        }
    });
    authority
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    hold: bool,
    answer: fn(&str) -> Vec<u8>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let answer = answer(&String::from_utf8(head).unwrap());
    if stream.write_all(&answer).await.is_ok() && hold {
        // Until the client has enough.
        let _ = stream.read_u8().await;
    }
    let _ = stream.shutdown().await;
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

async fn fetch(fetcher: &Fetcher, url: &str) -> Result<Bytes, FetchError> {
    fetcher.fetch(&CodeUrl::parse(url)?).await
}

/// The error with its causes, and who is to blame.
async fn failure(limits: FetchLimits, url: &str) -> (String, Blame) {
    let error = fetch(&fetcher(limits), url).await.expect_err(url);
    assert!(!error.hint().is_empty());
    (crate::chain(&error), error.blame())
}

#[tokio::test]
async fn code_is_fetched() {
    let server = serve("127.0.0.1", true, |head| {
        assert!(
            head.starts_with("GET /a/code.zip?key=1 HTTP/1.1\r\n"),
            "{head}"
        );
        let lower = head.to_lowercase();
        assert!(lower.contains("\r\nhost: 127.0.0.1:"), "{head}");
        assert!(
            lower.contains("\r\naccept-encoding: identity\r\n"),
            "{head}"
        );
        ok(b"bytes")
    });
    let url = format!("http://{}/a/code.zip?key=1#part", server.await);
    assert_eq!(fetch(&fetcher(limits()), &url).await.unwrap(), "bytes");
}

#[tokio::test]
async fn bodies_of_any_framing_arrive() {
    let chunked = serve("127.0.0.1", true, |_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nby\r\n3\r\ntes\r\n0\r\n\r\n"
            .into()
    });
    let closed = serve("127.0.0.1", false, |_| {
        b"HTTP/1.0 200 OK\r\n\r\nbytes".into()
    });
    for server in [chunked.await, closed.await] {
        let code = fetch(&fetcher(limits()), &format!("http://{server}/")).await;
        assert_eq!(code.unwrap(), "bytes");
    }
}

#[tokio::test]
async fn local_addresses_are_refused() {
    let server = serve("127.0.0.1", false, |_| panic!("was connected to")).await;
    let port = server.split(':').next_back().unwrap();
    let closed = FetchLimits {
        networks: Vec::new(),
        ..limits()
    };
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "0.0.0.0",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "224.0.0.1",
    ] {
        let (message, blame) = failure(closed.clone(), &format!("http://{host}:{port}/")).await;
        assert!(
            message.contains("this node fetches nothing"),
            "{host}: {message}"
        );
        assert_eq!(blame, Blame::Caller);
    }
}

#[tokio::test]
async fn redirects_are_followed_and_checked() {
    let server = serve("127.0.0.1", false, |head| {
        match head.split(' ').nth(1).unwrap() {
            "/start" => redirect("/next?a"),
            "/next?a" => redirect("last"),
            "/last" => ok(b"bytes"),
            "/loop" => redirect("loop"),
            "/local" => redirect(concat!("http:", "//127.0.0.2:1/")),
            "/mapped" => redirect(concat!("http:", "//[::ffff:169.254.169.254]/")),
            "/file" => redirect("file:///etc/passwd"),
            "/nowhere" => b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".into(),
            path => panic!("{path}"),
        }
    })
    .await;
    let url = |path: &str| format!("http://{server}/{path}");
    let code = fetch(&fetcher(limits()), &url("start")).await;
    assert_eq!(code.unwrap(), "bytes");
    let strict = FetchLimits {
        networks: vec!["127.0.0.1".parse().unwrap()],
        redirects_max: 1,
        ..limits()
    };
    for (limits, path, words, expected) in [
        (limits(), "loop", "more than 3 times", Blame::Server),
        (strict, "start", "more than 1 times", Blame::Server),
        (
            limits(),
            "local",
            "the loopback address 127.0.0.2",
            Blame::Caller,
        ),
        (limits(), "mapped", "the link-local address", Blame::Caller),
        (limits(), "file", "redirects to where", Blame::Caller),
        (limits(), "nowhere", "status 302", Blame::Server),
    ] {
        let (message, blame) = failure(limits, &url(path)).await;
        assert!(message.contains(words), "{path}: {message}");
        assert_eq!(blame, expected, "{path}");
    }
}

#[tokio::test]
async fn other_answers_are_errors() {
    let server = serve("127.0.0.1", false, |head| {
        match head.split([' ', '?']).nth(1).unwrap() {
            "/missing" => b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".into(),
            "/empty" => Vec::new(),
            "/rubbish" => b"SSH-2.0-OpenSSH_9.6\r\n".into(),
            "/truncated" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".into(),
            "/cut" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsh".into(),
            path => panic!("{path}"),
        }
    })
    .await;
    for (path, words) in [
        ("missing", "status 404"),
        ("empty", "broke off"),
        ("rubbish", "not HTTP"),
        ("truncated", "broke off"),
        ("cut", "broke off"),
    ] {
        let (message, blame) = failure(limits(), &format!("http://{server}/{path}?secret")).await;
        assert!(message.contains(words), "{path}: {message}");
        assert!(!message.contains("secret"), "{message}");
        assert_eq!(blame, Blame::Server);
    }
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (message, blame) = failure(limits(), &format!("http://{address}/")).await;
    assert!(message.contains("connecting to"), "{message}");
    assert_eq!(blame, Blame::Server);
}

#[tokio::test]
async fn size_is_limited() {
    let announced = serve("127.0.0.1", true, |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n".into()
    });
    // Larger than what it is made of on the way, and without an end.
    let chunked = serve("127.0.0.1", true, |_| {
        let chunk = [&b"fa00\r\n"[..], &[b'x'; 0xfa00], b"\r\n"].concat();
        let head = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
        [head, &chunk, &chunk].concat()
    });
    let until_closed = serve("127.0.0.1", true, |_| {
        [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 100_001]].concat()
    });
    for server in [announced.await, chunked.await, until_closed.await] {
        let (message, blame) = failure(limits(), &format!("http://{server}/")).await;
        assert!(message.contains("larger than 100000 bytes"), "{message}");
        assert_eq!(blame, Blame::Caller);
    }
    let exact = serve("127.0.0.1", true, |_| ok(&[b'x'; 100_000])).await;
    let code = fetch(&fetcher(limits()), &format!("http://{exact}/")).await;
    assert_eq!(code.unwrap().len(), 100_000);
}

#[tokio::test]
async fn time_is_limited() {
    let impatient = FetchLimits {
        time_max: Duration::from_millis(100),
        ..limits()
    };
    let silent = serve("127.0.0.1", true, |_| Vec::new());
    let stuck = serve("127.0.0.1", true, |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".into()
    });
    // Never gets as far as a request.
    let deaf = serve("127.0.0.1", true, |_| panic!("no TLS was spoken"));
    let (silent, stuck, deaf) = (silent.await, stuck.await, deaf.await);
    for url in [format!("http://{silent}/"), format!("http://{stuck}/")] {
        let (message, blame) = failure(impatient.clone(), &url).await;
        assert!(message.contains("code.url.timeout"), "{message}");
        assert_eq!(blame, Blame::Slowness);
    }
    let fetcher = Fetcher::trusting(impatient.clone(), test_authorities);
    let error = fetch(&fetcher, &format!("https://{deaf}/")).await;
    assert!(matches!(error, Err(FetchError::Timeout(_))), "{error:?}");
}

#[tokio::test]
async fn only_so_many_are_fetched_at_once() {
    let fetcher = Arc::new(fetcher(FetchLimits {
        time_max: Duration::from_millis(500),
        concurrency: 1,
        ..limits()
    }));
    let silent = serve("127.0.0.1", true, |_| Vec::new()).await;
    let url = format!("http://{silent}/");
    let _held = fetcher.permits.acquire().await.unwrap();
    let error = fetch(&fetcher, &url).await.unwrap_err();
    assert!(matches!(error, FetchError::Busy(1)), "{error}");
    assert_eq!(error.blame(), Blame::Node);
}

fn test_authorities() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(PEM).map(Result::unwrap));
    store
}

/// As [`serve`], with TLS, as localhost.
async fn serve_tls(answer: fn(&str) -> Vec<u8>) -> u16 {
    let provider = Arc::new(crypto::ring::default_provider());
    let certificates = CertificateDer::pem_slice_iter(PEM).map(Result::unwrap);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            certificates.collect(),
            PrivateKeyDer::from_pem_slice(PEM).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, false, answer).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn certificates_are_checked() {
    let port = serve_tls(|head| match head.split(' ').nth(1).unwrap() {
        "/code" => ok(b"bytes"),
        path => redirect(&format!("http://127.0.0.1:1{path}")),
    })
    .await;
    let trusting = Fetcher::trusting(limits(), test_authorities);
    let code = fetch(&trusting, &format!("https://localhost:{port}/code")).await;
    assert_eq!(code.unwrap(), "bytes");
    // Another name than the certificate's.
    let error = fetch(&trusting, &format!("https://127.0.0.1:{port}/code")).await;
    let message = crate::chain(&error.unwrap_err());
    assert!(message.contains("certificate"), "{message}");
    // An authority that isn't trusted here.
    let doubting = Fetcher::trusting(limits(), || {
        let mut store = test_authorities();
        store.roots[0].subject_public_key_info = b"another"[..].into();
        store
    });
    let error = fetch(&doubting, &format!("https://localhost:{port}/code")).await;
    assert!(
        matches!(error, Err(FetchError::Connect { .. })),
        "{error:?}"
    );
    let error = fetch(
        &fetcher(limits()),
        &format!("https://localhost:{port}/code"),
    )
    .await;
    assert!(
        matches!(error, Err(FetchError::NoAuthorities { .. })),
        "{error:?}"
    );
    // What was asked for in private isn't fetched in public.
    let error = fetch(&trusting, &format!("https://localhost:{port}/plain")).await;
    let message = crate::chain(&error.unwrap_err());
    assert!(message.contains("from https to http"), "{message}");
}
