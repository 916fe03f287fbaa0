//! Averaging neighbours: ½(fᵢ + fᵢ₊₁) for one block between two, the "average" arm of
//! OpT-DeUS (voalmciaf/OpT-DeUS, `Model/`). Not to be confused with interleaved copying.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// (1 − `coefficient`) · below + `coefficient` · above, the kept blocks around the new one. At
/// the top and at the bottom there is only one of them, which is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interpolate {
    /// 0 is the block below, 1 that above; new blocks of one gap are spread evenly unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<f32>,
}

impl LayerInit for Interpolate {
    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let below = site.values(site.gap.below, param)?.values;
        let above = site.values(site.gap.above, param)?.values;
        let t = self.coefficient.unwrap_or(site.gap.fraction);
        // In this form equal neighbours and t = 0 give the block below exactly.
        let values = &below + &((above - &below) * t);
        Ok(Values::Computed(HostTensor { values }))
    }
}
