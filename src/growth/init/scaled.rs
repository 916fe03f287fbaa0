//! Scaled copying: the attenuated duplicates that mergekit's users write with `scale`
//! (arcee-ai/mergekit#198), and the gate μ of MSG (cofe-ai/MSG) folded into plain weights.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Claim, LayerInit, Site, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// The parent's values, those of matching tensors multiplied by `scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaled {
    /// The factor. On both `c_proj`, 0 is the identity and 1 a plain copy.
    pub scale: f32,
    /// Parts of tensor names, as in `c_proj` or `mlp.c_fc.weight`.
    pub only: Vec<String>,
}

impl Default for Scaled {
    fn default() -> Self {
        Self {
            scale: 0.5,
            only: vec!["c_proj".into()],
        }
    }
}

impl LayerInit for Scaled {
    fn claim(&self) -> Claim {
        let on_outputs = self.only.iter().any(|part| part == "c_proj");
        match self.scale {
            0.0 if on_outputs => Claim::Exact,
            s if on_outputs && s.abs() <= 0.1 => Claim::Approximate,
            _ => Claim::None,
        }
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        let parent = site.source.block(site.parent, param)?;
        if !self
            .only
            .iter()
            .any(|part| param.name.contains(part.as_str()))
        {
            return Ok(Values::Stored(parent.clone()));
        }
        Ok(Values::Computed(HostTensor {
            values: parent.read()?.values * self.scale,
        }))
    }
}
