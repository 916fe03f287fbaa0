//! Linear combinations of source blocks: the depth operator of LiGO (VITA-Group/LiGO,
//! `ligo.py`), Wⱼ = Σᵢ wⱼᵢ Wᵢ, with coefficients given rather than learned.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Term, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::{Error, Result, printable};
use crate::growth::plan::Place;

/// Σ weight · block over the given source blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blend {
    /// Source block (as a string key) to weight.
    pub weights: BTreeMap<String, f32>,
}

impl LayerInit for Blend {
    fn sources(&self, place: &Place) -> Result<Vec<Term>> {
        let terms = self.terms(place.source_n_layer)?.into_iter();
        Ok(terms.filter(|term| term.weight != 0.0).collect())
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let mut sum = HostTensor::full(&param.shape(site.target), 0.0);
        for (weight, block) in site.values(param)? {
            sum.values.scaled_add(weight, &block.values);
        }
        Ok(Values::Computed(sum))
    }
}

impl Blend {
    /// The terms, those of weight 0 too, checked against the number of source blocks.
    ///
    /// # Errors
    /// There is none, or one names no source block or the same as another.
    pub fn terms(&self, n_layer: usize) -> Result<Vec<Term>> {
        if self.weights.is_empty() {
            return Err(Error::usage("blend: `weights` is missing").with_hint(
                "name source blocks and their shares, as in weights = {\"0\" = 0.5, \"3\" = 0.5}",
            ));
        }
        let term = |(key, &weight): (&String, &f32)| match key.parse::<usize>() {
            // Written in one way alone, or two keys could name the same block.
            Ok(layer) if layer < n_layer && layer.to_string() == *key => Ok(Term { layer, weight }),
            _ => Err(Error::usage(format!(
                "blend: `{}` is not a source block from 0 to {}",
                printable(key),
                n_layer - 1
            ))),
        };
        self.weights.iter().map(term).collect()
    }
}
