//! `config.json` of a GPT-2 checkpoint.
//!
//! Field names and defaults are those of `transformers`' `GPT2Config`. Keys this crate does
//! not use travel along unchanged; keys that would change the arithmetic in a way this crate
//! does not implement are refused by name, so that no number is silently wrong.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::json;
use super::tensor::Dtype;
use crate::error::{Error, Result};

/// Upper bounds on sizes read from outside, so that no allocation follows a hostile number.
pub const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 17;
const MAX_ROWS: usize = 1 << 24;

/// The class of `transformers` that this crate computes.
const LANGUAGE_MODEL: &str = "GPT2LMHeadModel";

/// The feed-forward nonlinearity, by its name in `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// tanh approximation of GELU; also `gelu_pytorch_tanh` and `gelu_fast`, the same formula.
    GeluNew,
    /// GELU by the error function.
    Gelu,
    /// max(x, 0).
    Relu,
    /// x · sigmoid(x); also `swish`.
    Silu,
}

impl Activation {
    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GeluNew => "gelu_new",
            Self::Gelu => "gelu",
            Self::Relu => "relu",
            Self::Silu => "silu",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::GeluNew),
            "gelu" => Some(Self::Gelu),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }
}

/// The architecture of a checkpoint: the numbers that fix every shape and the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Rows of `wte`.
    pub vocab_size: usize,
    /// Rows of `wpe`: the longest context.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads per block; divides `n_embd`.
    pub n_head: usize,
    /// Width of the feed-forward layer; 4 · `n_embd` unless given.
    pub n_inner: usize,
    /// Feed-forward nonlinearity.
    pub activation: Activation,
    /// ε of every LayerNorm.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Whether the head shares `wte`.
    pub tie_word_embeddings: bool,
    /// Every key of the file, in its order.
    raw: Map<String, Value>,
}

impl Gpt2Config {
    /// A GPT-2 of the given shape with `transformers`' defaults for everything else.
    pub fn new(
        vocab_size: usize,
        n_positions: usize,
        n_embd: usize,
        n_layer: usize,
        n_head: usize,
    ) -> Result<Self> {
        let raw = json!({
            "architectures": [LANGUAGE_MODEL],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-5,
            "n_embd": n_embd,
            "n_head": n_head,
            "n_inner": null,
            "n_layer": n_layer,
            "n_positions": n_positions,
            "vocab_size": vocab_size,
            "tie_word_embeddings": true,
        });
        let Value::Object(raw) = raw else {
            unreachable!("json! of braces is an object")
        };
        Self::from_map(raw, Path::new("config"))
    }

    /// Reads `config.json`.
    pub fn load(path: &Path) -> Result<Self> {
        match json::load(path)? {
            Value::Object(raw) => Self::from_map(raw, path),
            _ => Err(Error::invalid(path.display(), "expected a JSON object")),
        }
    }

    /// Checks and reads the keys of a config.
    ///
    /// # Errors
    /// Names the key that is missing, of a wrong type, out of range, or not supported.
    pub fn from_map(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let keys = Keys { raw: &raw, path };
        keys.refuse_other_arithmetic()?;
        let n_embd = keys.size(&["n_embd", "hidden_size"], 768, MAX_WIDTH)?;
        let n_head = keys.size(&["n_head", "num_attention_heads"], 12, MAX_WIDTH)?;
        if n_embd % n_head != 0 {
            return Err(keys.error(
                "n_head",
                format!("{n_head} heads do not divide n_embd = {n_embd}"),
            ));
        }
        let name = keys.text("activation_function", "gelu_new")?;
        let activation = Activation::from_name(name).ok_or_else(|| {
            keys.error("activation_function", format!("`{}` is not supported; known are gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, relu, silu, swish", json::shown_text(name)))
        })?;
        Ok(Self {
            vocab_size: keys.size(&["vocab_size"], 50257, MAX_ROWS)?,
            // `n_ctx`, which old files have beside it, means nothing to `transformers`.
            n_positions: keys.size(&["n_positions", "max_position_embeddings"], 1024, MAX_ROWS)?,
            n_layer: keys.size(&["n_layer", "num_hidden_layers"], 12, MAX_LAYERS)?,
            n_inner: keys
                .optional_size("n_inner", MAX_WIDTH * 8)?
                .unwrap_or(4 * n_embd),
            layer_norm_epsilon: keys.positive("layer_norm_epsilon", 1e-5)?,
            initializer_range: keys.initializer_range()?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
            n_embd,
            n_head,
            activation,
            raw,
        })
    }

    /// The same architecture with another depth.
    #[must_use]
    pub fn with_n_layer(&self, n_layer: usize) -> Self {
        let mut config = self.clone();
        config.n_layer = n_layer;
        // Of an alias and the name, `transformers` lets the last one win: one is enough.
        config.raw.remove("num_hidden_layers");
        config.raw.insert("n_layer".into(), n_layer.into());
        config
    }

    /// The same architecture, saying that weights are of `dtype`. `transformers` loads them in
    /// the type that the config names.
    #[must_use]
    pub fn with_dtype(&self, dtype: Dtype) -> Self {
        let mut config = self.clone();
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = config.raw.get_mut(key) {
                *value = dtype.torch_name().into();
            }
        }
        config
    }

    /// The same architecture with a head of its own.
    #[must_use]
    pub fn untied(mut self) -> Self {
        self.tie_word_embeddings = false;
        self.raw.insert("tie_word_embeddings".into(), false.into());
        self
    }

    /// The classes of `transformers` that the config names.
    pub fn architectures(&self) -> Vec<&str> {
        let named = self.raw.get("architectures").and_then(Value::as_array);
        named
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// The same architecture, saying that it is a language model and nothing else.
    #[must_use]
    pub fn as_language_model(mut self) -> Self {
        self.raw
            .insert("architectures".into(), json!([LANGUAGE_MODEL]));
        self
    }

    /// The same architecture, naming the token that ends a text.
    #[must_use]
    pub fn with_end_of_text(mut self, id: u32) -> Self {
        for key in ["bos_token_id", "eos_token_id"] {
            self.raw.insert(key.into(), id.into());
        }
        self
    }

    /// The bytes of `config.json`: what was read, with the current depth.
    pub fn to_json(&self) -> String {
        json::write(&self.whole()) + "\n"
    }

    /// What [`Self::to_json`] writes, as strict JSON.
    pub fn to_value(&self) -> Value {
        json::strict(self.whole())
    }

    /// What was read, with what no config should lack.
    fn whole(&self) -> Value {
        let mut raw = self.raw.clone();
        if !raw.contains_key("architectures") {
            raw.insert("architectures".into(), json!([LANGUAGE_MODEL]));
        }
        raw.entry("model_type").or_insert_with(|| "gpt2".into());
        Value::Object(raw)
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }
}

/// Typed access to the keys of a config, with errors that name file and key.
struct Keys<'a> {
    raw: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::invalid(self.path.display(), format!("`{key}`: {message}"))
    }

    /// The key's value, with an explicit null read as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    /// The value under whichever of `names` is there; two that disagree are an error.
    fn size(&self, names: &[&str], default: usize, max: usize) -> Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for name in names {
            let Some(size) = self.optional_size(name, max)? else {
                continue;
            };
            match found {
                Some((first, other)) if other != size => {
                    return Err(self.error(name, format!("{size}, but `{first}` is {other}")));
                }
                _ => found = found.or(Some((name, size))),
            }
        }
        Ok(found.map_or(default, |(_, size)| size))
    }

    fn optional_size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.error(
                key,
                format!(
                    "expected an integer from 1 to {max}, found {}",
                    json::shown(value)
                ),
            )),
        }
    }

    fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        match value.as_f64().or_else(|| json::beyond(value)) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(self.error(
                key,
                format!("expected a positive number, found {}", json::shown(value)),
            )),
        }
    }

    /// What is not finite is kept in the file and is no hindrance: `transformers` opens such a
    /// model, too, and only weights drawn from scratch ask for it. For those it is the default.
    fn initializer_range(&self) -> Result<f64> {
        let (key, default) = ("initializer_range", 0.02);
        match self.get(key).and_then(json::not_finite) {
            Some(_) => Ok(default),
            None => self.positive(key, default),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        value.as_bool().ok_or_else(|| {
            self.error(
                key,
                format!("expected true or false, found {}", json::shown(value)),
            )
        })
    }

    fn text(&self, key: &str, default: &'static str) -> Result<&str> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        let is_number = json::not_finite(value).is_some() || json::beyond(value).is_some();
        let text = value.as_str().filter(|_| !is_number);
        text.ok_or_else(|| {
            self.error(
                key,
                format!("expected a string, found {}", json::shown(value)),
            )
        })
    }

    /// `reorder_and_upcast_attn` is not here: it only asks for the softmax in f32, as it is.
    fn refuse_other_arithmetic(&self) -> Result<()> {
        let model_type = self.text("model_type", "gpt2")?;
        if model_type != "gpt2" {
            return Err(self.error(
                "model_type",
                format!("expected `gpt2`, found `{}`", json::shown_text(model_type)),
            ));
        }
        for (key, expected) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if self.flag(key, expected)? != expected {
                return Err(self.error(
                    key,
                    format!("only {expected} is supported; it changes the arithmetic of the model"),
                ));
            }
        }
        if self.get("quantization_config").is_some() {
            let error = self.error(
                "quantization_config",
                "quantized checkpoints are not supported",
            );
            return Err(error.with_hint(super::foreign::DEQUANTIZE));
        }
        let pruned = self
            .get("pruned_heads")
            .and_then(Value::as_object)
            .is_some_and(|heads| !heads.is_empty());
        if pruned {
            return Err(self.error("pruned_heads", "pruned checkpoints are not supported"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Gpt2Config> {
        let Value::Object(raw) = value else {
            panic!("an object")
        };
        Gpt2Config::from_map(raw, Path::new("config.json"))
    }

    #[test]
    fn an_empty_config_is_gpt2_small() {
        let config = parse(json!({})).unwrap();
        assert_eq!(
            (
                config.n_layer,
                config.n_embd,
                config.n_inner,
                config.vocab_size
            ),
            (12, 768, 3072, 50257)
        );
    }

    #[test]
    fn other_arithmetic_is_refused_by_name() {
        for (key, value) in [
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("add_cross_attention", json!(true)),
            ("scale_attn_weights", json!(false)),
            ("activation_function", json!("mish")),
            ("model_type", json!("llama")),
            ("pruned_heads", json!({"0": [1]})),
            ("quantization_config", json!({"bits": 4})),
            ("n_layer", json!(-1)),
            ("n_layer", json!(1_000_000_000)),
            ("n_embd", json!("768")),
            ("n_head", json!(7)),
            ("layer_norm_epsilon", json!(0)),
        ] {
            let error = parse(json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn unknown_keys_survive_a_round_trip() {
        let config =
            parse(json!({"n_layer": 2, "summary_type": "cls_index", "task": {"a": 1}})).unwrap();
        let text = config.with_n_layer(4).to_json();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["summary_type"], "cls_index");
        assert_eq!(value["n_layer"], 4);
        assert_eq!(value["task"]["a"], 1);
    }

    #[test]
    fn the_aliases_of_transformers_are_read() {
        let config =
            parse(json!({"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 4}))
                .unwrap();
        assert_eq!((config.n_layer, config.n_embd, config.n_head), (3, 24, 4));
        let deeper = config.with_n_layer(5).to_json();
        assert!(deeper.contains("\"n_layer\": 5") && !deeper.contains("num_hidden_layers"));
        assert!(parse(json!({"num_hidden_layers": 3, "n_layer": 4})).is_err());
    }

    #[test]
    fn the_type_of_the_weights_is_kept_true() {
        let config = parse(json!({"dtype": "float16"})).unwrap();
        let json = config.with_dtype(Dtype::F32).to_json();
        assert!(json.contains("\"dtype\": \"float32\""));
    }
}
