//! `serverledge config`: the reference of configuration keys, from the table that parses them.

use std::io::{self, Write};

/// Prints every key. A reader who has seen enough (`| head`) is no error.
pub(crate) fn run() -> anyhow::Result<()> {
    match print(&mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print(out: &mut impl Write) -> io::Result<()> {
    for key in serverledge::config::describe() {
        writeln!(
            out,
            "{} ({}, default {})\n    {}",
            key.key, key.kind, key.default, key.doc
        )?;
        if let Some(reason) = key.no_effect {
            writeln!(out, "    No effect: {reason}")?;
        }
        writeln!(out)?;
    }
    out.flush()
}
