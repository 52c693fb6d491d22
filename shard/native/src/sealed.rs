//! A value that nobody sees again once a change of it did not come to its end.

/// Holds a value. A panic in the middle of a change may leave it half changed; from then on it is out of reach.
pub struct Sealed<T> {
    value: T,
    whole: bool,
}

impl<T> Sealed<T> {
    /// Holds a whole value.
    pub fn new(value: T) -> Self {
        Self { value, whole: true }
    }

    /// The value; none after a panic.
    pub fn look(&self) -> Option<&T> {
        self.whole.then_some(&self.value)
    }

    /// Changes the value; none after a panic.
    pub fn change<'s, R>(&'s mut self, change: impl FnOnce(&'s mut T) -> R) -> Option<R> {
        if !std::mem::replace(&mut self.whole, false) {
            return None;
        }
        let result = change(&mut self.value);
        self.whole = true;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn after_a_panic_in_a_change_the_value_is_out_of_reach() {
        let mut sealed = Sealed::new(vec![1]);
        assert_eq!(sealed.change(|list| list.len()), Some(1));
        let broken = catch_unwind(AssertUnwindSafe(|| {
            sealed.change(|list| {
                list.push(2);
                panic!("half done");
            })
        }));
        assert!(broken.is_err());
        assert!(sealed.look().is_none());
        assert!(sealed.change(|list| list.len()).is_none());
    }
}
