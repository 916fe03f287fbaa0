//! What several commands do alike: open checkpoints, print results.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::certify::{Certificate, PROBE_TEXT};
use scale_ckpt::checkpoint::companions::Companions;
use scale_ckpt::checkpoint::hub::HubConfig;
use scale_ckpt::checkpoint::{Checkpoint, save};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::figures::figure;
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

    /// An error of the recipe's values, with its file and line.
    pub fn located(&self, error: Error) -> Error {
        recipe::located(error, &self.recipe, &self.set)
    }
}

/// Opens a checkpoint and says what of it is not used.
pub fn open(source: &str) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(source, HubConfig::from_env, &DownloadMeter::default())?;
    for note in &checkpoint.notes {
        eprint_line(&format!("warning: {source}: {note}"));
    }
    if !checkpoint.ignored.is_empty() {
        eprint_line(&format!(
            "warning: {source}: a GPT-2 language model has no place for {}",
            some_of(&checkpoint.ignored)
        ));
    }
    Ok(checkpoint)
}

/// The first of many names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The tokenizer that belongs to a checkpoint.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    Tokenizer::for_checkpoint(&checkpoint.dir, checkpoint.config.vocab_size).map(said)
}

/// Says what the user should know of a tokenizer's files.
pub fn said(tokenizer: Tokenizer) -> Tokenizer {
    for note in tokenizer.notes() {
        eprint_line(&format!("warning: {note}"));
    }
    tokenizer
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
    let notes = [
        record.probe_note.clone(),
        Companions::note(&record.left_behind),
    ];
    for note in notes.into_iter().flatten() {
        eprint_line(&format!("note: {note}"));
    }
    for line in record.certificate.iter().flat_map(Certificate::lines) {
        eprint_line(&line);
    }
}

/// Warns of a loss that no model and text which belong together have: an untrained model guesses,
/// which costs ln(vocab_size) a token.
pub fn warn_of_loss(name: &str, loss: f64, vocab_size: usize) {
    let guessing = (vocab_size as f64).ln();
    if loss > guessing + 1.0 {
        let loss = figure(loss, 2);
        eprint_line(&format!(
            "warning: {name}: a loss of {loss} is worse than guessing, ln(vocab_size) = {guessing:.2}: \
             are the text's token ids those of this model?"
        ));
    }
}

/// Columns that tables are made for where there is no terminal to ask.
const COLUMNS: usize = 80;
/// A terminal narrower than this is not laid out for.
const FEWEST_COLUMNS: usize = 40;

/// How many characters of a line standard output shows: as many as `COLUMNS` in the environment
/// says, else those of its terminal, where it is one.
pub fn columns() -> usize {
    let wanted = std::env::var("COLUMNS").ok();
    if let Some(wanted @ 1..) = wanted.and_then(|text| text.parse::<usize>().ok()) {
        return wanted.max(FEWEST_COLUMNS);
    }
    let stdout = std::io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&stdout));
    match size {
        // A terminal that does not know its size says 0.
        Some(Ok(size)) if size.ws_col > 0 => usize::from(size.ws_col).max(FEWEST_COLUMNS),
        _ => COLUMNS,
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
