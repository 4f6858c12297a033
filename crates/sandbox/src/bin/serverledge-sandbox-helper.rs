//! The helper and the compiler as a program of their own, for this crate's tests. The node has them as
//! subcommands.

fn main() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|it| it == "wasm-compile")
    {
        serverledge_sandbox::wasm::compiler_main()
    }
    serverledge_sandbox::helper_main()
}
