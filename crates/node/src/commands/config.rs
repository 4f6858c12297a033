//! `serverledge config`: the reference of configuration keys, from the table that parses them.

/// Prints every key.
#[expect(clippy::print_stdout, reason = "the command's product")]
pub(crate) fn run() -> anyhow::Result<()> {
    for key in serverledge::config::describe() {
        println!(
            "{} ({}, default {})\n    {}",
            key.key, key.kind, key.default, key.doc
        );
        if let Some(reason) = key.no_effect {
            println!("    No effect: {reason}");
        }
        println!();
    }
    Ok(())
}
