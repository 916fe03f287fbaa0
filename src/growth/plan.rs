//! Growth plans: which source block stands behind each block of the grown model.
//!
//! Where and what are separate. A plan starts from a *layer map*, a list of source blocks; the
//! first place of a source block keeps it, bit for bit, and every further place is new and
//! gets its values from an initializer.

use std::fmt;

use serde::Serialize;

use super::init::{Claim, Initializer};
use crate::error::{Error, Result};

/// Where new blocks stand when no method or plan file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The whole stack again on top: block j comes from j mod n.
    Stack,
    /// Spread evenly, each after its parent: block j comes from ⌊(j + ½) · n / N⌋.
    Interleave,
    /// After the last block, from the last blocks.
    Top,
    /// Among the first blocks, which stand twice.
    Bottom,
    /// After the middle, from the middle blocks.
    Middle,
}

impl Placement {
    /// The layer map from `n` to `to` blocks, `to` > `n`.
    pub fn layer_map(self, n: usize, to: usize) -> Vec<usize> {
        let added = to - n;
        let block = added.min(n);
        match self {
            Self::Stack => (0..to).map(|j| j % n).collect(),
            Self::Interleave => (0..to).map(|j| (2 * j + 1) * n / (2 * to)).collect(),
            Self::Top => repeat_block(n, n - block..n, added),
            Self::Bottom => repeat_block(n, 0..block, added),
            Self::Middle => {
                let start = (n - block) / 2;
                repeat_block(n, start..start + block, added)
            }
        }
    }
}

/// All blocks up to the end of `block`, then `added` blocks cycling through it, then the rest.
pub fn repeat_block(n: usize, block: std::ops::Range<usize>, added: usize) -> Vec<usize> {
    let again = block.clone().cycle().take(added);
    (0..block.end).chain(again).chain(block.end..n).collect()
}

/// One block of the grown model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slot {
    /// The source block behind it.
    pub source: usize,
    /// How its values come about; none for a kept block.
    pub init: Option<Initializer>,
}

impl Slot {
    /// Whether the source block stands here unchanged.
    pub fn is_kept(&self) -> bool {
        self.init.is_none()
    }
}

/// Where a new block stands between kept ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// The nearest kept source block below; that above where there is none.
    pub below: usize,
    /// The nearest kept source block above; that below where there is none.
    pub above: usize,
    /// 0 is at the block below, 1 at the block above; one new block alone is at ½.
    pub fraction: f32,
}

/// A complete plan: one slot per block of the grown model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrowthPlan {
    /// Blocks of the source.
    pub source_n_layer: usize,
    /// Blocks of the grown model, bottom first.
    pub slots: Vec<Slot>,
}

impl GrowthPlan {
    /// Every first place of a source block is kept, every further place gets `init`.
    pub fn from_map(source_n_layer: usize, map: &[usize], init: &Initializer) -> Result<Self> {
        let mut seen = vec![false; source_n_layer];
        let slots = map
            .iter()
            .map(|&source| {
                let first = !std::mem::replace(
                    seen.get_mut(source)
                        .ok_or_else(|| out_of_bounds(source, source_n_layer))?,
                    true,
                );
                Ok(Slot {
                    source,
                    init: (!first).then(|| init.clone()),
                })
            })
            .collect::<Result<_>>()?;
        Self::new(source_n_layer, slots)
    }

    /// Checks a list of slots.
    ///
    /// # Errors
    /// A slot names a block the source does not have, a kept block stands twice, or a blend
    /// has a bad term.
    pub fn new(source_n_layer: usize, slots: Vec<Slot>) -> Result<Self> {
        let mut kept = vec![false; source_n_layer];
        for slot in &slots {
            let seen = kept
                .get_mut(slot.source)
                .ok_or_else(|| out_of_bounds(slot.source, source_n_layer))?;
            match &slot.init {
                None if std::mem::replace(seen, true) => {
                    return Err(Error::usage(format!(
                        "source block {} is kept twice",
                        slot.source
                    ))
                    .with_hint("give the second one an initializer, such as copy"));
                }
                None => {}
                Some(init) => init.check(source_n_layer)?,
            }
        }
        if slots.is_empty() {
            return Err(Error::usage("the plan has no blocks"));
        }
        Ok(Self {
            source_n_layer,
            slots,
        })
    }

    /// Blocks of the grown model.
    pub fn n_layer(&self) -> usize {
        self.slots.len()
    }

    /// The source block of every block.
    pub fn layer_map(&self) -> Vec<usize> {
        self.slots.iter().map(|slot| slot.source).collect()
    }

    /// Source blocks that are kept nowhere.
    pub fn dropped(&self) -> Vec<usize> {
        (0..self.source_n_layer)
            .filter(|&layer| {
                !self
                    .slots
                    .iter()
                    .any(|slot| slot.is_kept() && slot.source == layer)
            })
            .collect()
    }

    /// The kept blocks around the new block `layer`, and its place between them.
    pub fn gap(&self, layer: usize) -> Gap {
        let kept = |slot: &&Slot| slot.is_kept();
        let own = self.slots[layer].source;
        let (lower, upper) = (&self.slots[..layer], &self.slots[layer + 1..]);
        let below = lower.iter().rev().find(kept).map(|slot| slot.source);
        let above = upper.iter().find(kept).map(|slot| slot.source);
        let new_below = lower
            .iter()
            .rev()
            .take_while(|slot| !slot.is_kept())
            .count();
        let new_above = upper.iter().take_while(|slot| !slot.is_kept()).count();
        Gap {
            below: below.or(above).unwrap_or(own),
            above: above.or(below).unwrap_or(own),
            fraction: (new_below + 1) as f32 / (new_below + new_above + 2) as f32,
        }
    }

    /// The weakest claim of its initializers; none if the kept blocks are not the whole
    /// source in order, for then the function changes whatever the new blocks do.
    pub fn claim(&self) -> Claim {
        let kept: Vec<usize> = self
            .slots
            .iter()
            .filter(|slot| slot.is_kept())
            .map(|slot| slot.source)
            .collect();
        if kept != (0..self.source_n_layer).collect::<Vec<_>>() {
            return Claim::None;
        }
        self.slots
            .iter()
            .filter_map(|slot| slot.init.as_ref())
            .map(|init| init.as_init().claim())
            .min()
            .unwrap_or(Claim::Exact)
    }
}

fn out_of_bounds(source: usize, n: usize) -> Error {
    Error::usage(format!(
        "the plan names source block {source}; the source has blocks 0 to {}",
        n - 1
    ))
}

/// A compact form such as `0 1 1* 2 2*`, new blocks starred.
impl fmt::Display for GrowthPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, slot) in self.slots.iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            let star = if slot.is_kept() { "" } else { "*" };
            write!(f, "{space}{}{star}", slot.source)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn placements_are_as_documented() {
        assert_eq!(Placement::Stack.layer_map(3, 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(Placement::Interleave.layer_map(3, 6), [0, 0, 1, 1, 2, 2]);
        assert_eq!(Placement::Interleave.layer_map(4, 5), [0, 1, 2, 2, 3]);
        assert_eq!(Placement::Top.layer_map(4, 6), [0, 1, 2, 3, 2, 3]);
        assert_eq!(Placement::Bottom.layer_map(4, 6), [0, 1, 0, 1, 2, 3]);
        assert_eq!(Placement::Middle.layer_map(4, 6), [0, 1, 2, 1, 2, 3]);
    }

    #[test]
    fn any_depth_is_reached_and_every_block_kept_in_order() {
        for placement in Placement::value_variants() {
            for n in 1..14 {
                for to in n + 1..40 {
                    let plan = GrowthPlan::from_map(
                        n,
                        &placement.layer_map(n, to),
                        &Initializer::ZERO_RESIDUAL,
                    )
                    .unwrap();
                    assert_eq!(plan.n_layer(), to);
                    assert_eq!(
                        plan.claim(),
                        Claim::Exact,
                        "{placement:?} {n} -> {to}: {plan}"
                    );
                    assert!(plan.dropped().is_empty());
                }
            }
        }
    }

    #[test]
    fn new_blocks_know_the_kept_ones_around_them() {
        let plan = GrowthPlan::from_map(2, &[0, 0, 0, 1, 1], &Initializer::COPY).unwrap();
        assert_eq!(
            plan.gap(1),
            Gap {
                below: 0,
                above: 1,
                fraction: 1.0 / 3.0
            }
        );
        assert_eq!(
            plan.gap(2),
            Gap {
                below: 0,
                above: 1,
                fraction: 2.0 / 3.0
            }
        );
        assert_eq!(
            plan.gap(4),
            Gap {
                below: 1,
                above: 1,
                fraction: 0.5
            }
        );
    }

    #[test]
    fn a_plan_that_reorders_or_drops_claims_nothing() {
        let dropped = GrowthPlan::from_map(3, &[0, 2, 2, 2], &Initializer::ZERO_RESIDUAL).unwrap();
        assert_eq!((dropped.claim(), dropped.dropped()), (Claim::None, vec![1]));
        let reordered = GrowthPlan::from_map(2, &[1, 0, 0], &Initializer::ZERO_RESIDUAL).unwrap();
        assert_eq!(reordered.claim(), Claim::None);
        assert!(GrowthPlan::from_map(2, &[0, 2], &Initializer::COPY).is_err());
    }
}
