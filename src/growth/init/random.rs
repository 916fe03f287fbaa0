//! GPT-2's own initialization (`GPT2PreTrainedModel._init_weights` of `transformers`): weights
//! N(0, σ), output projections N(0, σ / √(2 · n_layer)), biases 0, LayerNorm 1 and 0.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Term, Values};
use crate::checkpoint::draw;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;
use crate::growth::plan::Place;

/// Fresh values at the depth of the grown model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// σ; `initializer_range` of the config unless given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub std: Option<f64>,
    /// Depth that the spread of output projections is made for; that of the grown model unless
    /// given. The code of arXiv 2411.18700 draws for the final depth at every stage.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub residual_depth: Option<usize>,
}

impl LayerInit for Random {
    fn sources(&self, _place: &Place) -> Result<Vec<Term>> {
        Ok(Vec::new())
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values> {
        let std = self.std.unwrap_or(site.target.initializer_range);
        Ok(Values::Computed(draw::fresh(
            param.fresh,
            &param.shape(site.target),
            std,
            self.residual_depth.unwrap_or(site.target.n_layer),
            rng,
        )))
    }
}
