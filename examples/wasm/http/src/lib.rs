//! A function that answers over HTTP, as a component. Compile after
//! `rustup target add wasm32-wasip2`:
//!
//! ```sh
//! cargo build --release --target wasm32-wasip2
//! ```
//!
//! It gets a `POST /` whose body are the parameters, and answers with them: with status 422 if they
//! have a `fail` in them. `{"get": "example.org/page"}` has it get that page and tell of it; whom it
//! reaches is what its registration allows (`--network`).

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};

/// How much of a page is told, bytes.
const SHOWN: u64 = 64;

struct Handler;

wasip2::http::proxy::export!(Handler);

impl Guest for Handler {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let id = request.headers().get("x-request-id").concat();
        eprintln!("request {}", String::from_utf8_lossy(&id));
        let params = read(&request);
        let (status, text) = if params.contains("\"fail\"") {
            (422, format!("not with {params}"))
        } else if let Some((_, rest)) = params.split_once("\"get\"") {
            let page = rest.split('"').nth(1).unwrap_or_default();
            (200, get(page).unwrap_or_else(|error| format!("{{\"error\": {:?}}}", error.to_string())))
        } else {
            (200, format!("{{\"message\": \"Hello over HTTP!\", \"params\": {params}}}"))
        };
        respond(answer, status, &text);
    }
}

fn read(request: &IncomingRequest) -> String {
    text(request.consume().expect("the body is taken once"), u64::MAX)
}

/// What a body has in it, up to its end or so many bytes.
fn text(body: IncomingBody, bytes_max: u64) -> String {
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    // What breaks off is as long as it is.
    let _ = stream.take(bytes_max).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn respond(answer: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    stream.write_all(text.as_bytes()).expect("somebody reads");
    drop(stream);
    OutgoingBody::finish(body, None).expect("the body is whole");
}

/// Gets a page, as `HOST[:PORT]/PATH`, and tells its status, where it redirects to, and its text.
fn get(page: &str) -> Result<String, ErrorCode> {
    let (authority, path) = page.split_once('/').unwrap_or((page, ""));
    let request = OutgoingRequest::new(Fields::new());
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(&Method::Get).map_err(invalid)?;
    request.set_scheme(Some(&Scheme::Http)).map_err(invalid)?;
    request.set_authority(Some(authority)).map_err(invalid)?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(invalid)?;
    let reply = outgoing_handler::handle(request, None)?;
    reply.subscribe().block();
    let response: IncomingResponse = match reply.get() {
        Some(Ok(response)) => response?,
        _ => return Err(ErrorCode::InternalError(None)),
    };
    let status = response.status();
    let location = response.headers().get("location").concat();
    let location = String::from_utf8_lossy(&location).into_owned();
    let text = text(response.consume().expect("the body is taken once"), SHOWN);
    Ok(format!(
        "{{\"status\": {status}, \"location\": {location:?}, \"text\": {text:?}}}"
    ))
}
