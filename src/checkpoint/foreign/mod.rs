//! What is there in place of a checkpoint: one look at names or first bytes tells most of it, and
//! each has a step that helps.

mod content;
mod tensors;

use std::path::{Path, PathBuf};

use super::weights::{self, Files, Weights};
use crate::error::{Error, Result, printable};
use crate::owner::{self, Marker};

pub(super) use self::content::{Format, format_of, in_place_of_text};
pub(super) use self::tensors::{explain, refuse_adapter, several_models};

/// How deep the runs of a comparison or a search lie in its folder.
const DEEPEST: usize = 3;

/// What to do with quantized weights.
pub(super) const DEQUANTIZE: &str = "take the checkpoint that was quantized, or load this one in Python and save it again after model.dequantize()";

const MERGE: &str = "merge it into its model in Python: peft.AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(DIR), and open DIR";
const GGUF: &str = "take the checkpoint that it was made from, or convert it in Python: GPT2LMHeadModel.from_pretrained(DIR, gguf_file=FILE).save_pretrained(OUT)";
const TENSORFLOW: &str = "convert it in Python with transformers 4 and TensorFlow: GPT2LMHeadModel.from_pretrained(DIR, from_tf=True).save_pretrained(OUT)";
const FLAX: &str = "convert it in Python with transformers 4 and Flax: GPT2LMHeadModel.from_pretrained(DIR, from_flax=True).save_pretrained(OUT)";

/// Files that are no weights of ours, and what they say of the folder they are in.
struct Sign {
    is: fn(&str) -> bool,
    what: &'static str,
    hint: &'static str,
}

/// Those whose files may lie a folder deeper.
const DISTRIBUTED: [Sign; 2] = [
    Sign {
        is: |name| name == "zero_to_fp32.py" || name.ends_with("_model_states.pt"),
        what: "a checkpoint of DeepSpeed",
        hint: "put its weights together with DeepSpeed's script: python zero_to_fp32.py . DIR",
    },
    Sign {
        is: |name| name.ends_with(".distcp"),
        what: "a sharded checkpoint of torch.distributed",
        hint: "put it together: accelerate merge-weights FOLDER DIR, or python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
    },
];

const SIGNS: [Sign; 7] = [
    Sign {
        is: |name| name.starts_with("adapter_config.") || name.starts_with("adapter_model."),
        what: "a PEFT adapter, not a whole model",
        hint: MERGE,
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
    let (adapter, others) = SIGNS.split_at(1);
    let signs = adapter.iter().chain(&DISTRIBUTED).chain(others);
    found_by(signs, at, files)
}

fn found_by<'s>(
    mut signs: impl Iterator<Item = &'s Sign>,
    at: &str,
    files: &[String],
) -> Option<Error> {
    signs.find_map(|sign| {
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
        .or_else(|| own_folder(dir))
        .or_else(|| peek(dir, &files))
        .or_else(|| distributed_below(dir))
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
    let instead = instead_of(&dir.display().to_string(), &files);
    instead.or_else(|| distributed_below(dir)).or_else(|| {
        let file = dir.join(files.iter().find(|name| is_weight_file(name))?);
        if let Err(error) = look_into(&file) {
            return Some(error);
        }
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
    let found = weights::read(&Files::single(file.to_owned()))?;
    explain(&found.tensors).map_or(Ok(()), Err)
}

/// The first folder within `dir` that has a `config.json`.
fn checkpoint_below(dir: &Path) -> Option<PathBuf> {
    let mut folders = folders_in(dir).into_iter();
    folders.find(|path| path.join("config.json").is_file())
}

/// What a folder is that this program fills, if it is one: of a run, for example.
pub(super) fn own_folder(dir: &Path) -> Option<Error> {
    let kind = Marker::of(dir).map(|marker| marker.kind);
    let last = last_step(dir);
    let (message, hint) = match (kind.as_deref(), last) {
        (None, None) => return None,
        (None | Some("run"), Some(last)) => (
            format!(
                "this is the folder of a run; its last checkpoint is {}",
                last.display()
            ),
            "name that, or another of its checkpoints".to_owned(),
        ),
        (Some("run"), None) => (
            "this is the folder of a run, which has no checkpoint yet".to_owned(),
            "run `scale-ckpt train` with its recipe: it goes on from where it stopped".to_owned(),
        ),
        (Some(kind), _) => (
            format!(
                "no config.json there; it is the folder of {} {}",
                if kind.starts_with('e') { "an" } else { "a" },
                printable(kind)
            ),
            steps_below(dir, DEEPEST).map_or_else(
                || "name the folder of a checkpoint".to_owned(),
                |step| {
                    format!(
                        "name a checkpoint of one of its runs, as {}",
                        step.display()
                    )
                },
            ),
        ),
    };
    Some(Error::invalid(dir.display(), message).with_hint(hint))
}

/// The last checkpoint in the folder of a run.
fn last_step(dir: &Path) -> Option<PathBuf> {
    let is_step = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("step-"))
            && path.join("config.json").is_file()
            && owner::is_run_checkpoint(path)
    };
    folders_in(dir).into_iter().rfind(is_step)
}

/// The last checkpoint of the first run within a folder.
fn steps_below(dir: &Path, depth: usize) -> Option<PathBuf> {
    last_step(dir).or_else(|| {
        let folders = (depth > 0).then(|| folders_in(dir));
        let mut folders = folders.into_iter().flatten();
        folders.find_map(|folder| steps_below(&folder, depth - 1))
    })
}

/// What the folders within `dir` say where several processes wrote a checkpoint.
fn distributed_below(dir: &Path) -> Option<Error> {
    folders_in(dir).iter().find_map(|folder| {
        let inner = folder.file_name()?.to_string_lossy().into_owned();
        let name = |file: String| format!("{inner}/{file}");
        let files: Vec<String> = files_in(folder).into_iter().map(name).collect();
        found_by(DISTRIBUTED.iter(), &dir.display().to_string(), &files)
    })
}

/// The folders within a folder, in order.
fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
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
