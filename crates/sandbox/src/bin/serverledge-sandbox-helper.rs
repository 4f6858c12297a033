//! The helper as a program of its own, for this crate's tests. The node has it as a subcommand.

fn main() {
    serverledge_sandbox::helper_main()
}
