//! Checkpoints: a config and named host tensors, in the layout of `transformers`.
//!
//! [`Checkpoint::open`] is the one gate: what comes out of it has every tensor the config asks
//! for, each of the right shape and of a type this crate computes with. Tensor bytes stay in
//! their file until somebody reads them, so an open checkpoint costs kilobytes.

pub mod config;
pub mod draw;
pub mod hub;
pub mod layout;
mod pytorch;
pub mod safetensors;
pub mod save;
pub mod tensor;

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use config::Gpt2Config;
pub use tensor::{Dtype, HostTensor, TensorRef};

use self::hub::{HubConfig, ModelRef, Progress};
use self::layout::{BlockParam, LM_HEAD, PREFIX};
use self::safetensors::Entry;
use crate::error::{Error, Result, printable};
use crate::owner::plain_name;

/// Where a checkpoint came from, as written into everything made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What the user wrote.
    pub source: String,
    /// Repository on the hub, where it came from there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repo: Option<String>,
    /// Commit on the hub, where it came from there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit: Option<String>,
}

/// An open checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The architecture.
    pub config: Gpt2Config,
    /// Where it came from.
    pub origin: Origin,
    /// The folder that holds config and tokenizer.
    pub dir: PathBuf,
    /// Tensors of the file that a GPT-2 language model has no place for.
    pub ignored: Vec<String>,
    weight_files: Vec<PathBuf>,
    tensors: HashMap<String, TensorRef>,
    prefixed: bool,
}

impl Checkpoint {
    /// Opens what `source` names: a hub id, a folder, or a single file beside its config. The
    /// hub's settings are asked for only where the hub is.
    pub fn open(
        source: &str,
        hub: impl FnOnce() -> Result<HubConfig>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut checkpoint = match ModelRef::parse(source)? {
            ModelRef::Hub { repo, revision } => {
                let snapshot = hub::fetch(&repo, revision.as_deref(), &hub()?, progress)?;
                let mut checkpoint = Self::open_dir(&snapshot.dir)?;
                checkpoint.origin.repo = Some(snapshot.repo);
                checkpoint.origin.commit = Some(snapshot.commit);
                checkpoint
            }
            ModelRef::Dir(dir) => Self::open_dir(&dir)?,
            ModelRef::File(file) => Self::open_file(&file)?,
        };
        source.clone_into(&mut checkpoint.origin.source);
        Ok(checkpoint)
    }

    /// Opens a folder with `config.json` and weights in any of the three formats.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::invalid(dir.display(), "no config.json there")
                .with_hint("a checkpoint is a folder with config.json and model.safetensors"));
        }
        let config = Gpt2Config::load(&config_path)?;
        Self::with_weights(dir, config, find_weights(dir)?)
    }

    /// Opens a single weight file; `config.json` stands beside it.
    pub fn open_file(file: &Path) -> Result<Self> {
        let dir = crate::durable::parent_of(file);
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::invalid(file.display(), "no config.json beside it")
                .with_hint("a weight file needs the config.json of its model in the same folder"));
        }
        let config = Gpt2Config::load(&config_path)?;
        Self::with_weights(&dir, config, vec![file.to_owned()])
    }

    fn with_weights(dir: &Path, config: Gpt2Config, weight_files: Vec<PathBuf>) -> Result<Self> {
        let mut found = HashMap::new();
        let mut prefixed = false;
        for path in &weight_files {
            for (name, entry) in open_weights(path)? {
                let (bare, had_prefix) = layout::strip_prefix(&name);
                prefixed |= had_prefix;
                if found
                    .insert(bare.to_owned(), (entry, path.clone()))
                    .is_some()
                {
                    return Err(Error::invalid(
                        path.display(),
                        format!("tensor `{}` occurs twice", printable(bare)),
                    ));
                }
            }
        }
        let tensors = take_params(&config, &mut found, dir)?;
        let ignored = leftovers(&config, found)?;
        let origin = Origin {
            source: dir.display().to_string(),
            repo: None,
            commit: None,
        };
        Ok(Self {
            config,
            origin,
            dir: dir.to_owned(),
            ignored,
            weight_files,
            tensors,
            prefixed,
        })
    }

    /// The tensor of that name, without prefix.
    ///
    /// # Errors
    /// There is none: the name is not in the layout of this config.
    pub fn tensor(&self, name: &str) -> Result<&TensorRef> {
        self.tensors.get(name).ok_or_else(|| {
            Error::invalid(
                self.dir.display(),
                format!("tensor `{}` is missing", printable(name)),
            )
        })
    }

    /// Parameter `param` of block `layer`.
    pub fn block(&self, layer: usize, param: &BlockParam) -> Result<&TensorRef> {
        self.tensor(&param.full_name(layer))
    }

    /// The name a parameter has in this checkpoint's files.
    pub fn stored_name(&self, name: &str) -> String {
        if self.prefixed && name != LM_HEAD {
            format!("{PREFIX}{name}")
        } else {
            name.to_owned()
        }
    }

    /// The weight files, in the order they were read.
    pub fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// Tensors with values that are not finite, read a piece at a time.
    pub fn non_finite(&self) -> Result<Vec<String>> {
        let mut bad = Vec::new();
        for param in layout::params(&self.config) {
            if !self.tensor(&param.name)?.is_finite()? {
                bad.push(param.name);
            }
        }
        Ok(bad)
    }

    /// SHA-256 over the bytes of the weight files, in hex.
    pub fn weights_sha256(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        for path in &self.weight_files {
            hash_file(path, &mut hasher, |_| {
                crate::interrupt::check("nothing was published")
            })?;
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// Adds the bytes of a file to a hash, and returns how many there are. `each` is told how many
/// were just read, a mebibyte at most, and asked whether to go on.
pub(crate) fn hash_file(
    path: &Path,
    hasher: &mut Sha256,
    each: impl Fn(u64) -> Result<()>,
) -> Result<u64> {
    let mut file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(bytes);
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        each(read as u64)?;
    }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn find_weights(dir: &Path) -> Result<Vec<PathBuf>> {
    for (single, index) in [
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ] {
        let (single, index) = (dir.join(single), dir.join(index));
        if single.is_file() {
            return Ok(vec![single]);
        }
        if index.is_file() {
            return shards(dir, &index);
        }
    }
    Err(Error::invalid(dir.display(), "no weights there")
        .with_hint("expected model.safetensors, model.safetensors.index.json or pytorch_model.bin"))
}

/// The distinct shard files of an index; names must be plain, they come from outside.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = std::fs::read(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(index.display(), format!("not a weight index: {e}")))?;
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    names
        .into_iter()
        .map(|name| {
            let path = dir.join(plain_name(name, index)?);
            if path.is_file() {
                Ok(path)
            } else {
                Err(
                    Error::invalid(index.display(), format!("shard `{name}` is missing"))
                        .with_hint("fetch or copy the missing shard"),
                )
            }
        })
        .collect()
}

fn open_weights(path: &Path) -> Result<Vec<(String, Entry)>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("bin" | "pt" | "pth") => pytorch::open(path),
        _ => safetensors::open(path),
    }
}

/// Moves every parameter the config asks for out of `found`, with its shape checked.
fn take_params(
    config: &Gpt2Config,
    found: &mut HashMap<String, (Entry, PathBuf)>,
    dir: &Path,
) -> Result<HashMap<String, TensorRef>> {
    layout::params(config)
        .into_iter()
        .map(|param| {
            let Some((entry, path)) = found.remove(&param.name) else {
                let hint = if param.name == LM_HEAD {
                    "config.json says tie_word_embeddings = false"
                } else {
                    "the weights do not belong to this config.json, or the file is incomplete"
                };
                return Err(Error::invalid(
                    dir.display(),
                    format!("tensor `{}` is missing", param.name),
                )
                .with_hint(hint));
            };
            match entry {
                Entry::Other(dtype) => Err(Error::invalid(
                    path.display(),
                    format!(
                        "tensor `{}` is {dtype}; F32, F16 and BF16 are supported",
                        param.name
                    ),
                )),
                Entry::Float(tensor) if tensor.shape != param.shape => {
                    let sizes = format!(
                        "n_embd = {}, n_inner = {}, vocab_size = {}, n_positions = {}",
                        config.n_embd, config.n_inner, config.vocab_size, config.n_positions
                    );
                    Err(Error::invalid(
                        path.display(),
                        format!(
                            "tensor `{}` is {:?}, expected {:?} ({sizes})",
                            param.name, tensor.shape, param.shape
                        ),
                    )
                    .with_hint("the weights belong to another config.json"))
                }
                Entry::Float(tensor) => Ok((param.name, tensor)),
            }
        })
        .collect()
}

/// What the model has no place for: mask buffers and a tied head pass silently, other names
/// are reported, blocks beyond `n_layer` are an error since they would be lost.
fn leftovers(config: &Gpt2Config, found: HashMap<String, (Entry, PathBuf)>) -> Result<Vec<String>> {
    let mut ignored = Vec::new();
    for (name, (_, path)) in found {
        if let Some((layer, _)) = layout::split_block_name(&name)
            && layer >= config.n_layer
        {
            return Err(Error::invalid(
                path.display(),
                format!(
                    "tensor `{}` belongs to block {layer}, but config.json says n_layer = {}",
                    printable(&name),
                    config.n_layer
                ),
            )
            .with_hint("correct n_layer in config.json"));
        }
        if !layout::is_buffer(&name) && name != LM_HEAD {
            ignored.push(printable(&name));
        }
    }
    ignored.sort();
    Ok(ignored)
}
