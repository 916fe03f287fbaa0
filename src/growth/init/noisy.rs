//! Copying with noise, which breaks the symmetry between a block and its copy (Net2Net,
//! arXiv 1511.05641, section 2.3).

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::draw::normal;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// The parent's values plus N(0, `noise` · s), s being the tensor's own standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noisy {
    /// Noise relative to the tensor's standard deviation.
    pub noise: f64,
}

impl Default for Noisy {
    fn default() -> Self {
        Self { noise: 0.01 }
    }
}

impl LayerInit for Noisy {
    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values> {
        let parent = site.parent(param)?.read()?.values;
        let std = f64::from(parent.std(0.0));
        let noise = normal(parent.shape(), std * self.noise, rng);
        Ok(Values::Computed(HostTensor {
            values: parent + noise.values,
        }))
    }
}
