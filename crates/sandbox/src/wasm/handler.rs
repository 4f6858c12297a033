//! Components that export the project's own interface: a function that gets the parameters and returns
//! the result, which is what languages with an interpreter can be compiled to without a framework.
//!
//! `sdk/wasm/serverledge.wit` is the interface; the types here are made of it.

use wasmtime::Store;

use self::bindings::exports::serverledge::function::handler::{Context, Failure};
use super::call::{Ended, RESULT_BYTES_MAX, error, too_large};
use super::host::Host;
use crate::Call;
pub(super) use bindings::FunctionPre;

/// What a component exports to be called in this way.
pub(super) const EXPORT: &str = "serverledge:function/handler@0.1.0";

/// What a call may give the node at once, bytes. A result that is too large and not larger than this is
/// told from other mistakes.
const LIFTED_BYTES_MAX: usize = 2 * RESULT_BYTES_MAX;

/// What of a failure is told, bytes, as with the other languages.
const NAME_BYTES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 16 << 10;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wasm/serverledge.wit",
        world: "function",
        exports: { default: async },
    });
}

/// Runs a call in an instance of its own.
pub(super) async fn run(
    pre: &FunctionPre<Host>,
    store: &mut Store<Host>,
    call: &Call,
    function: &str,
    memory_mb: u64,
) -> wasmtime::Result<Ended> {
    store.set_hostcall_fuel(LIFTED_BYTES_MAX);
    let params = std::str::from_utf8(&call.params)?;
    let context = Context {
        function_name: function.to_owned(),
        request_id: call.id.clone(),
        memory_mb: u32::try_from(memory_mb).unwrap_or(u32::MAX),
        deadline: call.deadline_unix,
    };
    let function = pre.instantiate_async(&mut *store).await?;
    let handler = function.serverledge_function_handler();
    let answer = handler.call_handle(&mut *store, params, &context).await?;
    Ok(match answer {
        Ok(result) if result.len() > RESULT_BYTES_MAX => {
            Ended::Failure(error("ResultTooLarge", too_large()))
        }
        Ok(result) => Ended::Result(result.into_bytes()),
        Err(Failure { name, message }) => {
            let name = cut(name, NAME_BYTES_MAX);
            Ended::Failure(error(&name, cut(message, MESSAGE_BYTES_MAX)))
        }
    })
}

/// At most so many bytes of a text, whole characters.
fn cut(mut text: String, bytes_max: usize) -> String {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("aü€".into(), 5), "aü");
        assert_eq!(cut("€".into(), 2), "");
    }
}
