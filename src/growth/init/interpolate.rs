//! Averaging neighbours: ½(fᵢ + fᵢ₊₁) for one block between two, the "average" arm of
//! OpT-DeUS (voalmciaf/OpT-DeUS, `Model/`). Not to be confused with interleaved copying.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Term, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::{Error, Result};
use crate::growth::plan::Place;

/// (1 − `coefficient`) · below + `coefficient` · above.
///
/// Below and above are the nearest kept blocks in the grown model, so that all new blocks of a
/// run are between the same two: of 0 1 1* 2* 2, both new ones are between 1 and 2. A run at the
/// bottom or the top has but one of them, and there is nothing to interpolate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interpolate {
    /// From 0, the block below, to 1, that above, the same for all blocks of a run. Unless
    /// given, they are spread evenly: one is at ½, two are at ⅓ and ⅔.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<f32>,
}

impl LayerInit for Interpolate {
    fn sources(&self, place: &Place) -> Result<Vec<Term>> {
        let (Some(below), Some(above)) = (place.below, place.above) else {
            return Err(place.has_one_neighbour("interpolate"));
        };
        let t = self.coefficient.unwrap_or(place.fraction);
        let terms = [(below, 1.0 - t), (above, t)].map(|(layer, weight)| Term { layer, weight });
        Ok(terms
            .into_iter()
            .filter(|term| term.weight != 0.0)
            .collect())
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let mut read = site.values(param)?.into_iter();
        let (Some((_, below)), above) = (read.next(), read.next()) else {
            unreachable!("weights of 1 - t and t are not both 0");
        };
        let values = match above {
            None => below.values,
            Some((t, above)) => &below.values + &((above.values - &below.values) * t),
        };
        Ok(Values::Computed(HostTensor { values }))
    }
}

impl Interpolate {
    /// Refuses a coefficient that leads out of what is between two blocks.
    ///
    /// # Errors
    /// It is not from 0 to 1.
    pub fn check(&self) -> Result<()> {
        match self.coefficient {
            Some(t) if !(0.0..=1.0).contains(&t) => Err(Error::usage(format!(
                "interpolate: coefficient = {t} is not from 0 to 1"
            ))
            .with_hint(
                "blend takes weights of any sign, as in weights = {\"0\" = 1.5, \"1\" = -0.5}",
            )),
            _ => Ok(()),
        }
    }
}
