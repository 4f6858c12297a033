//! Classes of calls: what a call is worth, and until when.

use std::time::Duration;

/// Number of the class of calls that name none: what the wire has for a missing one.
pub const DEFAULT_NUMBER: i64 = 0;

/// Classes at most. With the functions they make the size of the program to be solved.
pub const CLASSES_MAX: usize = 64;

/// Name of the class that is there unless another has its number.
const DEFAULT_NAME: &str = "default";

/// A class of calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Its name, in lower case.
    pub name: String,
    /// Its number, for callers of the original's, who give numbers only.
    pub number: Option<i64>,
    /// What a call is worth that is answered in time.
    pub utility: f64,
    /// Response time within which that is; none: any.
    pub deadline: Option<Duration>,
    /// The fraction of calls, 0 to 1, that must not be dropped.
    pub completion: f64,
    /// What a call costs that is answered too late.
    pub penalty: f64,
    /// What a call costs that is dropped.
    pub drop_penalty: f64,
}

impl Class {
    /// With the values of the original's `default`: worth 1 whenever it is answered.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_lowercase(),
            number: None,
            utility: 1.0,
            deadline: None,
            completion: 0.0,
            penalty: 0.0,
            drop_penalty: 0.0,
        }
    }

    /// The deadline as the formulas have it, seconds; infinite if there is none.
    pub(super) fn deadline_seconds(&self) -> f64 {
        self.deadline.map_or(f64::INFINITY, |it| it.as_secs_f64())
    }
}

/// Why classes can't be told apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// There are too many.
    #[error("there are {0} classes, and {CLASSES_MAX} at most")]
    TooMany(usize),
    /// Two have the same number.
    #[error("the classes {0} and {1} both have the number {2}")]
    SameNumber(String, String, i64),
    /// Two have the same name.
    #[error("there are two classes called {0}")]
    SameName(String),
    /// A value out of its range.
    #[error("the class {0} has a value that is out of range")]
    OutOfRange(String),
}

/// All classes, the default one first.
#[derive(Debug, Clone, PartialEq)]
pub struct Classes {
    all: Vec<Class>,
}

impl Default for Classes {
    fn default() -> Self {
        let number = Some(DEFAULT_NUMBER);
        let class = Class {
            number,
            ..Class::new(DEFAULT_NAME)
        };
        Self { all: vec![class] }
    }
}

impl Classes {
    /// Those given, and `default` if none has its number.
    pub fn new(given: Vec<Class>) -> Result<Self, ClassError> {
        let mut all = given;
        let numbered = all
            .iter()
            .position(|class| class.number == Some(DEFAULT_NUMBER));
        let named = all.iter().position(|class| class.name == DEFAULT_NAME);
        match numbered.or(named) {
            Some(index) => {
                let mut default = all.remove(index);
                default.number.get_or_insert(DEFAULT_NUMBER);
                all.insert(0, default);
            }
            None => all.splice(0..0, Self::default().all).for_each(drop),
        }
        if all.len() > CLASSES_MAX {
            return Err(ClassError::TooMany(all.len()));
        }
        for (index, class) in all.iter().enumerate() {
            let finite = [class.utility, class.penalty, class.drop_penalty];
            let ranged = (0.0..=1.0).contains(&class.completion);
            if !ranged || finite.iter().any(|it| !it.is_finite() || *it < 0.0) {
                return Err(ClassError::OutOfRange(class.name.clone()));
            }
            for other in &all[..index] {
                if other.name == class.name {
                    return Err(ClassError::SameName(class.name.clone()));
                }
                if let Some(number) = class.number.filter(|_| other.number == class.number) {
                    let (one, two) = (other.name.clone(), class.name.clone());
                    return Err(ClassError::SameNumber(one, two, number));
                }
            }
        }
        Ok(Self { all })
    }

    /// All of them; elsewhere they go by their index here. The first is that of calls that name
    /// none.
    pub fn all(&self) -> &[Class] {
        &self.all
    }

    /// The index of the class with this number.
    pub fn by_number(&self, number: i64) -> Option<usize> {
        if number == DEFAULT_NUMBER {
            return Some(0);
        }
        self.all.iter().position(|it| it.number == Some(number))
    }

    /// The index of the class with this name, in any case; the default one for an empty name.
    pub fn by_name(&self, name: &str) -> Option<usize> {
        if name.is_empty() {
            return Some(0);
        }
        self.all
            .iter()
            .position(|it| it.name == name || it.name == name.to_lowercase())
    }

    /// All names with their numbers, for people.
    pub fn known(&self) -> String {
        let shown = self.all.iter().map(|class| match class.number {
            Some(number) => format!("{} ({number})", class.name),
            None => class.name.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, number: Option<i64>) -> Class {
        Class {
            number,
            ..Class::new(name)
        }
    }

    #[test]
    fn there_is_always_a_default() {
        let classes = Classes::new(vec![class("Critical", Some(7))]).unwrap();
        assert_eq!(classes.known(), "default (0), critical (7)");
        assert_eq!(classes.by_number(0), classes.by_name("default"));
        assert_eq!(classes.by_number(7), classes.by_name("CRITICAL"));
        assert_eq!(classes.by_name(""), Some(0));
        assert_eq!(classes.by_number(1), None);
        assert_eq!(classes.by_name("critica"), None);

        let own = Classes::new(vec![class("a", None), class("default", None)]).unwrap();
        assert_eq!((own.all().len(), own.by_number(0)), (2, Some(0)));
        let other = Classes::new(vec![class("a", Some(0))]).unwrap();
        assert_eq!((other.all().len(), other.by_number(0)), (1, Some(0)));
        // A class that is called default and has another number.
        let moved = Classes::new(vec![class("default", Some(5))]).unwrap();
        assert_eq!((moved.by_number(0), moved.by_number(5)), (Some(0), Some(0)));
    }

    #[test]
    fn what_could_be_confused_is_refused() {
        let check = |given, expected: &str| {
            let error = Classes::new(given).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            vec![class("a", Some(1)), class("b", Some(1))],
            "the number 1",
        );
        check(
            vec![class("a", Some(1)), class("A", Some(2))],
            "two classes called a",
        );
        let many = (0..65).map(|number| class(&format!("c{number}"), Some(number)));
        check(many.collect(), "65 classes");
        let mut odd = class("odd", None);
        odd.completion = 1.5;
        check(vec![odd.clone()], "odd");
        odd.completion = 0.0;
        odd.utility = f64::NAN;
        check(vec![odd], "odd");
    }
}
