//! Conducts a run through its stages: growth, training, resume and roll-back.

use burn::tensor::Device;
use scale_ckpt::account::Account;
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config};
use scale_ckpt::data::Batches;
use scale_ckpt::device::{has_room, is_cpu};
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::events::{self, EventWriter};
use scale_ckpt::owner;
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use scale_ckpt::recipe::LoadedRecipe;
use scale_ckpt::run::{GROWN_DIR, REPORT_FILE, RunDir, growth_file};
use scale_ckpt::stages::PlannedStage;
use scale_ckpt::train::{NonFinite, Observer, TrainConfig, Trainee, state, train};
use scale_ckpt::{Result, VERSION};
use serde_json::json;

use super::plan::memory;
use super::scores::Measures;
use super::shared::{grow_into, load_model, thousands};
use super::start::Start;
use super::watcher::Watcher;

/// Roll-backs after which a run is given up.
const MAX_ROLL_BACKS: usize = 10;

/// A run under way.
pub struct Conductor<'a> {
    pub loaded: &'a LoadedRecipe,
    pub start: &'a Start,
    pub measures: &'a Measures,
    pub account: &'a Account,
    pub batches: Batches,
    pub data_sha256: String,
    /// Training as the recipe and the device have it.
    pub config: TrainConfig,
    pub run: &'a mut RunDir,
}

impl Conductor<'_> {
    /// Trains to the end of the last stage, from the newest checkpoint if there is one.
    pub fn run(&mut self) -> Result<Trainee> {
        let mut diverged = Vec::new();
        loop {
            let mut trainee = match self.newest()? {
                Some(trainee) => trainee,
                None => self.fresh()?,
            };
            trainee.left_out.extend(&diverged);
            let error = match self.through_stages(trainee) {
                Ok(trained) => return Ok(trained),
                Err(error) => error,
            };
            let Error::Diverged { step, .. } = &error else {
                return Err(error);
            };
            let rolls_back = self.loaded.recipe.train.on_non_finite == NonFinite::RollBack;
            if !rolls_back || diverged.len() == MAX_ROLL_BACKS || diverged.contains(step) {
                return Err(error);
            }
            eprint_line(&format!("{error}; going back to leave that step out"));
            diverged.push(*step);
        }
    }

    fn fresh(&self) -> Result<Trainee> {
        let recipe = &self.loaded.recipe;
        let device = self.measures.device.clone().autodiff();
        Ok(Trainee {
            model: self.start.model(recipe.seed, &device)?,
            optimizer: self.start.optimizer(recipe, &self.measures.device)?,
            step: 0,
            micro_batch: None,
            left_out: Default::default(),
        })
    }

    /// The newest checkpoint that loads. Damaged ones are set aside with a warning: were they
    /// left, they would count as the newest and the sound ones would be pruned.
    fn newest(&self) -> Result<Option<Trainee>> {
        let adamw = self.loaded.recipe.train.adamw();
        let device = self.measures.device.clone().autodiff();
        for (_, path) in self.run.checkpoints()? {
            match state::load(&path, adamw, &device) {
                Ok((trainee, _)) => return Ok(Some(trainee)),
                Err(error @ Error::Invalid { .. }) => {
                    eprint_line(&format!(
                        "warning: {} is set aside: {error}",
                        path.display()
                    ));
                    self.run.set_aside(&path)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn through_stages(&mut self, mut trainee: Trainee) -> Result<Trainee> {
        if self.is_over(trainee.step) {
            let folder = self.run.path().display();
            eprint_line(&format!(
                "{folder} holds this run, finished: nothing is left to train"
            ));
            return Ok(trainee);
        }
        self.run.truncate_metrics(trainee.step)?;
        self.announce(trainee.step)?;
        let mut events = EventWriter::create(self.run.path(), events::now)?;
        events.session_start(trainee.step + 1)?;
        let config = &self.config;
        let device = self.measures.device.clone().autodiff();
        let meter = Meter::new("training", self.account.steps(), Unit::Count);
        meter.start_at(trainee.step);
        let stages = &self.start.stages;
        let mut watcher = Watcher {
            loaded: self.loaded,
            start: self.start,
            measures: self.measures,
            run: &mut *self.run,
            meter,
            data_sha256: self.data_sha256.clone(),
            planned: &stages[0],
            account: self.account,
            events,
            average: None,
            saved: (trainee.step > 0).then_some(trainee.step),
        };
        let restored = trainee.step;
        watcher
            .make_up_for(&trainee)
            .map_err(|error| saved_at(error, &watcher, restored))?;
        for (index, planned) in stages.iter().enumerate() {
            let stage = &planned.stage;
            if trainee.step >= stage.end() {
                continue;
            }
            watcher.planned = planned;
            if trainee.step == stage.first_step {
                if index > 0 {
                    let seed = self.loaded.recipe.seed.wrapping_add(index as u64);
                    let step = trainee.step;
                    trainee = grow(planned, trainee, seed, watcher.run, &device)
                        .map_err(|error| saved_at(error, &watcher, step))?;
                }
                watcher.begin(&description(planned, self.account), stages.len() > 1)?;
            }
            let asked = trainee.micro_batch.unwrap_or(config.micro_batch());
            let shape = self.start.config.with_n_layer(planned.n_layer);
            let fits = fitting(planned, &shape, config, &self.measures.device, asked);
            if fits < asked {
                watcher.fewer_sequences(trainee.step, fits)?;
                trainee.micro_batch = Some(fits);
            }
            let batches = &self.batches;
            trainee = train(trainee, stage, batches, config, &device, &mut watcher)?;
            watcher.save(&trainee)?;
        }
        Ok(trainee)
    }

    /// Whether nothing is left to train or to write down of the training: a run has its report
    /// last of all.
    fn is_over(&self, step: u64) -> bool {
        step >= self.account.steps() && self.run.path().join(REPORT_FILE).exists()
    }

    /// Says where the run starts from, and logs its beginning.
    fn announce(&mut self, step: u64) -> Result<()> {
        let (recipe, config) = (&self.loaded.recipe, &self.loaded.recipe.train);
        let steps = self.account.steps();
        if step > 0 {
            eprint_line(&format!("resuming at step {step} of {steps}"));
            return Ok(());
        }
        let epoch = self.batches.windows() * config.context as u64;
        let epochs = (steps * config.batch_tokens) as f64 / epoch as f64;
        eprint_line(&format!(
            "training: {} of {}, {epochs:.2} epochs of {}",
            counted(steps, "step", "steps"),
            counted(thousands(config.batch_tokens), "token", "tokens"),
            counted(thousands(epoch), "token", "tokens")
        ));
        self.run.log(&json!({
            "event": "start",
            "step": 0,
            "tool_version": VERSION,
            "seed": recipe.seed,
            "recipe_sha256": self.loaded.sha256,
            "data_sha256": self.data_sha256,
            "n_layer": self.start.config.n_layer,
        }))
    }
}

/// Sequences to a pass, `asked` or fewer, for whose estimate a GPU has room: every shape is tuned
/// when it is met first, which takes minutes, so that what cannot fit is better found out before.
fn fitting(
    planned: &PlannedStage,
    config: &Gpt2Config,
    train: &TrainConfig,
    device: &Device,
    asked: usize,
) -> usize {
    if is_cpu(device) {
        return asked;
    }
    let fits = |sequences: &usize| {
        let needed = memory(planned, config, train, false, *sequences);
        has_room(device, needed.activations.saturating_add(needed.head))
    };
    let mut halves = std::iter::successors(Some(asked), |&n| (n > 1).then(|| n.div_ceil(2)));
    halves.find(fits).unwrap_or(1)
}

/// What a signal between two steps ends with: the checkpoint of the last one is there.
fn saved_at(error: Error, watcher: &Watcher<'_>, step: u64) -> Error {
    match error {
        Error::Interrupted { .. } => watcher.stopped(step),
        error => error,
    }
}

/// Takes model and moments into the stage: grown, where it grows.
fn grow(
    planned: &PlannedStage,
    mut trainee: Trainee,
    seed: u64,
    run: &RunDir,
    device: &Device,
) -> Result<Trainee> {
    if let Some(policy) = planned.optimizer {
        trainee
            .optimizer
            .carry_over(policy, &planned.block_origins());
    }
    let Some(plan) = &planned.growth else {
        return Ok(trainee);
    };
    // Let go of the old model before the new one is loaded.
    let Trainee {
        model,
        optimizer,
        step,
        micro_batch,
        left_out,
    } = trainee;
    drop(model);
    let source = Checkpoint::open_dir(&run.checkpoint_path(step))?;
    let number = planned.stage.index + 1;
    let out = run.path().join(format!("{GROWN_DIR}-{number:02}"));
    if owner::is_grown(&out) {
        durable::remove_dir(&out)?;
    }
    let record = grow_into(&source, plan, seed, &out)?;
    run.write_json(&growth_file(number), &record)?;
    let model = load_model(&Checkpoint::open_dir(&out)?, device)?;
    durable::remove_dir(&out)?;
    Ok(Trainee {
        model,
        optimizer,
        step,
        micro_batch,
        left_out,
    })
}

/// A stage as the metrics have it.
fn description(planned: &PlannedStage, account: &Account) -> serde_json::Value {
    let stage = &planned.stage;
    json!({
        "event": "stage",
        "step": stage.first_step,
        "stage": stage.index + 1,
        "name": planned.name,
        "steps": stage.steps,
        "n_layer": planned.n_layer,
        "grown": planned.growth.is_some(),
        "optimizer": planned.optimizer,
        "new_layers": planned.new_layers,
        "trainable_tensors": stage.trainable.len(),
        "lr": stage.schedule.lr,
        "cost": account.of_stage(stage.index),
    })
}
