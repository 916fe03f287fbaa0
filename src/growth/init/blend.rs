//! Linear combinations of source blocks: the depth operator of LiGO (VITA-Group/LiGO,
//! `ligo.py`), Wⱼ = Σᵢ wⱼᵢ Wᵢ, with coefficients given rather than learned.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::{Error, Result};

/// Σ weight · block over the given source blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blend {
    /// Source block (as a string key) to weight.
    pub weights: BTreeMap<String, f32>,
}

impl LayerInit for Blend {
    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let mut sum = HostTensor::full(&param.shape(site.target), 0.0);
        for (layer, weight) in self.layers(site.source.config.n_layer)? {
            sum.values
                .scaled_add(weight, &site.values(layer, param)?.values);
        }
        Ok(Values::Computed(sum))
    }
}

impl Blend {
    /// The terms, checked against the number of source blocks.
    pub fn layers(&self, n_layer: usize) -> Result<Vec<(usize, f32)>> {
        if self.weights.is_empty() {
            return Err(Error::usage("blend needs weights")
                .with_hint("for example --init 'blend:weights={\"0\"=0.5, \"3\"=0.5}'"));
        }
        let term = |(key, &weight): (&String, &f32)| match key.parse::<usize>() {
            Ok(layer) if layer < n_layer => Ok((layer, weight)),
            _ => Err(Error::usage(format!(
                "blend: `{}` is not a source block from 0 to {}",
                crate::error::printable(key),
                n_layer - 1
            ))),
        };
        self.weights.iter().map(term).collect()
    }
}
