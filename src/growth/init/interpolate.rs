//! Averaging neighbours: ½(fᵢ + fᵢ₊₁) at the default coefficient, the "average" arm of
//! OpT-DeUS (voalmciaf/OpT-DeUS, `Model/`). Not to be confused with interleaved copying.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// (1 − `coefficient`) · parent + `coefficient` · next block. At the top there is no next
/// block, and the parent is copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interpolate {
    /// 0 is the parent, 1 the next block.
    pub coefficient: f32,
}

impl Default for Interpolate {
    fn default() -> Self {
        Self { coefficient: 0.5 }
    }
}

impl LayerInit for Interpolate {
    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let parent = site.values(site.parent, param)?.values;
        let next = site.values(site.next, param)?.values;
        let t = self.coefficient;
        // In this form equal neighbours and t = 0 give the parent exactly.
        let values = &parent + &((next - &parent) * t);
        Ok(Values::Computed(HostTensor { values }))
    }
}
