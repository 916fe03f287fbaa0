//! The model that a recipe's training starts from: opened, grown, or drawn.

use std::path::PathBuf;

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::certify::PROBE_TEXT;
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, save};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::error::Error;
use scale_ckpt::grower::Grower;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::recipe::{GrowConfig, ModelSource, Recipe, ScratchConfig};
use scale_ckpt::run::RunDir;

use super::scores::{Measures, Row};
use super::shared::{load_model, open, report_growth, tokenizer};

/// The starting point of a run.
pub struct Start {
    /// Architecture that is trained.
    pub config: Gpt2Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The folder whose tokenizer files go into checkpoints, if there is one.
    pub tokenizer_dir: Option<PathBuf>,
    /// The source and its grown version, as far as there are any.
    lineage: Vec<Checkpoint>,
}

impl Start {
    /// Opens or grows what the recipe names.
    ///
    /// # Errors
    /// Also where the `[train]` table does not fit the model.
    pub fn prepare(recipe: &Recipe, run: &RunDir) -> Result<Self> {
        let start = match &recipe.model {
            ModelSource::Scratch(scratch) => Self::scratch(scratch, recipe)?,
            ModelSource::From(name) => Self::from(name, recipe, run)?,
        };
        recipe
            .train
            .check(start.config.n_positions)
            .map_err(|message| Error::invalid("recipe", message))?;
        Ok(start)
    }

    fn scratch(scratch: &ScratchConfig, recipe: &Recipe) -> Result<Self> {
        if recipe.grow.is_some() {
            return Err(Error::usage("a model from scratch is not grown")
                .with_hint("give [model.scratch] the depth itself, or remove [grow]"));
        }
        let config = scratch.config()?;
        let tokenizer = match &scratch.tokenizer {
            Some(dir) => Tokenizer::for_checkpoint(dir, config.vocab_size)?,
            None => Tokenizer::gpt2(),
        };
        if scratch.tokenizer.is_none() && config.vocab_size < 50257 {
            return Err(Error::invalid(
                "recipe",
                format!(
                    "model.scratch.vocab_size = {} is too small for GPT-2's tokenizer",
                    config.vocab_size
                ),
            )
            .with_hint("give model.scratch.tokenizer a folder with one that fits"));
        }
        Ok(Self {
            config,
            tokenizer,
            tokenizer_dir: scratch.tokenizer.clone(),
            lineage: Vec::new(),
        })
    }

    fn from(name: &str, recipe: &Recipe, run: &RunDir) -> Result<Self> {
        let source = open(name)?;
        let tokenizer = tokenizer(&source)?;
        let tokenizer_dir = Some(source.dir.clone());
        let Some(grow) = &recipe.grow else {
            return Ok(Self {
                config: source.config.clone(),
                tokenizer,
                tokenizer_dir,
                lineage: vec![source],
            });
        };
        let grown = grow_into(&source, grow, recipe.seed, run)?;
        Ok(Self {
            config: grown.config.clone(),
            tokenizer,
            tokenizer_dir,
            lineage: vec![source, grown],
        })
    }

    /// The model on `device`.
    pub fn model(&self, seed: u64, device: &Device) -> Result<Gpt2> {
        match self.lineage.last() {
            Some(checkpoint) => load_model(checkpoint, device),
            None => weights::init(&self.config, seed, device),
        }
    }

    /// Scores of everything there is before training.
    pub fn scores(&self, seed: u64, measures: &Measures) -> Result<Vec<Row>> {
        let Some(source) = self.lineage.first() else {
            let model = self.model(seed, &measures.device)?;
            return Ok(vec![measures.score(
                "from scratch, untrained".into(),
                &model,
                &self.config,
            )?]);
        };
        let grown = format!("grown {} -> {}", source.config.n_layer, self.config.n_layer);
        let names = [format!("source {}", source.origin.source), grown];
        let score = |(name, checkpoint): (String, &Checkpoint)| {
            measures.score(
                name,
                &load_model(checkpoint, &measures.device)?,
                &checkpoint.config,
            )
        };
        names.into_iter().zip(&self.lineage).map(score).collect()
    }
}

/// Grows into the run's folder, or opens what an earlier start of the same recipe grew.
fn grow_into(
    source: &Checkpoint,
    grow: &GrowConfig,
    seed: u64,
    run: &RunDir,
) -> Result<Checkpoint> {
    let out = run.path().join("grown");
    if !out.exists() {
        let plan = grow.resolve(source.config.n_layer)?;
        let grower = Grower {
            source,
            plan: &plan,
            seed,
            probe: Some(PROBE_TEXT),
            max_shard_bytes: save::DEFAULT_SHARD_BYTES,
            force: false,
        };
        report_growth(&grower.run(&out)?);
    }
    Checkpoint::open_dir(&out)
}
