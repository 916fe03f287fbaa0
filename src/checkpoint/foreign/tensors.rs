//! What the tensors of a file are, by their names and shapes.

use std::collections::HashMap;
use std::path::PathBuf;

use super::{DEQUANTIZE, MERGE};
use crate::checkpoint::layout;
use crate::checkpoint::safetensors::Entry;
use crate::error::{Error, Result, printable};

/// Words in the names of an adapter's tensors, or of a model that wears one.
const ADAPTER_WORDS: [&str; 9] = [
    "base_layer",
    "lora_",
    "ia3_l",
    "hada_w",
    "lokr_w",
    "oft_r",
    "oft_R",
    "vera_lambda",
    "prompt_embeddings",
];

/// Refuses the tensors of an adapter: without them, the model would be another one.
///
/// # Errors
/// A name is that of an adapter's tensor.
pub(in crate::checkpoint) fn refuse_adapter(at: &str, names: &[String]) -> Result<()> {
    let of_adapter = |word: &str| ADAPTER_WORDS.iter().any(|start| word.starts_with(start));
    match names.iter().find(|name| name.split('.').any(of_adapter)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(
            at,
            format!(
                "tensor `{}` belongs to a PEFT adapter, which is not a whole model",
                printable(name)
            ),
        )
        .with_hint(MERGE)),
    }
}

/// The error for a file with more than one model in it.
pub(in crate::checkpoint) fn several_models(at: &str, outers: &[String]) -> Error {
    let names: Vec<String> = outers
        .iter()
        .map(|outer| format!("`{}`", printable(outer)))
        .collect();
    let message = format!(
        "the file holds several models, whose names begin with {}",
        names.join(" and ")
    );
    Error::invalid(at, message).with_hint("save the one that is meant by itself")
}

/// What a tensor shows its file to be, and the step that helps.
type Kind = fn(&str, &Entry) -> Option<(String, &'static str)>;

/// Why these are not the weights of a GPT-2 of `transformers`, where it is not a matter of sizes.
pub(in crate::checkpoint) fn explain(tensors: &HashMap<String, (Entry, PathBuf)>) -> Option<Error> {
    const KINDS: [Kind; 3] = [quantized, placeholder, transposed];
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let shown = KINDS.iter().find_map(|kind| {
        names.iter().find_map(|name| {
            let (entry, path) = &tensors[*name];
            let (message, hint) = kind(name, entry)?;
            Some(Error::invalid(path.display(), message).with_hint(hint))
        })
    });
    if shown.is_some() || names.iter().any(|name| layout::is_known(name)) {
        return shown;
    }
    let first = names.first()?;
    let message = format!(
        "none of its {} tensors has a name of a GPT-2 of transformers; the first is `{}`",
        names.len(),
        printable(first)
    );
    let hint = "these are weights of another architecture, or saved by other software: convert them to a GPT2LMHeadModel";
    Some(Error::invalid(tensors[*first].1.display(), message).with_hint(hint))
}

/// One of quantized weights, or of what is stored beside them.
fn quantized(name: &str, entry: &Entry) -> Option<(String, &'static str)> {
    const SMALL: [&str; 5] = ["I8", "U8", "F8_", "F4_", "F6_"];
    const BESIDE: [&str; 8] = [
        "SCB",
        "absmax",
        "quant_map",
        "qweight",
        "qzeros",
        "g_idx",
        "weight_scale",
        "weight_scale_inv",
    ];
    let is_small = match entry {
        Entry::Other(dtype) => SMALL.iter().any(|start| dtype.starts_with(start)),
        Entry::Float(_) => false,
    };
    let is_weight = layout::is_known(name) && !layout::is_buffer(name);
    let is_beside = name.split('.').any(|word| BESIDE.contains(&word));
    let message = format!(
        "tensor `{}` belongs to quantized weights; F32, F16 and BF16 are supported",
        printable(name)
    );
    (is_small && is_weight || is_beside).then_some((message, DEQUANTIZE))
}

/// One without values.
fn placeholder(name: &str, entry: &Entry) -> Option<(String, &'static str)> {
    let message = format!(
        "tensor `{}` has no values: a placeholder of DeepSpeed's ZeRO-3, which keeps the weights elsewhere",
        printable(name)
    );
    let hint = "put the weights together with zero_to_fp32.py from the folder of the checkpoint, or save again with stage3_gather_16bit_weights_on_model_save";
    let is_empty = layout::is_known(name) && shape(entry)?.contains(&0);
    is_empty.then_some((message, hint))
}

/// A projection to queries, keys and values that is `[3 * n_embd, n_embd]`, as in
/// `torch.nn.Linear`.
fn transposed(name: &str, entry: &Entry) -> Option<(String, &'static str)> {
    let &[rows, columns] = shape(entry)? else {
        return None;
    };
    let message = format!(
        "weights in the layout of nanoGPT: tensor `{}` is [{rows}, {columns}], in transformers it is [{columns}, {rows}]",
        printable(name)
    );
    let hint = "convert it in Python: make a GPT2LMHeadModel with the sizes in model_args and activation_function=\"gelu\", load the weights into it with those of attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj transposed and zeros for missing biases, and call save_pretrained(DIR)";
    let is_transposed = name.ends_with("attn.c_attn.weight") && columns > 0 && rows == 3 * columns;
    is_transposed.then_some((message, hint))
}

/// The shape; of what cannot be used, it is not kept.
fn shape(entry: &Entry) -> Option<&[usize]> {
    match entry {
        Entry::Float(tensor) => Some(&tensor.shape),
        Entry::Other(_) => None,
    }
}
