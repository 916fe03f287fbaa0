//! What a checkpoint of a run holds beside the model: moments, position, and where it belongs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::Trainee;
use super::optimizer::{AdamW, Optimizer, SavedMoments};
use crate::checkpoint::companions::Companions;
use crate::checkpoint::safetensors::{self, Entry, TensorOut};
use crate::checkpoint::tensor::OpenFile;
use crate::checkpoint::{Checkpoint, Dtype, Gpt2Config, HostTensor, layout, save};
use crate::durable::StagedDir;
use crate::error::{Error, Result};
use crate::manifest;
use crate::model::weights::{self, Named};
use crate::owner::STATE_FILE;

/// Name of the optimizer's file.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a run stands, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// SHA-256 of the training tokens.
    pub data_sha256: String,
    /// SHA-256 over what decides the run's result: see `Recipe::identity`.
    pub recipe_sha256: String,
    /// Version of this program.
    pub tool_version: String,
    /// Updates per parameter.
    pub optimizer_steps: BTreeMap<String, u64>,
    /// Steps that a rolled-back run leaves out.
    #[serde(default)]
    pub left_out: BTreeSet<u64>,
    /// Sequences to a pass, where memory did not hold what the recipe asks for: a run that goes
    /// on adds up gradients as it would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
}

/// Writes a checkpoint of the run as a folder that `transformers` opens: model in f32,
/// companions, optimizer, position.
pub fn save(
    destination: &Path,
    trainee: &Trainee,
    config: &Gpt2Config,
    companions: &Companions,
    mut state: TrainerState,
    extra: &[(&str, Vec<u8>)],
) -> Result<()> {
    let named = weights::read_all(&trainee.model)?;
    let moments = trainee.optimizer.saved()?;
    // What made them so is the step just done, counted from 0.
    refuse_non_finite(&named, &moments, trainee.step.saturating_sub(1))?;
    let staged = StagedDir::new(destination, true)?;
    save::save(
        &staged,
        &config.with_dtype(Dtype::F32),
        weights::tensors_out(&named, Dtype::F32),
        save::DEFAULT_SHARD_BYTES,
        &|_| {},
    )?;
    companions.copy(&staged)?;
    write_moments(&staged, &moments)?;
    state.optimizer_steps = moments
        .into_iter()
        .map(|(name, moments)| (name, moments.step))
        .collect();
    for (name, bytes) in extra {
        staged.write(name, bytes)?;
    }
    staged.write(
        STATE_FILE,
        (serde_json::to_string_pretty(&state).expect("a state serializes") + "\n").as_bytes(),
    )?;
    manifest::write(&staged)?;
    let published = staged.publish()?;
    manifest::verify(&published)
}

/// Refuses to publish weights or moments that are not finite.
fn refuse_non_finite(named: &[Named], moments: &[(String, SavedMoments)], step: u64) -> Result<()> {
    let finite = |values: &HostTensor| values.as_slice().iter().all(|v| v.is_finite());
    let weight = named.iter().find(|n| !finite(&n.values)).map(|n| &n.name);
    let moment = || {
        let bad = |m: &SavedMoments| !finite(&m.exp_avg) || !finite(&m.exp_avg_sq);
        moments.iter().find(|(_, m)| bad(m)).map(|(name, _)| name)
    };
    match weight.or_else(moment) {
        None => Ok(()),
        Some(name) => Err(Error::Diverged {
            step,
            message: format!("`{name}` or its moments are not finite; nothing was saved"),
        }),
    }
}

fn write_moments(staged: &StagedDir, moments: &[(String, SavedMoments)]) -> Result<()> {
    fn tensor(name: String, values: &HostTensor) -> TensorOut<'_> {
        let append = move |out: &OpenFile| {
            let bytes = Dtype::F32.encode(values.as_slice());
            (&out.file)
                .write_all(&bytes)
                .map_err(Error::io("write", &out.path))
        };
        TensorOut {
            name,
            dtype: Dtype::F32,
            shape: values.shape().to_vec(),
            append: Box::new(append),
        }
    }
    let mut tensors = Vec::with_capacity(2 * moments.len());
    for (name, saved) in moments {
        tensors.push(tensor(format!("exp_avg.{name}"), &saved.exp_avg));
        tensors.push(tensor(format!("exp_avg_sq.{name}"), &saved.exp_avg_sq));
    }
    let file = staged.create(OPTIMIZER_FILE)?;
    let out = OpenFile {
        path: staged.path().join(OPTIMIZER_FILE),
        file,
    };
    safetensors::write(&out, &tensors, HashMap::new(), &|_| {})
}

/// Reads the position of a checkpoint folder.
fn read_state(dir: &Path) -> Result<TrainerState> {
    let path = dir.join(STATE_FILE);
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(path.display(), format!("not a trainer state: {e}")))
}

/// Loads a checkpoint of a run: model, moments and position.
pub fn load(dir: &Path, constants: AdamW, device: &Device) -> Result<(Trainee, TrainerState)> {
    manifest::verify(dir)?;
    let state = read_state(dir)?;
    let checkpoint = Checkpoint::open_dir(dir)?;
    let optimizer = load_optimizer(dir, constants, device)?;
    let model = weights::load(&checkpoint, device)?;
    let trainee = Trainee {
        model,
        optimizer,
        step: state.step,
        micro_batch: state.micro_batch,
        left_out: state.left_out.clone(),
    };
    Ok((trainee, state))
}

/// Whether a folder is a checkpoint of a run, with an optimizer beside the model.
pub fn has_optimizer(dir: &Path) -> bool {
    [STATE_FILE, OPTIMIZER_FILE]
        .iter()
        .all(|name| dir.join(name).is_file())
}

/// The optimizer of a checkpoint of a run.
///
/// # Errors
/// The folder has none, or its moments do not fit the parameters.
pub fn load_optimizer(dir: &Path, constants: AdamW, device: &Device) -> Result<Optimizer> {
    let state = read_state(dir)?;
    let config = Gpt2Config::load(&dir.join("config.json"))?;
    let mut optimizer = Optimizer::new(constants);
    optimizer.restore(read_moments(dir, &state, &config)?, &device.clone().inner());
    Ok(optimizer)
}

/// Moments by name, each checked against the parameter it belongs to.
fn read_moments(
    dir: &Path,
    state: &TrainerState,
    config: &Gpt2Config,
) -> Result<Vec<(String, SavedMoments)>> {
    let path = dir.join(OPTIMIZER_FILE);
    let stored: HashMap<String, Entry> = safetensors::open(&path)?.into_iter().collect();
    let sizes: HashMap<String, usize> = layout::params(config)
        .into_iter()
        .map(|p| (p.name.clone(), p.numel()))
        .collect();
    let read =
        |kind: &str, name: &str| match (stored.get(&format!("{kind}.{name}")), sizes.get(name)) {
            (Some(Entry::Float(tensor)), Some(&size)) if tensor.shape == [size] => tensor.read(),
            (Some(_), _) => Err(Error::invalid(
                path.display(),
                format!("{kind} of `{name}` does not fit the parameter"),
            )),
            (None, _) => Err(Error::invalid(
                path.display(),
                format!("{kind} of `{name}` is missing"),
            )),
        };
    let moments = |(name, &step): (&String, &u64)| {
        let (exp_avg, exp_avg_sq) = (read("exp_avg", name)?, read("exp_avg_sq", name)?);
        Ok((
            name.clone(),
            SavedMoments {
                exp_avg,
                exp_avg_sq,
                step,
            },
        ))
    };
    state.optimizer_steps.iter().map(moments).collect()
}
