//! Plain copying, as in G_stack (arXiv 2405.15319), StackBERT and mergekit's passthrough.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{LayerInit, Site, Values};
use crate::checkpoint::layout::BlockParam;
use crate::error::Result;

/// The parent's values, bit for bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {}

impl LayerInit for Copy {
    fn init(&self, site: &Site<'_>, param: &BlockParam, _rng: &mut ChaCha8Rng) -> Result<Values> {
        Ok(Values::Stored(site.parent(param)?.clone()))
    }
}
