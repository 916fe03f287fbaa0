//! Which documents are for validation: a function of the seed and the document's number.

use std::collections::BinaryHeap;

use crate::data::inputs::Split;
use crate::data::order::mix;
use crate::error::{Error, Result, counted};

/// How much to put aside for validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValSize {
    /// A share of the documents, on average.
    Fraction(f64),
    /// So many documents exactly.
    Documents(u64),
}

impl ValSize {
    /// # Errors
    /// The share is none.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Fraction(share) if !(0.0..1.0).contains(share) => Err(Error::usage(format!(
                "--val-fraction {share}: expected at least 0 and below 1"
            ))),
            _ => Ok(()),
        }
    }
}

/// Draws for every document a number of 64 bits, all different; those up to a limit are for
/// validation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chooser {
    seed: u64,
    limit: Option<u64>,
}

impl Chooser {
    /// `count` is asked for the number of documents if that must be known.
    ///
    /// # Errors
    /// The share is none, or there are not more documents than are put aside.
    pub fn new(size: &ValSize, seed: u64, count: impl FnOnce() -> Result<u64>) -> Result<Self> {
        size.check()?;
        let mut chooser = Self { seed, limit: None };
        match *size {
            ValSize::Fraction(0.0) | ValSize::Documents(0) => {}
            ValSize::Fraction(share) => chooser.limit = Some((share * 2_f64.powi(64)) as u64),
            ValSize::Documents(wanted) => {
                let count = count()?;
                if count <= wanted {
                    return Err(Error::usage(format!(
                        "--val-docs {wanted}: the inputs have {}",
                        counted(count, "document", "documents")
                    )));
                }
                // The smallest numbers seen, the largest of them on top.
                let mut smallest = BinaryHeap::new();
                for document in 0..count {
                    smallest.push(chooser.draw(document));
                    if smallest.len() as u64 > wanted {
                        smallest.pop();
                    }
                }
                chooser.limit = smallest.pop();
            }
        }
        Ok(chooser)
    }

    /// Where document number `document` belongs.
    pub fn split(&self, document: u64) -> Split {
        match self.limit {
            Some(limit) if self.draw(document) <= limit => Split::Val,
            _ => Split::Train,
        }
    }

    fn draw(&self, document: u64) -> u64 {
        // Both steps are one to one in the document, so no two draw the same.
        mix(mix(document.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ mix(self.seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn val(size: ValSize, seed: u64) -> Vec<u64> {
        let chooser = Chooser::new(&size, seed, || Ok(1000)).unwrap();
        let of_val = |document: &u64| chooser.split(*document) == Split::Val;
        (0..1000).filter(of_val).collect()
    }

    #[test]
    fn sizes_are_kept_and_seeds_choose() {
        for wanted in [0, 1, 10, 999] {
            assert_eq!(val(ValSize::Documents(wanted), 7).len() as u64, wanted);
        }
        let share = val(ValSize::Fraction(0.1), 7).len();
        assert!((70..130).contains(&share), "{share}");
        assert_ne!(
            val(ValSize::Documents(10), 7),
            val(ValSize::Documents(10), 8)
        );
        assert!(val(ValSize::Fraction(0.0), 7).is_empty());
    }

    #[test]
    fn too_much_is_refused() {
        for size in [
            ValSize::Documents(1000),
            ValSize::Fraction(1.0),
            ValSize::Fraction(f64::NAN),
        ] {
            assert!(Chooser::new(&size, 7, || Ok(1000)).is_err());
        }
    }
}
