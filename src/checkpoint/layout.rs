//! Names and shapes of a GPT-2 checkpoint, in one table.
//!
//! Names are those of `transformers` without the `transformer.` prefix, which a file may or
//! may not carry. `Conv1D` weights are `[in, out]`. Load, save, growth and the model all
//! iterate this table; none spells a name by itself.

use super::config::Gpt2Config;

/// Prefix that `GPT2LMHeadModel` puts before the trunk's names.
pub const PREFIX: &str = "transformer.";

/// Token embedding `[V, D]`, also the head where tied.
pub const WTE: &str = "wte.weight";
/// Position embedding `[n_positions, D]`.
pub const WPE: &str = "wpe.weight";
/// Gain of the last LayerNorm `[D]`.
pub const LN_F_WEIGHT: &str = "ln_f.weight";
/// Offset of the last LayerNorm `[D]`.
pub const LN_F_BIAS: &str = "ln_f.bias";
/// Separate head `[V, D]`; never carries [`PREFIX`].
pub const LM_HEAD: &str = "lm_head.weight";

/// Classes of `transformers` with the same trunk and another head, besides or instead of the
/// language model's.
pub const OTHER_HEADS: [&str; 4] = [
    "GPT2DoubleHeadsModel",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
];

/// How a fresh parameter is drawn in `GPT2PreTrainedModel._init_weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// N(0, σ) with σ = `initializer_range`.
    Normal,
    /// N(0, σ / √(2 · n_layer)): the projections that write to the residual stream.
    ResidualNormal,
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

/// One extent of a parameter, as a function of the config.
#[derive(Clone, Copy, Debug)]
enum Dim {
    D,
    D3,
    F,
}

/// One parameter of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockParam {
    /// Name inside the block, for example `attn.c_proj.weight`.
    pub name: &'static str,
    dims: &'static [Dim],
    /// How it is drawn from scratch.
    pub fresh: Fresh,
}

impl BlockParam {
    /// Shape under `config`.
    pub fn shape(&self, config: &Gpt2Config) -> Vec<usize> {
        let extent = |dim: &Dim| match dim {
            Dim::D => config.n_embd,
            Dim::D3 => 3 * config.n_embd,
            Dim::F => config.n_inner,
        };
        self.dims.iter().map(extent).collect()
    }

    /// Whether it belongs to a projection that writes to the residual stream: with weight and
    /// bias of both zero, a block is the identity.
    pub fn is_residual_out(&self) -> bool {
        is_residual_out(self.name)
    }

    /// Name in the checkpoint, for block `layer`.
    pub fn full_name(&self, layer: usize) -> String {
        format!("h.{layer}.{}", self.name)
    }
}

const fn param(name: &'static str, dims: &'static [Dim], fresh: Fresh) -> BlockParam {
    BlockParam { name, dims, fresh }
}

/// The twelve parameters of a block, in the order of `transformers`.
pub const BLOCK: [BlockParam; 12] = [
    param("ln_1.weight", &[Dim::D], Fresh::Ones),
    param("ln_1.bias", &[Dim::D], Fresh::Zeros),
    param("attn.c_attn.weight", &[Dim::D, Dim::D3], Fresh::Normal),
    param("attn.c_attn.bias", &[Dim::D3], Fresh::Zeros),
    param(
        "attn.c_proj.weight",
        &[Dim::D, Dim::D],
        Fresh::ResidualNormal,
    ),
    param("attn.c_proj.bias", &[Dim::D], Fresh::Zeros),
    param("ln_2.weight", &[Dim::D], Fresh::Ones),
    param("ln_2.bias", &[Dim::D], Fresh::Zeros),
    param("mlp.c_fc.weight", &[Dim::D, Dim::F], Fresh::Normal),
    param("mlp.c_fc.bias", &[Dim::F], Fresh::Zeros),
    param(
        "mlp.c_proj.weight",
        &[Dim::F, Dim::D],
        Fresh::ResidualNormal,
    ),
    param("mlp.c_proj.bias", &[Dim::D], Fresh::Zeros),
];

/// [`BlockParam::is_residual_out`] of the parameter of that name.
pub fn is_residual_out(name: &str) -> bool {
    name.contains("c_proj")
}

/// A parameter's name, shape and initialization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name without prefix.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// How it is drawn from scratch.
    pub fresh: Fresh,
}

impl Param {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every parameter of a model, in file order. A tied head is not a parameter.
pub fn params(config: &Gpt2Config) -> Vec<Param> {
    let d = config.n_embd;
    let plain = |name: &str, shape: Vec<usize>, fresh| Param {
        name: name.to_owned(),
        shape,
        fresh,
    };
    let mut all = vec![
        plain(WTE, vec![config.vocab_size, d], Fresh::Normal),
        plain(WPE, vec![config.n_positions, d], Fresh::Normal),
    ];
    for layer in 0..config.n_layer {
        all.extend(BLOCK.iter().map(|p| Param {
            name: p.full_name(layer),
            shape: p.shape(config),
            fresh: p.fresh,
        }));
    }
    all.push(plain(LN_F_WEIGHT, vec![d], Fresh::Ones));
    all.push(plain(LN_F_BIAS, vec![d], Fresh::Zeros));
    if !config.tie_word_embeddings {
        all.push(head(config));
    }
    all
}

/// A head of its own.
pub fn head(config: &Gpt2Config) -> Param {
    Param {
        name: LM_HEAD.to_owned(),
        shape: vec![config.vocab_size, config.n_embd],
        fresh: Fresh::Normal,
    }
}

/// Whether some GPT-2 has a tensor of that name, buffers of old ones included.
pub fn is_known(name: &str) -> bool {
    let outside = [WTE, WPE, LN_F_WEIGHT, LN_F_BIAS, LM_HEAD].contains(&name);
    let in_block =
        split_block_name(name).is_some_and(|(_, rest)| BLOCK.iter().any(|p| p.name == rest));
    outside || in_block || is_buffer(name)
}

/// Number of parameters of a model.
pub fn parameter_count(config: &Gpt2Config) -> u64 {
    params(config).iter().map(|p| p.numel() as u64).sum()
}

/// Number of parameters of one block.
pub fn block_parameter_count(config: &Gpt2Config) -> u64 {
    BLOCK
        .iter()
        .map(|p| p.shape(config).iter().product::<usize>() as u64)
        .sum()
}

/// The causal-mask buffers that old checkpoints carry; they hold nothing learned.
pub fn is_buffer(name: &str) -> bool {
    name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))
}

/// `name` without the trunk's prefix, and whether it had it.
pub fn strip_prefix(name: &str) -> (&str, bool) {
    match name.strip_prefix(PREFIX) {
        Some(bare) => (bare, true),
        None => (name, false),
    }
}

/// Splits `h.7.attn.c_proj.weight` into 7 and `attn.c_proj.weight`.
pub fn split_block_name(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("h.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_parameter_counts_come_out() {
        // openai-community/gpt2 124,439,808 and gpt2-xl 1,557,611,200 parameters.
        let small = Gpt2Config::new(50257, 1024, 768, 12, 12).unwrap();
        assert_eq!(parameter_count(&small), 124_439_808);
        assert_eq!(parameter_count(&small.with_n_layer(24)), 209_494_272);
        let xl = Gpt2Config::new(50257, 1024, 1600, 48, 25).unwrap();
        assert_eq!(parameter_count(&xl), 1_557_611_200);
    }

    #[test]
    fn mask_buffers_are_told_from_biases() {
        assert!(is_buffer("h.0.attn.bias") && is_buffer("h.11.attn.masked_bias"));
        assert!(!is_buffer("h.0.attn.c_attn.bias"));
    }
}
