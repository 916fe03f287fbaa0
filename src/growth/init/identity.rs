//! Identity from random: a fresh block whose output projections are zero, the start that
//! nanochat (`nanochat/gpt.py`) gives to every block. Nothing is inherited but the function.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Claim, LayerInit, Random, Site, Term, Values, ZeroResidual};
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;
use crate::growth::plan::Place;

/// Random values, with weight and bias of both `c_proj` zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// σ of the other weights; `initializer_range` of the config unless given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub std: Option<f64>,
}

impl LayerInit for Identity {
    fn claim(&self) -> Claim {
        Claim::Exact
    }

    fn sources(&self, _place: &Place) -> Result<Vec<Term>> {
        Ok(Vec::new())
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values> {
        if param.is_residual_out() {
            return ZeroResidual {}.init(site, param, rng);
        }
        Random {
            std: self.std,
            ..Random::default()
        }
        .init(site, param, rng)
    }
}
