//! Settings of a class of calls: `qos.class.<name>.*`.

use std::ops::RangeInclusive;
use std::time::Duration;

use serverledge_core::qos::Class;

use super::super::value::Scalar;
use super::bounds;

/// How a setting is read, and where it goes.
pub(in crate::config) enum ClassKey {
    Number,
    /// Seconds up to this; a negative number is none.
    Deadline(f64),
    Value(RangeInclusive<f64>, fn(&mut Class, f64)),
}

impl ClassKey {
    /// Reads `value` and sets it; `None` if it isn't what was expected.
    pub(super) fn apply(&self, class: &mut Class, value: &Scalar) -> Option<()> {
        match self {
            Self::Number => {
                let number = value.as_integer()?;
                class.number = Some(i64::try_from(number).ok()?);
            }
            Self::Deadline(_) if value.as_number().is_some_and(|it| it < 0.0) => {
                class.deadline = None;
            }
            Self::Deadline(most) => {
                let deadline = value.as_duration();
                let fits = |it: &Duration| it.as_secs_f64() <= *most;
                class.deadline = Some(deadline.filter(fits)?);
            }
            Self::Value(range, set) => {
                set(class, value.as_number().filter(|it| range.contains(it))?);
            }
        }
        Some(())
    }

    /// What it takes.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Number => format!("an integer from 0 to {}", i64::MAX),
            Self::Deadline(most) => {
                format!("seconds, as a number or like 500ms, up to {most}; -1: none")
            }
            Self::Value(range, _) => format!("a number {}", bounds(range, &f64::MAX)),
        }
    }
}
