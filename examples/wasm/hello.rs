//! Answers with a greeting and its parameters. Compile after `rustup target add wasm32-wasip1`:
//!
//! ```sh
//! rustc --target wasm32-wasip1 -O -o hello.wasm hello.rs
//! ```
//!
//! Parameters come on standard input and the result goes to standard output, both JSON; what is
//! written to standard error is shown to callers who ask for output.

use std::io::Read;

fn main() {
    let mut params = String::new();
    std::io::stdin()
        .read_to_string(&mut params)
        .expect("parameters are UTF-8");
    eprintln!("{} bytes of parameters", params.len());
    println!("{{\"message\": \"Hello from Rust!\", \"params\": {params}}}");
}
