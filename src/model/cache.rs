//! Keys and values of tokens already seen, for generation and shared contexts.

use burn::tensor::Tensor;

/// The cache of one block.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    /// Keys and values, each `[B, H, past, S]`.
    past: Option<(Tensor<4>, Tensor<4>)>,
}

impl LayerCache {
    /// Adds keys and values `[B, H, T, S]`; returns all of them, `[B, H, past + T, S]`.
    pub(super) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let joined = match self.past.take() {
            None => (k, v),
            Some((past_k, past_v)) => (
                Tensor::cat(vec![past_k, k], 2),
                Tensor::cat(vec![past_v, v], 2),
            ),
        };
        self.past = Some(joined.clone());
        joined
    }

    fn len(&self) -> usize {
        self.past.as_ref().map_or(0, |(k, _)| k.dims()[2])
    }
}

/// The cache of a model.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache for `n_layer` blocks.
    pub fn new(n_layer: usize) -> Self {
        Self {
            layers: vec![LayerCache::default(); n_layer],
        }
    }

    /// Number of tokens seen.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::len)
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }
}
