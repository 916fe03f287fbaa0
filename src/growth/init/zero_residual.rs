//! Zero-residual copying: the block expansion of LLaMA-Pro (TencentARC/LLaMA-Pro,
//! `scripts/block_expansion.py`), carried over to GPT-2, whose output projections are both
//! called `c_proj` and have biases that must be zero as well.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Claim, Copy, LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// The parent's values, with weight and bias of `attn.c_proj` and `mlp.c_proj` zero: both
/// branches add exactly 0 to the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroResidual {}

impl LayerInit for ZeroResidual {
    fn claim(&self) -> Claim {
        Claim::Exact
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values> {
        if param.is_residual_out() {
            return Ok(Values::Computed(HostTensor::full(
                &param.shape(site.target),
                0.0,
            )));
        }
        Copy {}.init(site, param, rng)
    }
}
