//! A placement that is kept for a while: what was planned for the whole of an execution serves its
//! next tasks too. It belongs to the execution and goes with it.

use super::Placement;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    placement: Placement,
    uses_left: u32,
}

impl Plan {
    /// Of use so many times.
    pub fn new(placement: Placement, uses: u32) -> Self {
        Self {
            placement,
            uses_left: uses,
        }
    }

    /// Uses it once more; `None` when it is used up.
    pub fn take(&mut self) -> Option<&Placement> {
        self.uses_left = self.uses_left.checked_sub(1)?;
        Some(&self.placement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_as_often_as_it_was_meant_to() {
        let placement: Placement = [("a".to_owned(), "n".to_owned())].into();
        let mut plan = Plan::new(placement.clone(), 2);
        assert_eq!(plan.take(), Some(&placement));
        assert_eq!(plan.take(), Some(&placement));
        assert_eq!(plan.take(), None);
        assert_eq!(plan.take(), None);
        assert_eq!(Plan::default().take(), None);
    }
}
