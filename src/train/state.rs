//! What a checkpoint of a run holds beside the model: moments, position, and where it belongs.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::Trainee;
use super::optimizer::{AdamW, Optimizer, SavedMoments};
use crate::checkpoint::safetensors::{self, Entry, TensorOut};
use crate::checkpoint::tensor::OpenFile;
use crate::checkpoint::{Checkpoint, Dtype, Gpt2Config, HostTensor, layout, save};
use crate::durable::StagedDir;
use crate::error::{Error, Result};
use crate::model::weights;

/// Name of the optimizer's file.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Name of the position's file, written last.
const STATE_FILE: &str = "trainer_state.json";

/// Where a run stands, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// SHA-256 of the training tokens.
    pub data_sha256: String,
    /// SHA-256 of the recipe that the run was started with.
    pub recipe_sha256: String,
    /// Version of this program.
    pub tool_version: String,
    /// Updates per parameter.
    pub optimizer_steps: BTreeMap<String, u64>,
}

/// Writes a checkpoint of the run as a folder that `transformers` opens: model in f32,
/// companions of `tokenizer_dir`, optimizer, position.
pub fn save(
    destination: &Path,
    trainee: &Trainee,
    config: &Gpt2Config,
    tokenizer_dir: Option<&Path>,
    mut state: TrainerState,
    extra: &[(&str, Vec<u8>)],
) -> Result<()> {
    let named = weights::read_all(&trainee.model);
    if let Some(bad) = named
        .iter()
        .find(|named| !named.values.as_slice().iter().all(|v| v.is_finite()))
    {
        return Err(Error::Diverged {
            step: trainee.step,
            message: format!("`{}` is not finite; nothing was saved", bad.name),
        });
    }
    let staged = StagedDir::new(destination, true)?;
    save::save(
        &staged,
        &config.with_dtype(Dtype::F32),
        weights::tensors_out(&named, Dtype::F32),
        save::DEFAULT_SHARD_BYTES,
        &|_| {},
    )?;
    if let Some(dir) = tokenizer_dir {
        save::copy_companions(dir, &staged)?;
    }
    let moments = trainee.optimizer.saved();
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
    staged.publish()?;
    Ok(())
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
    let state = read_state(dir)?;
    let checkpoint = Checkpoint::open_dir(dir)?;
    let mut optimizer = Optimizer::new(constants);
    optimizer.restore(
        read_moments(dir, &state, &checkpoint.config)?,
        &device.clone().inner(),
    );
    let model = weights::load(&checkpoint, device)?;
    let step = state.step;
    Ok((
        Trainee {
            model,
            optimizer,
            step,
        },
        state,
    ))
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
