//! The model that a recipe's training starts from: opened, grown, or drawn.

use std::path::PathBuf;

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::certify::PROBE_TEXT;
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, save};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::data::tokenizer::GPT2_VOCAB;
use scale_ckpt::error::Error;
use scale_ckpt::grower::Grower;
use scale_ckpt::growth::GrowthPlan;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::recipe::{ModelSource, Recipe, ScratchConfig};
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
    plan: Option<GrowthPlan>,
    /// The source and its grown version, as far as there are any.
    lineage: Vec<Checkpoint>,
}

impl Start {
    /// Opens what the recipe names and checks the recipe against it; writes nothing.
    pub fn prepare(recipe: &Recipe) -> Result<Self> {
        let start = match &recipe.model {
            ModelSource::Scratch(scratch) => Self::scratch(scratch, recipe)?,
            ModelSource::From(name) => Self::from(name, recipe)?,
        };
        let fits = recipe.train.check(start.config.n_positions);
        fits.map_err(|message| Error::invalid("recipe", message))?;
        Ok(start)
    }

    fn scratch(scratch: &ScratchConfig, recipe: &Recipe) -> Result<Self> {
        let invalid = |message: String| Error::invalid("recipe", message);
        if recipe.grow.is_some() {
            return Err(invalid("a model from scratch is not grown".into())
                .with_hint("give [model.scratch] the depth itself, or remove [grow]"));
        }
        let config = scratch.config()?;
        let tokenizer = match &scratch.tokenizer {
            Some(dir) => Tokenizer::for_checkpoint(dir, config.vocab_size)?,
            None => Tokenizer::gpt2(),
        };
        if scratch.tokenizer.is_none() && config.vocab_size < GPT2_VOCAB {
            let message = format!(
                "model.scratch.vocab_size = {} is too small for GPT-2's tokenizer",
                config.vocab_size
            );
            return Err(invalid(message)
                .with_hint("give model.scratch.tokenizer a folder with one that fits"));
        }
        let config = config.with_end_of_text(tokenizer.end_of_text()?);
        let tokenizer_dir = scratch.tokenizer.clone();
        Ok(Self {
            config,
            tokenizer,
            tokenizer_dir,
            plan: None,
            lineage: Vec::new(),
        })
    }

    fn from(name: &str, recipe: &Recipe) -> Result<Self> {
        let source = open(name)?;
        let tokenizer = tokenizer(&source)?;
        let tokenizer_dir = Some(source.dir.clone());
        let plan = recipe
            .grow
            .as_ref()
            .map(|grow| grow.resolve(source.config.n_layer));
        let plan = plan.transpose().map_err(|error| {
            let at_fault = Error::invalid("recipe", format!("[grow]: {error}"));
            match error.hint() {
                Some(hint) => at_fault.with_hint(hint),
                None => at_fault,
            }
        })?;
        let config = match &plan {
            Some(plan) => source.config.with_n_layer(plan.n_layer()),
            None => source.config.clone(),
        };
        Ok(Self {
            config,
            tokenizer,
            tokenizer_dir,
            plan,
            lineage: vec![source],
        })
    }

    /// SHA-256 of the source's weights, if there is a source.
    pub fn source_sha256(&self) -> Result<Option<String>> {
        self.lineage
            .first()
            .map(Checkpoint::weights_sha256)
            .transpose()
    }

    /// Grows into the run's folder, or opens what an earlier start of the run grew.
    pub fn grow(&mut self, recipe: &Recipe, run: &RunDir) -> Result<()> {
        let (Some(plan), Some(source)) = (&self.plan, self.lineage.first()) else {
            return Ok(());
        };
        let out = run.path().join("grown");
        if !out.exists() {
            let grower = Grower {
                source,
                plan,
                seed: recipe.seed,
                probe: Some(PROBE_TEXT),
                max_shard_bytes: save::DEFAULT_SHARD_BYTES,
                force: false,
            };
            report_growth(&grower.run(&out)?);
        }
        self.lineage.push(Checkpoint::open_dir(&out)?);
        Ok(())
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
