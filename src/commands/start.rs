//! The model that a recipe's training starts from: opened, grown, or drawn.

use std::collections::BTreeSet;

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::companions::Companions;
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, hex};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::data::tokenizer::GPT2_VOCAB;
use scale_ckpt::error::Error;
use scale_ckpt::eval::score::ModelScore;
use scale_ckpt::grower::{GROWTH_FILE, new_layers};
use scale_ckpt::ledger::known_source;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::recipe::{ModelSource, Recipe, ScratchConfig};
use scale_ckpt::run::{GROWN_DIR, RunDir};
use scale_ckpt::settings::UNLOCATED;
use scale_ckpt::stages::{self, PlannedStage};
use scale_ckpt::train::optimizer::{Optimizer, OptimizerPolicy};
use scale_ckpt::train::state;
use sha2::{Digest, Sha256};

use super::scores::Measures;
use super::shared::{grow_into, load_model, open, said, tokenizer};
use super::tasks::TaskChoice;

/// The starting point of a run.
pub struct Start {
    /// Architecture of the first stage.
    pub config: Gpt2Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What goes into checkpoints beside the model.
    pub companions: Companions,
    /// The stages of the run.
    pub stages: Vec<PlannedStage>,
    residual_depth: usize,
    /// The source and its grown version, as far as there are any.
    lineage: Vec<Checkpoint>,
}

impl Start {
    /// Opens what the recipe names and checks the recipe against it; writes nothing.
    pub fn prepare(recipe: &Recipe) -> Result<Self> {
        // Before a source is fetched.
        TaskChoice::of(recipe)?;
        let (mut start, new_layers) = Self::unplanned(recipe)?;
        let invalid = |message: String| Error::invalid(UNLOCATED, message);
        let fits = recipe.train.check(start.config.n_positions);
        fits.map_err(invalid)?;
        let origin = stages::Origin {
            config: &start.config,
            new_layers,
        };
        start.stages = stages::plan(&recipe.train, &recipe.stages, recipe.grow.as_ref(), &origin)?;
        let first = &start.stages[0];
        if first.growth.is_some() && start.lineage.is_empty() {
            return Err(
                invalid("a model from scratch is not grown before it is trained".into())
                    .with_hint("give [model.scratch] the depth of the first stage"),
            );
        }
        if let Some((_, source)) = start.inherited()
            && !state::has_optimizer(&source.dir)
        {
            let message = format!(
                "{} has no optimizer state to go on with",
                source.origin.source
            );
            return Err(
                invalid(message).with_hint("start with optimizer = \"fresh\" in the first stage")
            );
        }
        start.config = start.config.with_n_layer(first.n_layer);
        Ok(start)
    }

    /// Opens what the recipe names, without stages, and says which of its blocks count as new.
    pub fn unplanned(recipe: &Recipe) -> Result<(Self, BTreeSet<usize>)> {
        match &recipe.model {
            ModelSource::Scratch(scratch) => Self::scratch(scratch),
            ModelSource::From(name) => Self::from(name),
        }
    }

    fn scratch(scratch: &ScratchConfig) -> Result<(Self, BTreeSet<usize>)> {
        let invalid = |message: String| Error::invalid(UNLOCATED, message);
        if scratch.residual_depth == Some(0) {
            return Err(invalid(
                "model.scratch.residual_depth must be at least 1".into(),
            ));
        }
        let config = scratch.config()?;
        let tokenizer = match &scratch.tokenizer {
            Some(dir) => said(Tokenizer::for_checkpoint(dir, config.vocab_size)?),
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
        let new_layers = (0..config.n_layer).collect();
        let start = Self {
            tokenizer,
            companions: scratch
                .tokenizer
                .as_deref()
                .map(Companions::known_in)
                .unwrap_or_default(),
            stages: Vec::new(),
            residual_depth: scratch.residual_depth.unwrap_or(config.n_layer),
            config,
            lineage: Vec::new(),
        };
        Ok((start, new_layers))
    }

    fn from(name: &str) -> Result<(Self, BTreeSet<usize>)> {
        let source = open(name)?;
        let start = Self {
            config: source.config.clone(),
            tokenizer: tokenizer(&source)?,
            companions: source.companions(),
            stages: Vec::new(),
            residual_depth: source.config.n_layer,
            lineage: vec![source],
        };
        let new_layers = new_layers(&start.lineage[0].dir);
        Ok((start, new_layers))
    }

    /// SHA-256 of the source's weights, if there is a source.
    pub fn source_sha256(&self) -> Result<Option<String>> {
        self.lineage
            .first()
            .map(Checkpoint::weights_sha256)
            .transpose()
    }

    /// The record of the growth that made the source, if one did.
    pub fn source_growth(&self) -> Option<Vec<u8>> {
        std::fs::read(self.lineage.first()?.dir.join(GROWTH_FILE)).ok()
    }

    /// SHA-256 over how every stage grows: a recipe names plan files, which can change.
    pub fn growth_sha256(&self) -> String {
        let slots = self
            .stages
            .iter()
            .map(|s| s.growth.as_ref().map(|plan| &plan.slots));
        let slots = serde_json::to_string(&slots.collect::<Vec<_>>());
        hex(&Sha256::digest(slots.expect("a plan serializes")))
    }

    /// FLOPs that the source cost, as the recipe or the program knows them, and where the figure
    /// comes from.
    pub fn source_cost(&self, recipe: &Recipe) -> (Option<f64>, String) {
        let Some(source) = self.lineage.first() else {
            return (Some(0.0), "from scratch".into());
        };
        if let Some(flops) = recipe.source_flops {
            return (Some(flops), "source_flops of the recipe".into());
        }
        let repo = source.origin.repo.as_deref().unwrap_or_default();
        match known_source(repo) {
            Some(known) => (Some(known.flops(&source.config)), known.note.into()),
            None => (None, "its cost is unknown: state source_flops".into()),
        }
    }

    /// Grows into the run's folder, or opens what an earlier start of the run grew.
    pub fn grow(&mut self, recipe: &Recipe, run: &RunDir) -> Result<()> {
        let (Some(plan), Some(source)) = (&self.stages[0].growth, self.lineage.first()) else {
            return Ok(());
        };
        let out = run.path().join(GROWN_DIR);
        if !out.exists() {
            grow_into(source, plan, recipe.seed, &out)?;
        }
        self.lineage.push(Checkpoint::open_dir(&out)?);
        Ok(())
    }

    /// The model on `device`.
    pub fn model(&self, seed: u64, device: &Device) -> Result<Gpt2> {
        match self.lineage.last() {
            Some(checkpoint) => load_model(checkpoint, device),
            None => weights::init(&self.config, self.residual_depth, seed, device),
        }
    }

    /// The optimizer that the run begins with: the source's own, taken to the blocks of the
    /// grown model, where the recipe asks to inherit it.
    pub fn optimizer(&self, recipe: &Recipe, device: &Device) -> Result<Optimizer> {
        let constants = recipe.train.adamw();
        let Some((policy, source)) = self.inherited() else {
            return Ok(Optimizer::new(constants));
        };
        let mut optimizer = state::load_optimizer(&source.dir, constants, device)?;
        optimizer.carry_over(policy, &self.stages[0].block_origins());
        Ok(optimizer)
    }

    /// The source, where the first stage takes over its moments, and how.
    fn inherited(&self) -> Option<(OptimizerPolicy, &Checkpoint)> {
        let policy = self.stages[0].optimizer?;
        let source = self.lineage.first()?;
        (policy != OptimizerPolicy::Fresh).then_some((policy, source))
    }

    /// Scores of everything there is before training.
    pub fn scores(&self, seed: u64, measures: &Measures) -> Result<Vec<ModelScore>> {
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
