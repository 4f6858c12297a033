//! A function in Rust, run anew for each call: counts the bytes of its parameters.
//!
//! ```text
//! rustc -O -C target-feature=+crt-static -o hello examples/rust/hello.rs
//! serverledge-cli create -f count --runtime custom --handler hello --memory 64 --src hello
//! ```

use std::env;
use std::error::Error;
use std::fs;

fn main() -> Result<(), Box<dyn Error>> {
    // Empty if the call has no parameters.
    let params = env::var("PARAMS_FILE")?;
    let bytes = match params.is_empty() {
        true => 0,
        false => fs::read(params)?.len(),
    };
    println!("counted");
    fs::write(env::var("RESULT_FILE")?, format!("{{\"bytes\": {bytes}}}"))?;
    Ok(())
}
