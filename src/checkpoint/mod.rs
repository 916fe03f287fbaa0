//! Checkpoints: a config and named host tensors, in the layout of `transformers`.
//!
//! [`Checkpoint::open`] is the one gate: what comes out of it has every tensor the config asks
//! for, each of the right shape and of a type this crate computes with. Tensor bytes stay in
//! their file until somebody reads them, so an open checkpoint costs kilobytes.

pub mod companions;
pub mod config;
pub mod draw;
mod foreign;
pub mod hub;
pub mod json;
pub mod layout;
mod naming;
mod pytorch;
pub mod safetensors;
pub mod save;
pub mod tensor;
mod weights;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use config::Gpt2Config;
pub use tensor::{Dtype, HostTensor, TensorRef};

use self::companions::Companions;
use self::hub::{HubConfig, ModelRef, Progress};
use self::layout::{BlockParam, LM_HEAD, PREFIX, Param, WPE, WTE};
use self::safetensors::Entry;
use self::weights::{Files, Found};
use crate::error::{Error, Result, printable};

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
    /// What the user should know of how it was read, a sentence each.
    pub notes: Vec<String>,
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
        let model = ModelRef::parse(source)?;
        let mut checkpoint = match &model {
            ModelRef::Hub { repo, revision } => {
                let snapshot = hub::fetch(repo, revision.as_deref(), &hub()?, progress)?;
                let mut checkpoint = Self::open_dir(&snapshot.dir)?;
                checkpoint.origin.repo = Some(snapshot.repo);
                checkpoint.origin.commit = Some(snapshot.commit);
                checkpoint
            }
            ModelRef::Dir(dir) => {
                Self::open_dir(dir).map_err(|error| hub::or_on_the_hub(source, error))?
            }
            ModelRef::File(file) => Self::open_file(file)?,
        };
        source.clone_into(&mut checkpoint.origin.source);
        if ModelRef::is_address(source) && checkpoint.origin.repo.is_some() {
            checkpoint.origin.source = model.to_string();
            checkpoint
                .notes
                .push(format!("an address, read as the hub id {model}"));
        }
        Ok(checkpoint)
    }

    /// Opens a folder with `config.json` and weights in any of the three formats.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        foreign::refuse_folder(dir)?;
        let config = Gpt2Config::load(&dir.join("config.json"))?;
        Self::with_weights(dir, config, weights::find(dir)?)
    }

    /// Opens a single weight file; `config.json` stands beside it.
    pub fn open_file(file: &Path) -> Result<Self> {
        let dir = crate::durable::parent_of(file);
        foreign::refuse_file(file, &dir)?;
        let config = Gpt2Config::load(&dir.join("config.json"))?;
        Self::with_weights(&dir, config, Files::single(file.to_owned()))
    }

    fn with_weights(dir: &Path, config: Gpt2Config, files: Files) -> Result<Self> {
        let mut found = weights::read(&files)?;
        if config.tie_word_embeddings {
            name_shared_head(&config, &mut found);
        }
        let mut checkpoint = Self {
            tensors: take_params(&config, &mut found, dir)?,
            config,
            origin: Origin {
                source: dir.display().to_string(),
                repo: None,
                commit: None,
            },
            dir: dir.to_owned(),
            ignored: Vec::new(),
            notes: found.note.take().into_iter().collect(),
            weight_files: files.paths,
            prefixed: found.prefixed,
        };
        checkpoint.settle_head(&mut found)?;
        checkpoint.ignored = leftovers(&checkpoint.config, found)?;
        checkpoint.settle_class();
        Ok(checkpoint)
    }

    /// A head beside `wte` is tied where it is equal. Where it is not, it is a head of its own,
    /// whatever the config says: `transformers` 5 loads it so.
    fn settle_head(&mut self, found: &mut Found) -> Result<()> {
        let Some((entry, path)) = found.tensors.get(LM_HEAD) else {
            return Ok(());
        };
        let head = fitting(&self.config, &layout::head(&self.config), entry, path);
        let head = head.map_err(|fault| foreign::explain(&found.tensors).unwrap_or(fault))?;
        let head = head.clone();
        found.tensors.remove(LM_HEAD);
        if head.same_values(self.tensor(WTE)?)? {
            return Ok(());
        }
        self.tensors.insert(LM_HEAD.to_owned(), head);
        self.config = self.config.clone().untied();
        let note = "lm_head.weight differs from wte.weight, though the config ties them: it stays a head of its own, with tie_word_embeddings = false, as transformers loads it";
        self.notes.push(note.to_owned());
        Ok(())
    }

    /// Says so where the config names a class that computes something else with the trunk.
    fn settle_class(&mut self) {
        let classes = self.config.architectures();
        let names = |known: &[&str]| classes.iter().any(|class| known.contains(class));
        let Some(class) = classes.first().map(|class| printable(class)) else {
            return;
        };
        if names(&["GPT2LMHeadModel", "GPT2Model"]) {
            return;
        }
        if names(&layout::OTHER_HEADS) {
            let note = format!("a {class}, read and written as a GPT2LMHeadModel");
            self.notes.push(note);
            self.config = self.config.clone().as_language_model();
        } else {
            self.notes.push(format!(
                "its class {class} is unknown: it is read as a GPT2LMHeadModel, and what else its code may compute is left out"
            ));
        }
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

    /// What travels beside the weights to whatever is made of the checkpoint.
    pub fn companions(&self) -> Companions {
        Companions::of(&self.dir, &self.weight_files)
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

/// In a model with a tied head, the one matrix may be stored under the name of the head alone.
fn name_shared_head(config: &Gpt2Config, found: &mut Found) {
    let shape = layout::head(config).shape;
    let fits = |(entry, _): &(Entry, PathBuf)| matches!(entry, Entry::Float(t) if t.shape == shape);
    if found.tensors.contains_key(WTE) || !found.tensors.get(LM_HEAD).is_some_and(fits) {
        return;
    }
    let head = found.tensors.remove(LM_HEAD);
    found
        .tensors
        .extend(head.map(|head| (WTE.to_owned(), head)));
}

/// Moves every parameter the config asks for out of `found`, with its shape checked.
fn take_params(
    config: &Gpt2Config,
    found: &mut Found,
    dir: &Path,
) -> Result<HashMap<String, TensorRef>> {
    let find = |param: Param| {
        let stored = found.tensors.get(&param.name);
        let (entry, path) = stored.ok_or_else(|| missing(&param, found, dir))?;
        let tensor = fitting(config, &param, entry, path)?.clone();
        Ok((param.name, tensor))
    };
    let params: Result<HashMap<_, _>> = layout::params(config).into_iter().map(find).collect();
    let params = params.map_err(|fault| foreign::explain(&found.tensors).unwrap_or(fault))?;
    found.tensors.retain(|name, _| !params.contains_key(name));
    Ok(params)
}

fn missing(param: &Param, found: &Found, dir: &Path) -> Error {
    let end = format!(".{}", param.name);
    if let Some(other) = found
        .tensors
        .keys()
        .filter(|name| name.ends_with(&end))
        .min()
    {
        let message = format!(
            "tensor `{}` is missing, but there is `{}`",
            param.name,
            printable(other)
        );
        return Error::invalid(dir.display(), message)
            .with_hint("a prefix is read where all names of the model have it: rename them alike");
    }
    let hint = if param.name == LM_HEAD {
        "config.json says tie_word_embeddings = false; if wte.weight is the head as well, it should say true"
    } else {
        "the weights do not belong to this config.json, or the file is incomplete"
    };
    let message = format!("tensor `{}` is missing", param.name);
    Error::invalid(dir.display(), message).with_hint(hint)
}

/// The tensor of an entry, if it can be `param`.
fn fitting<'t>(
    config: &Gpt2Config,
    param: &Param,
    entry: &'t Entry,
    path: &Path,
) -> Result<&'t TensorRef> {
    let invalid = |message: String| Error::invalid(path.display(), message);
    let tensor = match entry {
        Entry::Float(tensor) => tensor,
        Entry::Other(dtype) => {
            return Err(invalid(format!(
                "tensor `{}` is {dtype}; F32, F16 and BF16 are supported",
                param.name
            ))
            .with_hint("convert the weights in Python: model.float(), then save_pretrained"));
        }
    };
    if tensor.shape == param.shape {
        return Ok(tensor);
    }
    let sizes = format!(
        "n_embd = {}, n_inner = {}, vocab_size = {}, n_positions = {}",
        config.n_embd, config.n_inner, config.vocab_size, config.n_positions
    );
    let same_width = tensor.shape.get(1..) == param.shape.get(1..);
    let hint = match param.name.as_str() {
        LM_HEAD => "the head is made for another vocabulary than wte.weight; transformers refuses it as well".to_owned(),
        WTE if same_width => format!("for these weights vocab_size in config.json would be {}", tensor.shape[0]),
        WPE if same_width => format!("for these weights n_positions in config.json would be {}", tensor.shape[0]),
        _ => "the weights belong to another config.json".to_owned(),
    };
    Err(invalid(format!(
        "tensor `{}` is {:?}, expected {:?} ({sizes})",
        param.name, tensor.shape, param.shape
    ))
    .with_hint(hint))
}

/// What the model has no place for: mask buffers pass silently, other names are reported, blocks
/// beyond `n_layer` are an error since they would be lost.
fn leftovers(config: &Gpt2Config, found: Found) -> Result<Vec<String>> {
    let mut ignored = Vec::new();
    for (name, (_, path)) in found.tensors {
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
        if !layout::is_buffer(&name) {
            ignored.push(printable(&name));
        }
    }
    ignored.sort();
    Ok(ignored)
}
