//! Scaled copying: the attenuated duplicates that mergekit's users write with `scale`
//! (arcee-ai/mergekit#198), and the gate μ of MSG (cofe-ai/MSG) folded into plain weights.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Claim, Initializer, LayerInit, Site, Term, Values};
use crate::checkpoint::HostTensor;
use crate::checkpoint::layout::{BLOCK, BlockParam};
use crate::error::{Error, Result, printable};
use crate::growth::plan::Place;

/// The values of another initializer, those of matching tensors multiplied by `scale`.
///
/// OpT-DeUS without its alignment is `{ scale = 0, of = "interpolate" }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaled {
    /// The factor. On both `c_proj`, 0 is the identity and 1 changes nothing.
    pub scale: f32,
    /// Parts of tensor names, as in `c_proj` or `mlp.c_fc.weight`.
    pub only: Vec<String>,
    /// What is scaled; copy unless given.
    pub of: Box<Initializer>,
}

impl Default for Scaled {
    fn default() -> Self {
        Self {
            scale: 0.5,
            only: vec!["c_proj".into()],
            of: Box::new(Initializer::COPY),
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

    fn sources(&self, place: &Place) -> Result<Vec<Term>> {
        if BLOCK.iter().all(|param| self.zeroes(param)) {
            return Ok(Vec::new());
        }
        self.of.as_init().sources(place)
    }

    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values> {
        if self.zeroes(param) {
            let zeros = HostTensor::full(&param.shape(site.target), 0.0);
            return Ok(Values::Computed(zeros));
        }
        let values = self.of.as_init().init(site, param, rng)?;
        if !self.scales(param) {
            return Ok(values);
        }
        let values = values.into_host()?.values * self.scale;
        Ok(Values::Computed(HostTensor { values }))
    }
}

impl Scaled {
    fn scales(&self, param: &BlockParam) -> bool {
        let mut parts = self.only.iter();
        parts.any(|part| param.name.contains(part.as_str()))
    }

    /// Whether nothing is left of what it scales.
    fn zeroes(&self, param: &BlockParam) -> bool {
        self.scale == 0.0 && self.scales(param)
    }

    /// Itself, if every part of `only` names a parameter. A name of another architecture, such
    /// as `o_proj`, would scale nothing and leave a plain copy.
    pub fn names(&self) -> Result<&Self> {
        let known = |part: &str| BLOCK.iter().any(|param| param.name.contains(part));
        match self
            .only
            .iter()
            .find(|part| part.is_empty() || !known(part))
        {
            None => Ok(self),
            Some(part) => Err(Error::usage(format!(
                "scaled: no parameter of a block is called `{}`",
                printable(part)
            ))
            .with_hint("GPT-2's are ln_1, attn.c_attn, attn.c_proj, ln_2, mlp.c_fc, mlp.c_proj")),
        }
    }
}
