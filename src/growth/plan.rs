//! Growth plans: which source block stands behind each block of the grown model.
//!
//! Where and what are separate. A plan starts from a *layer map*, a list of source blocks; the
//! first place of a source block keeps it, bit for bit, and every further place is new and
//! gets its values from an initializer. What a block is made of, its *provenance*, follows from
//! both: the block of the map for copies, the blocks around it for interpolation, none for
//! values that are drawn.

use std::fmt;

use serde::Serialize;

use super::init::{Claim, Initializer, Term};
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
    /// The source block of the layer map, which the block need not be made of: see
    /// [`GrowthPlan::sources`].
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

/// Where a new block stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Its index in the grown model.
    pub layer: usize,
    /// Blocks of the source.
    pub source_n_layer: usize,
    /// The source block of the layer map.
    pub parent: usize,
    /// The nearest kept source block below.
    pub below: Option<usize>,
    /// The nearest kept source block above.
    pub above: Option<usize>,
    /// 0 is at the block below, 1 at the block above; one new block alone is at ½.
    pub fraction: f32,
}

impl Place {
    /// The error of an initializer that needs a kept block on either side.
    pub fn has_one_neighbour(&self, initializer: &str) -> Error {
        let n = self.source_n_layer;
        let side = match (self.below, self.above) {
            (Some(below), _) => format!("below it is source block {below}, above it none"),
            (None, Some(above)) => format!("above it is source block {above}, below it none"),
            (None, None) => "around it is none".to_owned(),
        };
        let message = format!(
            "{initializer} stands between two kept blocks, and block {} of the grown model does not: {side}",
            self.layer
        );
        Error::usage(message).with_hint(format!(
            "there, take copy or zero-residual. All new blocks stand between two with placement interleave below {} blocks, and middle below {}; method average copies at the top",
            n + n.div_ceil(2),
            2 * n
        ))
    }
}

/// What a block of the grown model is made of, as records tell it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    /// The source block, where it is made of exactly one.
    pub source: Option<usize>,
    /// Every source block that it is made of, with its share; none where all values are drawn.
    pub sources: Vec<Term>,
    /// How its values come about; none for a kept block.
    pub init: Option<Initializer>,
}

/// A complete plan: one slot per block of the grown model.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowthPlan {
    /// Blocks of the source.
    pub source_n_layer: usize,
    /// Blocks of the grown model, bottom first.
    pub slots: Vec<Slot>,
    /// What each is made of.
    sources: Vec<Vec<Term>>,
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
    /// A slot names a block the source does not have, a kept block stands twice, or an
    /// initializer has a bad parameter or cannot stand there.
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
        let sources = (0..slots.len())
            .map(|layer| sources(source_n_layer, &slots, layer))
            .collect::<Result<_>>()?;
        Ok(Self {
            source_n_layer,
            slots,
            sources,
        })
    }

    /// The source blocks that block `layer` is made of: itself where it is kept, those that its
    /// initializer reads where it is new.
    pub fn sources(&self, layer: usize) -> &[Term] {
        &self.sources[layer]
    }

    /// The one source block that block `layer` is made of, if it is exactly one.
    pub fn only_source(&self, layer: usize) -> Option<usize> {
        match self.sources(layer) {
            [term] => Some(term.layer),
            _ => None,
        }
    }

    /// What every block is made of.
    pub fn provenance(&self) -> Vec<Provenance> {
        let of = |(layer, slot): (usize, &Slot)| Provenance {
            source: self.only_source(layer),
            sources: self.sources(layer).to_vec(),
            init: slot.init.clone(),
        };
        self.slots.iter().enumerate().map(of).collect()
    }

    /// Blocks of the grown model.
    pub fn n_layer(&self) -> usize {
        self.slots.len()
    }

    /// How many of its blocks are new.
    pub fn n_new(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.is_kept()).count()
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

/// What block `layer` is made of.
fn sources(source_n_layer: usize, slots: &[Slot], layer: usize) -> Result<Vec<Term>> {
    match &slots[layer].init {
        Some(init) => init.as_init().sources(&place(source_n_layer, slots, layer)),
        None => Ok(vec![Term {
            layer: slots[layer].source,
            weight: 1.0,
        }]),
    }
}

/// The kept blocks around block `layer`, and its place between them.
fn place(source_n_layer: usize, slots: &[Slot], layer: usize) -> Place {
    let (lower, upper) = (&slots[..layer], &slots[layer + 1..]);
    let kept = |slot: &&Slot| slot.is_kept();
    let new = |slot: &&Slot| !slot.is_kept();
    let new_below = lower.iter().rev().take_while(new).count();
    let new_above = upper.iter().take_while(new).count();
    Place {
        layer,
        source_n_layer,
        parent: slots[layer].source,
        below: lower.iter().rev().find(kept).map(|slot| slot.source),
        above: upper.iter().find(kept).map(|slot| slot.source),
        fraction: (new_below + 1) as f32 / (new_below + new_above + 2) as f32,
    }
}

fn out_of_bounds(source: usize, n: usize) -> Error {
    Error::usage(format!(
        "the plan names source block {source}; the source has blocks 0 to {}",
        n - 1
    ))
}

/// A compact form such as `0 0+1* 1 1* 2 *`, new blocks starred: made of 0 and 1, of 1, of none.
impl fmt::Display for GrowthPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (layer, slot) in self.slots.iter().enumerate() {
            let space = if layer > 0 { " " } else { "" };
            let star = if slot.is_kept() { "" } else { "*" };
            let sources = self.sources(layer).iter();
            let sources: Vec<String> = sources.map(|term| term.layer.to_string()).collect();
            write!(f, "{space}{}{star}", sources.join("+"))?;
        }
        Ok(())
    }
}

/// As its blocks are made, not as its map names them.
impl Serialize for GrowthPlan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Made {
            source_n_layer: usize,
            slots: Vec<Provenance>,
        }
        let made = Made {
            source_n_layer: self.source_n_layer,
            slots: self.provenance(),
        };
        made.serialize(serializer)
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
        let around = |layer| {
            let place = place(2, &plan.slots, layer);
            (place.below, place.above, place.fraction)
        };
        assert_eq!(around(1), (Some(0), Some(1), 1.0 / 3.0));
        assert_eq!(around(2), (Some(0), Some(1), 2.0 / 3.0));
        assert_eq!(around(4), (Some(1), None, 0.5));
    }

    fn interpolated(n: usize, map: &[usize], init: &str) -> Result<GrowthPlan> {
        GrowthPlan::from_map(n, map, &Initializer::parse(init).unwrap())
    }

    #[test]
    fn interpolation_is_between_the_kept_blocks_around_a_run() {
        let shares = |plan: &GrowthPlan, layer: usize| -> Vec<(usize, f32)> {
            let terms = plan.sources(layer).iter();
            terms.map(|term| (term.layer, term.weight)).collect()
        };
        // A run between 1 and 2, whatever its own map says.
        let middle = Placement::Middle.layer_map(4, 6);
        let plan = interpolated(4, &middle, "interpolate").unwrap();
        assert_eq!(plan.to_string(), "0 1 2 2+3* 2+3* 3");
        let third = 1.0_f32 / 3.0;
        assert_eq!(shares(&plan, 3), [(2, 1.0 - third), (3, third)]);
        let own = interpolated(4, &middle, "interpolate:coefficient=0.25").unwrap();
        assert_eq!(shares(&own, 4), [(2, 0.75), (3, 0.25)]);
        let bottom = Placement::Bottom.layer_map(4, 6);
        let plan = interpolated(4, &bottom, "interpolate").unwrap();
        assert_eq!(plan.to_string(), "0 1 1+2* 1+2* 2 3");
        // At the ends of the scale it is one block alone.
        for (coefficient, only) in [("0", 0), ("1", 1), ("-0.0", 0)] {
            let init = format!("interpolate:coefficient={coefficient}");
            let plan = interpolated(2, &[0, 0, 1], &init).unwrap();
            assert_eq!(
                (plan.only_source(1), shares(&plan, 1).len()),
                (Some(only), 1)
            );
        }
    }

    #[test]
    fn interpolation_without_two_neighbours_is_refused() {
        for (placement, to) in [
            (Placement::Top, 5),
            (Placement::Top, 9),
            (Placement::Stack, 6),
            (Placement::Interleave, 6),
            (Placement::Interleave, 8),
            (Placement::Middle, 8),
            (Placement::Bottom, 8),
        ] {
            for init in [
                "interpolate",
                "interpolate:coefficient=0",
                "scaled:of=interpolate",
            ] {
                let error = interpolated(4, &placement.layer_map(4, to), init).unwrap_err();
                let hint = error.hint().unwrap();
                assert!(error.to_string().contains("two kept blocks"), "{error}");
                let ways = [
                    "copy",
                    "zero-residual",
                    "interleave below 6",
                    "middle below 8",
                ];
                assert!(ways.iter().all(|way| hint.contains(way)), "{hint}");
            }
        }
        // And the hint holds, for every depth.
        for n in 2_usize..14 {
            for (placement, most) in [
                (Placement::Interleave, n + n.div_ceil(2)),
                (Placement::Middle, 2 * n),
            ] {
                for to in n + 1..2 * n + 4 {
                    let plan = interpolated(n, &placement.layer_map(n, to), "interpolate");
                    assert_eq!(plan.is_ok(), to < most, "{placement:?} {n} -> {to}");
                }
            }
        }
    }

    #[test]
    fn a_coefficient_is_from_0_to_1() {
        for bad in ["-0.1", "1.1", "nan", "inf", "-inf"] {
            let init = format!("interpolate:coefficient={bad}");
            let error = interpolated(2, &[0, 0, 1], &init).unwrap_err();
            assert!(error.to_string().contains("coefficient = "), "{error}");
            assert!(error.hint().unwrap().contains("blend"), "{error}");
        }
    }

    #[test]
    fn what_a_block_is_made_of_is_shown() {
        let shown = |init: &str| interpolated(3, &[0, 0, 1, 2, 2], init).unwrap().to_string();
        assert_eq!(shown("copy"), "0 0* 1 2 2*");
        assert_eq!(shown("random"), "0 * 1 2 *");
        assert_eq!(shown("identity"), "0 * 1 2 *");
        assert_eq!(
            shown("blend:weights={\"0\"=0.5,\"1\"=0.0,\"2\"=0.5}"),
            "0 0+2* 1 2 0+2*"
        );
        assert_eq!(shown("scaled:of=random"), "0 * 1 2 *");
        assert_eq!(
            shown("scaled:scale=0,only=[\"ln\",\"attn\",\"mlp\"]"),
            "0 * 1 2 *"
        );
        for twice in [
            "{\"0\"=1.0,\"00\"=1.0}",
            "{\"+1\"=1.0}",
            "{\"3\"=1.0}",
            "{}",
        ] {
            let init = format!("blend:weights={twice}");
            assert!(interpolated(3, &[0, 0, 1, 2], &init).is_err(), "{twice}");
        }
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
