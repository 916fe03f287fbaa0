//! What is there in place of a checkpoint: one look at names or first bytes tells most of it, and
//! each has a step that helps.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::layout;
use super::safetensors::Entry;
use super::weights::{self, Weights};
use crate::error::{Error, Result, printable};

/// The formats of weight files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    Torch,
}

/// What to do with quantized weights.
pub(super) const DEQUANTIZE: &str = "take the checkpoint that was quantized, or load this one in Python and save it again after model.dequantize()";

const MERGE: &str = "merge it into its model in Python: peft.AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(DIR), and open DIR";

/// Bytes that are looked at to tell what a file is.
const LOOK: u64 = 512;

/// What begins a file that is neither safetensors nor PyTorch's.
struct Start {
    is: fn(&[u8]) -> bool,
    what: &'static str,
    hint: &'static str,
}

/// What a download leaves in place of any file.
const PLACEHOLDERS: [Start; 2] = [
    Start {
        is: |bytes| bytes.starts_with(b"version https://git-lfs"),
        what: "a Git LFS pointer, not the file itself",
        hint: "run `git lfs pull` in the folder, or open the model by its hub id",
    },
    Start {
        is: |bytes| bytes.trim_ascii_start().starts_with(b"<"),
        what: "a web page, not the file itself",
        hint: "open the model by its hub id, or download the file from the address with /resolve/ in place of /blob/",
    },
];

/// Other files that are taken for weights.
const OTHERS: [Start; 4] = [
    Start {
        is: |bytes| bytes.starts_with(b"GGUF"),
        what: "a GGUF file",
        hint: GGUF,
    },
    Start {
        is: |bytes| bytes.starts_with(b"\x89HDF\r\n\x1a\n"),
        what: "an HDF5 file, as TensorFlow saves weights",
        hint: TENSORFLOW,
    },
    Start {
        // llm.c's magic number.
        is: |bytes| bytes.starts_with(&20_240_326_u32.to_le_bytes()),
        what: "a checkpoint of llm.c",
        hint: "convert it with llm.c: python dev/eval/export_hf.py --input FILE --output DIR",
    },
    Start {
        is: |bytes| bytes.trim_ascii_start().starts_with(b"{"),
        what: "JSON, not weights",
        hint: "name the folder of the model, or its weight file",
    },
];

const GGUF: &str = "take the checkpoint that it was made from, or convert it in Python: GPT2LMHeadModel.from_pretrained(DIR, gguf_file=FILE).save_pretrained(OUT)";
const TENSORFLOW: &str = "convert it in Python with transformers 4 and TensorFlow: GPT2LMHeadModel.from_pretrained(DIR, from_tf=True).save_pretrained(OUT)";
const FLAX: &str = "convert it in Python with transformers 4 and Flax: GPT2LMHeadModel.from_pretrained(DIR, from_flax=True).save_pretrained(OUT)";

fn start_of(path: &Path) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(LOOK)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    Ok(start)
}

/// The format of a weight file: by the ending of its name, or by its content where that says
/// nothing.
///
/// # Errors
/// The file cannot be read, or begins like something else.
pub(super) fn format_of(path: &Path) -> Result<Format> {
    let start = start_of(path)?;
    let refuse = |what: &str, hint: &str| {
        let message = format!("this is {what}");
        Err(Error::invalid(path.display(), message).with_hint(hint))
    };
    let is_torch = matches!(start[..], [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..]);
    // A header's length, then the header; the length may look like another format's first bytes.
    let is_safetensors = start.get(8) == Some(&b'{') && start.get(4..8) == Some(&[0; 4]);
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    match ending {
        _ if is_safetensors && matches!(ending, "bin" | "pt" | "pth") => refuse(
            "a safetensors file under a name of PyTorch's",
            "rename it to model.safetensors",
        ),
        _ if is_safetensors => Ok(Format::Safetensors),
        "safetensors" if is_torch => refuse(
            "a PyTorch file under a name of safetensors",
            "rename it to pytorch_model.bin",
        ),
        _ if is_torch => Ok(Format::Torch),
        _ => match PLACEHOLDERS
            .iter()
            .chain(&OTHERS)
            .find(|known| (known.is)(&start))
        {
            Some(known) => refuse(known.what, known.hint),
            None if matches!(ending, "bin" | "pt" | "pth" | "ckpt") => Ok(Format::Torch),
            None => Ok(Format::Safetensors),
        },
    }
}

/// What to do where a text file was expected and these bytes are.
pub(super) fn in_place_of_text(bytes: &[u8]) -> Option<String> {
    let known = PLACEHOLDERS.iter().find(|known| (known.is)(bytes))?;
    Some(format!("this is {}: {}", known.what, known.hint))
}

/// Files that are no weights of ours, and what they say of the folder they are in.
struct Sign {
    is: fn(&str) -> bool,
    what: &'static str,
    hint: &'static str,
}

const SIGNS: [Sign; 9] = [
    Sign {
        is: |name| name.starts_with("adapter_config.") || name.starts_with("adapter_model."),
        what: "a PEFT adapter, not a whole model",
        hint: MERGE,
    },
    Sign {
        is: |name| name == "zero_to_fp32.py" || name.ends_with("_model_states.pt"),
        what: "a checkpoint of DeepSpeed",
        hint: "put its weights together with DeepSpeed's script: python zero_to_fp32.py . DIR",
    },
    Sign {
        is: |name| name.ends_with(".distcp"),
        what: "a sharded checkpoint of torch.distributed",
        hint: "put it together: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
    },
    Sign {
        is: |name| {
            name.contains("-of-") && (name.ends_with(".safetensors") || name.ends_with(".bin"))
        },
        what: "a shard without the index",
        hint: "fetch or copy model.safetensors.index.json, or pytorch_model.bin.index.json, as well",
    },
    Sign {
        is: |name| name.ends_with(".h5"),
        what: "weights of TensorFlow",
        hint: TENSORFLOW,
    },
    Sign {
        is: |name| name.ends_with(".ckpt.index") || name.contains(".ckpt.data-"),
        what: "a checkpoint of TensorFlow",
        hint: "convert it with transformers 4 and TensorFlow: transformers-cli convert --model_type gpt2",
    },
    Sign {
        is: |name| name.ends_with(".msgpack"),
        what: "weights of Flax",
        hint: FLAX,
    },
    Sign {
        is: |name| name.ends_with(".gguf"),
        what: "a GGUF file",
        hint: GGUF,
    },
    Sign {
        is: |name| name.ends_with(".onnx"),
        what: "an ONNX export",
        hint: "take the checkpoint that it was exported from",
    },
];

/// What a folder or repository with these files is, in place of a checkpoint.
pub(super) fn instead_of(at: &str, files: &[String]) -> Option<Error> {
    SIGNS.iter().find_map(|sign| {
        let file = files.iter().find(|name| (sign.is)(name))?;
        let message = format!(
            "neither model.safetensors nor pytorch_model.bin, but `{}`: {}",
            printable(file),
            sign.what
        );
        Some(Error::invalid(at, message).with_hint(sign.hint))
    })
}

/// The error for a folder or repository with an adapter in it: `transformers` would put it on the
/// model beside it, or on another.
pub(super) fn adapter(at: &str) -> Error {
    Error::invalid(
        at,
        "it has adapter_config.json: a PEFT adapter, without which the model is another",
    )
    .with_hint(MERGE)
}

/// Refuses a folder that is not one of a checkpoint.
///
/// # Errors
/// There is no such folder, it has no `config.json`, or it has an adapter.
pub(super) fn refuse_folder(dir: &Path) -> Result<()> {
    let at = dir.display();
    if !dir.exists() {
        return Err(Error::invalid(at, "there is no such folder")
            .with_hint("check the path; models of the hub are written org/name or hf://org/name"));
    }
    let files = files_in(dir);
    let there = |name: &str| files.iter().any(|file| file == name);
    if there("adapter_config.json") {
        return Err(adapter(&at.to_string()));
    }
    if there("config.json") {
        return Ok(());
    }
    let instead = Weights::choose(there)
        .is_none()
        .then(|| instead_of(&at.to_string(), &files));
    Err(instead
        .flatten()
        .or_else(|| peek(dir, &files))
        .unwrap_or_else(|| {
            let hint = checkpoint_below(dir).map_or_else(
                || "a checkpoint is a folder with config.json and model.safetensors".to_owned(),
                |folder| {
                    format!(
                        "it has folders of checkpoints: name one, as {}",
                        folder.display()
                    )
                },
            );
            Error::invalid(dir.display(), "no config.json there").with_hint(hint)
        }))
}

/// Refuses a weight file that is not there, or has no `config.json` beside it in `dir`.
///
/// # Errors
/// As said.
pub(super) fn refuse_file(file: &Path, dir: &Path) -> Result<()> {
    if !file.exists() {
        return Err(Error::invalid(file.display(), "there is no such file")
            .with_hint("check the path; models of the hub are written org/name or hf://org/name"));
    }
    if dir.join("config.json").is_file() {
        return Ok(());
    }
    look_into(file)?;
    Err(Error::invalid(file.display(), "no config.json beside it")
        .with_hint("a weight file needs the config.json of its model in the same folder"))
}

/// What a local folder has in place of weights under their usual names.
pub(super) fn instead_in(dir: &Path) -> Option<Error> {
    let files = files_in(dir);
    instead_of(&dir.display().to_string(), &files).or_else(|| {
        let file = dir.join(files.iter().find(|name| is_weight_file(name))?);
        let hint = format!("expected model.safetensors or pytorch_model.bin; to open a file of another name, name it: {}", file.display());
        Some(Error::invalid(dir.display(), "no weights under their usual names").with_hint(hint))
    })
}

/// What is wrong with the weight file of a folder, if it has one.
fn peek(dir: &Path, files: &[String]) -> Option<Error> {
    let usual =
        |name: &&String| matches!(Weights::choose(|n| n == **name), Some(Weights::Single(_)));
    let mut any = files.iter().filter(|name| is_weight_file(name));
    let file = files.iter().find(usual).or_else(|| any.next())?;
    look_into(&dir.join(file)).err()
}

/// Fails where a weight file is not one of a GPT-2 of `transformers`, whatever its config.
fn look_into(file: &Path) -> Result<()> {
    let found = weights::read(&[file.to_owned()])?;
    explain(&found.tensors).map_or(Ok(()), Err)
}

/// The first folder within `dir` that has a `config.json`.
fn checkpoint_below(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let folders = entries.map(|entry| entry.path());
    folders
        .filter(|path| path.join("config.json").is_file())
        .min()
}

/// The names of the files of a folder, in order.
fn files_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Whether a file may hold weights, by its name; states of a trainer do not.
fn is_weight_file(name: &str) -> bool {
    let state = [
        "optimizer",
        "scheduler",
        "scaler",
        "training_args",
        "rng_state",
        "random_states",
    ];
    let ending = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];
    ending.iter().any(|end| name.ends_with(end)) && !state.iter().any(|word| name.starts_with(word))
}

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
pub(super) fn refuse_adapter(at: &str, names: &[String]) -> Result<()> {
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
pub(super) fn several_models(at: &str, outers: &[String]) -> Error {
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

/// Tensors of a model as they are in its files.
type Tensors = HashMap<String, (Entry, PathBuf)>;

/// Why these are not the weights of a GPT-2 of `transformers`, where it is not a matter of sizes.
pub(super) fn explain(tensors: &Tensors) -> Option<Error> {
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let first = |is: &dyn Fn(&str, &Entry) -> bool| {
        let name = names.iter().find(|name| is(name, &tensors[**name].0))?;
        Some((printable(name), &tensors[*name]))
    };
    let invalid = |path: &Path, message: String, hint: &str| {
        Some(Error::invalid(path.display(), message).with_hint(hint))
    };
    if let Some((name, (_, path))) = first(&|name, entry| is_quantized(name, entry)) {
        return invalid(
            path,
            format!(
                "tensor `{name}` belongs to quantized weights; F32, F16 and BF16 are supported"
            ),
            DEQUANTIZE,
        );
    }
    if let Some((name, (_, path))) = first(&|_, entry| shape(entry).contains(&0)) {
        return invalid(
            path,
            format!(
                "tensor `{name}` has no values: a placeholder of DeepSpeed's ZeRO-3, which keeps the weights elsewhere"
            ),
            "put the weights together with zero_to_fp32.py from the folder of the checkpoint, or save again with stage3_gather_16bit_weights_on_model_save",
        );
    }
    if let Some((name, (entry, path))) = first(&is_transposed) {
        let found = shape(entry);
        return invalid(
            path,
            format!(
                "weights in the layout of nanoGPT: tensor `{name}` is {found:?}, in transformers it is {:?}",
                [found[1], found[0]]
            ),
            NANOGPT,
        );
    }
    let known = |name: &str, _: &Entry| layout::is_known(name);
    if let (None, Some(name)) = (first(&known), names.first()) {
        let (_, path) = &tensors[*name];
        return invalid(
            path,
            format!(
                "none of its {} tensors has a name of a GPT-2 of transformers; the first is `{}`",
                names.len(),
                printable(name)
            ),
            "these are weights of another architecture, or saved by other software: convert them to a GPT2LMHeadModel",
        );
    }
    None
}

const NANOGPT: &str = "convert it in Python: make a GPT2LMHeadModel with the sizes in model_args and activation_function=\"gelu\", load the weights into it with those of attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj transposed and zeros for missing biases, and call save_pretrained(DIR)";

/// The shape, where it is known.
fn shape(entry: &Entry) -> &[usize] {
    match entry {
        Entry::Float(tensor) => &tensor.shape,
        // Of what cannot be used only the type is kept.
        Entry::Other(_) => &[1],
    }
}

/// Whether the projection to queries, keys and values is `[3 * n_embd, n_embd]`, as in
/// `torch.nn.Linear`.
fn is_transposed(name: &str, entry: &Entry) -> bool {
    let c_attn = name.ends_with("attn.c_attn.weight");
    c_attn && matches!(shape(entry), [out, from] if *from > 0 && *out == 3 * from)
}

/// Whether a tensor is one of quantized weights, or of what is stored beside them.
fn is_quantized(name: &str, entry: &Entry) -> bool {
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
    let small = match entry {
        Entry::Other(dtype) => ["I8", "U8", "F8", "F4", "F6"]
            .iter()
            .any(|start| dtype.starts_with(start)),
        Entry::Float(_) => false,
    };
    let weight = layout::is_known(name) && !layout::is_buffer(name);
    (small && weight) || name.split('.').any(|word| BESIDE.contains(&word))
}
