//! The account of arXiv 2411.18700: passes through layers.
//!
//! Every layer costs c per token forward and c backward; embeddings, head, norms and optimizer
//! are free. The backward pass runs from the top down to the lowest block that trains, and
//! whether embeddings train does not matter. All figures here are in units of c, so a token
//! through L trained layers costs 2L.

use super::Trains;
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::layout::BLOCK;

/// Layers that one token passes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerPasses {
    /// Forward: all of them.
    pub forward: u64,
    /// Backward: those from the lowest trained block up.
    pub backward: u64,
}

impl LayerPasses {
    /// Of training what `trains` names.
    pub fn per_token(config: &Gpt2Config, trains: &Trains) -> Self {
        let layers = config.n_layer;
        let trained = |layer: &usize| BLOCK.iter().any(|p| trains(&p.full_name(*layer)));
        let lowest = (0..layers).find(trained).unwrap_or(layers);
        Self {
            forward: layers as u64,
            backward: (layers - lowest) as u64,
        }
    }

    /// Forward and backward.
    pub fn total(&self) -> u64 {
        self.forward + self.backward
    }

    /// Layer passes of `tokens` tokens, which may exceed 64 bits.
    pub fn over(&self, tokens: u64) -> f64 {
        self.total() as f64 * tokens as f64
    }
}

/// Layer passes of growing from nothing to `layers` in `stages` stages over `tokens` tokens.
///
/// T·L·(3S + 5) / (4S): in stage i of S, half of T/S tokens train the L/S new layers on top of
/// frozen ones, half train all iL/S. That is (T / 2S)·(L/S)·((i + 1) + 2i), summed over i.
pub fn incremental(tokens: f64, layers: usize, stages: usize) -> f64 {
    let s = stages as f64;
    tokens * layers as f64 * (3.0 * s + 5.0) / (4.0 * s)
}

/// Tokens of training everything that [`incremental`] leaves of the budget 2TL of training
/// everything for `tokens` tokens: 5/8 · (1 − 1/S) · T.
pub fn continual_tokens(tokens: f64, stages: usize) -> f64 {
    0.625 * (1.0 - 1.0 / stages as f64) * tokens
}
