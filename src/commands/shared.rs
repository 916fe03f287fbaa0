//! What several commands do alike: open checkpoints, print results.

use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::certify::{Certificate, PROBE_TEXT};
use scale_ckpt::checkpoint::hub::HubConfig;
use scale_ckpt::checkpoint::{Checkpoint, save};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::grower::{Grower, GrowthRecord};
use scale_ckpt::growth::GrowthPlan;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::progress::{DownloadMeter, eprint_line, print_line};
use scale_ckpt::recipe::{self, LoadedRecipe};
pub use scale_ckpt::report::thousands;
use serde::Serialize;

/// A recipe, with what the command line changes of it.
#[derive(Debug, clap::Args)]
pub struct RecipeArgs {
    /// The recipe.
    recipe: PathBuf,
    /// Change a key of the recipe, as in train.lr=3e-4; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N; the recipe's unless given.
    #[arg(long)]
    device: Option<DeviceSpec>,
}

impl RecipeArgs {
    /// Reads the recipe, and says which device is meant.
    pub fn load(&self) -> Result<(LoadedRecipe, DeviceSpec)> {
        let loaded = recipe::load(&self.recipe, &self.set)?;
        let device = self.device.unwrap_or(loaded.recipe.device);
        Ok((loaded, device))
    }
}

/// Opens a checkpoint and says what of it is not used.
pub fn open(source: &str) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(source, HubConfig::from_env, &DownloadMeter::default())?;
    if !checkpoint.ignored.is_empty() {
        eprint_line(&format!(
            "warning: {source}: a GPT-2 language model has no place for {}",
            checkpoint.ignored.join(", ")
        ));
    }
    Ok(checkpoint)
}

/// The tokenizer that belongs to a checkpoint.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    Tokenizer::for_checkpoint(&checkpoint.dir, checkpoint.config.vocab_size)
}

/// Loads a model and warns of weights that are not finite.
pub fn load_model(checkpoint: &Checkpoint, device: &burn::tensor::Device) -> Result<Gpt2> {
    warn_non_finite(&checkpoint.origin.source, &checkpoint.non_finite()?);
    weights::load(checkpoint, device)
}

/// Warns of tensors with values that are not finite.
fn warn_non_finite(source: &str, names: &[String]) {
    if !names.is_empty() {
        eprint_line(&format!(
            "warning: {source}: values that are not finite in {}",
            names.join(", ")
        ));
    }
}

/// Grows `source` into the folder `out`, and says what that did to the function of the model.
pub fn grow_into(
    source: &Checkpoint,
    plan: &GrowthPlan,
    seed: u64,
    out: &Path,
) -> Result<GrowthRecord> {
    let grower = Grower {
        source,
        plan,
        seed,
        probe: Some(PROBE_TEXT),
        max_shard_bytes: save::DEFAULT_SHARD_BYTES,
        force: false,
    };
    let record = grower.run(out)?;
    report_growth(&record);
    Ok(record)
}

/// Says what a growth did to the function of the model.
pub fn report_growth(record: &GrowthRecord) {
    if !record.non_finite.is_empty() {
        eprint_line(&format!(
            "warning: values that are not finite in {}",
            record.non_finite.join(", ")
        ));
    }
    for line in record.certificate.iter().flat_map(Certificate::lines) {
        eprint_line(&line);
    }
}

/// Prints to standard output. A reader that has gone away is not an error.
pub fn print(text: &str) -> Result<()> {
    match print_line(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(e))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value).expect("a report serializes"))
}

/// Bytes in a readable unit.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
