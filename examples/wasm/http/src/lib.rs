//! A function that answers over HTTP, as a component. Compile after
//! `rustup target add wasm32-wasip2`:
//!
//! ```sh
//! cargo build --release --target wasm32-wasip2
//! ```
//!
//! It gets a `POST /` whose body are the parameters, and answers with them: with status 422 if they
//! have a `fail` in them. `{"out": ...}` has it try to reach the world.

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};

struct Handler;

wasip2::http::proxy::export!(Handler);

impl Guest for Handler {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let id = request.headers().get("x-request-id").concat();
        eprintln!("request {}", String::from_utf8_lossy(&id));
        let params = read(&request);
        let (status, text) = if params.contains("\"fail\"") {
            (422, format!("not with {params}"))
        } else if params.contains("\"out\"") {
            (200, format!("{{\"reached\": {}}}", reaches_the_world()))
        } else {
            (200, format!("{{\"message\": \"Hello over HTTP!\", \"params\": {params}}}"))
        };
        respond(answer, status, &text);
    }
}

fn read(request: &IncomingRequest) -> String {
    let mut params = String::new();
    let body = request.consume().expect("the body is taken once");
    let mut stream = body.stream().expect("the stream is taken once");
    stream
        .read_to_string(&mut params)
        .expect("parameters are UTF-8");
    params
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

fn reaches_the_world() -> bool {
    let request = OutgoingRequest::new(Fields::new());
    let set = request.set_method(&Method::Get).is_ok()
        && request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some("127.0.0.1:1323")).is_ok()
        && request.set_path_with_query(Some("/status")).is_ok();
    assert!(set, "a valid request");
    let Ok(reply) = outgoing_handler::handle(request, None) else {
        return false;
    };
    reply.subscribe().block();
    matches!(reply.get(), Some(Ok(Ok(_))))
}
