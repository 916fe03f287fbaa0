//! Watches a training run: logs, validates, saves.

use burn::module::Module;
use scale_ckpt::account::Account;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::certainty::shown;
use scale_ckpt::eval::figures::figure;
use scale_ckpt::eval::report;
use scale_ckpt::eval::score::TaskScore;
use scale_ckpt::events::EventWriter;
use scale_ckpt::grower::GROWTH_FILE;
use scale_ckpt::ledger;
use scale_ckpt::progress::Meter;
use scale_ckpt::recipe::LoadedRecipe;
use scale_ckpt::run::{GROWN_DIR, RECIPE_FILE, RunDir, growth_file};
use scale_ckpt::stages::PlannedStage;
use scale_ckpt::train::state::{self, TrainerState};
use scale_ckpt::train::wakeup::WakeUp;
use scale_ckpt::train::{Observer, StepReport, Trainee};
use scale_ckpt::{Result, VERSION};
use serde_json::{Value, json};

use super::scores::Measures;
use super::shared::thousands;
use super::start::Start;

/// Weight of the newest loss in the moving average that is shown.
const NEWEST: f64 = 0.05;

/// The observer of `train`.
pub struct Watcher<'a> {
    pub loaded: &'a LoadedRecipe,
    pub start: &'a Start,
    pub measures: &'a Measures,
    pub run: &'a mut RunDir,
    pub meter: Meter,
    pub data_sha256: String,
    /// What happens to be trained.
    pub planned: &'a PlannedStage,
    /// Cost so far.
    pub account: &'a Account,
    /// TensorBoard's copy of the scalars.
    pub events: EventWriter,
    /// Moving average of the training loss.
    pub average: Option<f64>,
    /// The step last saved, or restored.
    pub saved: Option<u64>,
}

impl Observer for Watcher<'_> {
    fn after_step(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()> {
        let config = &self.loaded.recipe.train;
        let average = self.average.map_or(report.loss, |old| {
            (1.0 - NEWEST) * old + NEWEST * report.loss
        });
        if report.loss.is_finite() {
            self.average = Some(average);
        }
        let mfu = self.mfu(report);
        // Here, rather than when the run goes back: which checkpoint it went back to would tell
        // a run that was stopped from one that was not.
        if trainee.left_out.contains(&(report.step - 1)) {
            let step = report.step;
            let event = json!({ "event": "roll-back", "step": step, "diverged_at": step });
            self.run.log(&event)?;
        }
        self.log(report, mfu)?;
        self.show(report, average, mfu);
        self.measure(report.step, trainee)
            .map_err(|error| match error {
                // What is missing is made up for when the run goes on.
                Error::Interrupted { .. } => self.stop(trainee),
                error => error,
            })?;
        if config.is_due(config.save_every_tokens, report.step) {
            self.save(trainee)?;
        }
        Ok(())
    }

    fn fewer_sequences(&mut self, step: u64, micro_batch: usize) -> Result<()> {
        self.meter.note(&format!(
            "step {}: not enough memory; micro_batch = {micro_batch} from here on",
            step + 1
        ));
        self.run.log(&json!({
            "event": "micro-batch",
            "step": step,
            "micro_batch": micro_batch,
        }))
    }

    fn stop(&mut self, trainee: &Trainee) -> Error {
        match self.save(trainee) {
            Ok(()) => self.stopped(trainee.step),
            Err(error) => error,
        }
    }
}

impl Watcher<'_> {
    /// After a signal, with a checkpoint of `step`.
    pub fn stopped(&self, step: u64) -> Error {
        let steps = self.account.steps();
        Error::Interrupted {
            message: format!("saved at step {step} of {steps}"),
            hint: Some("the same command goes on from there".into()),
        }
    }

    /// Publishes a checkpoint, unless this step has one, and prunes old ones.
    pub fn save(&mut self, trainee: &Trainee) -> Result<()> {
        if self.saved == Some(trainee.step) {
            return Ok(());
        }
        let config = &self.loaded.recipe.train;
        let state = TrainerState {
            step: trainee.step,
            tokens: trainee.step * config.batch_tokens,
            data_sha256: self.data_sha256.clone(),
            recipe_sha256: self.loaded.recipe.identity(),
            tool_version: VERSION.to_owned(),
            optimizer_steps: Default::default(),
            left_out: trainee.left_out.clone(),
            // What is chosen for a step is logged anew with it.
            micro_batch: trainee.micro_batch.filter(|_| trainee.step > 0),
        };
        let mut extra = vec![(RECIPE_FILE, self.loaded.text.clone().into_bytes())];
        extra.extend(self.start.tokenizer.embedded_files());
        if let Some(growth) = self.growth_record() {
            extra.push((GROWTH_FILE, growth));
        }
        // Metrics first: a checkpoint never stands ahead of them.
        self.run.sync_metrics()?;
        self.events.flush()?;
        state::save(
            &self.run.checkpoint_path(trainee.step),
            trainee,
            &self.start.config.with_n_layer(self.planned.n_layer),
            &self.start.companions,
            state,
            &extra,
        )?;
        self.saved = Some(trainee.step);
        self.run.prune(config.keep)
    }

    /// Validates and scores, where that is due.
    fn measure(&mut self, step: u64, trainee: &Trainee) -> Result<()> {
        if self.validates_after(step) {
            self.validate(step, trainee)?;
        }
        if self.scores_after(step) {
            self.score(step, trainee)?;
        }
        Ok(())
    }

    /// Writes a step to the metrics, with what the run has cost by then.
    fn log(&mut self, report: &StepReport, mfu: Option<f64>) -> Result<()> {
        let mut event = serde_json::to_value(report).expect("a report serializes");
        let cost = self.account.at(report.step);
        event["flops"] = cost.flops.into();
        event["layer_passes"] = cost.layer_passes.into();
        let mut scalars = vec![
            ("train/loss", report.loss),
            ("train/grad_norm", report.grad_norm),
            ("train/lr", report.lr),
            ("cost/flops", cost.flops),
        ];
        if let Some(mfu) = mfu {
            event["mfu"] = mfu.into();
            scalars.push(("speed/mfu", mfu));
        }
        self.run.log(&event)?;
        for (tag, value) in scalars {
            self.events.scalar(report.step, tag, value as f32)?;
        }
        match &report.wakeup {
            Some(wakeup) => self.watch_waking(report.step, wakeup),
            None => Ok(()),
        }
    }

    /// Model FLOPs utilization of a step, where the recipe knows the device's peak.
    fn mfu(&self, report: &StepReport) -> Option<f64> {
        let peak = self.loaded.recipe.peak_flops?;
        let flops = self.account.flops_of_step(report.step - 1);
        Some(ledger::mfu(flops / report.elapsed_s, peak))
    }

    fn show(&mut self, report: &StepReport, average: f64, mfu: Option<f64>) {
        let batch_tokens = self.loaded.recipe.train.batch_tokens;
        let rate = thousands((batch_tokens as f64 / report.elapsed_s) as u64);
        let StepReport {
            loss,
            grad_norm,
            lr,
            ..
        } = report;
        let [loss, average] = [*loss, average].map(|loss| figure(loss, 4));
        let norm = figure(*grad_norm, 2);
        let mfu = mfu.map_or_else(String::new, |mfu| format!(" mfu {:.1}%", 100.0 * mfu));
        self.meter.message(format!(
            "loss {loss} (avg {average}) norm {norm} lr {lr:.2e} {rate} tok/s{mfu}"
        ));
        if report.skipped {
            let step = report.step;
            self.meter.note(&format!(
                "step {step}: left out, loss {loss} norm {grad_norm}"
            ));
        }
        self.meter.advance(1);
    }

    /// At the end of the wake-up check, says which trained blocks still get no gradient.
    fn watch_waking(&mut self, step: u64, wakeup: &WakeUp) -> Result<()> {
        let stage = &self.planned.stage;
        if step != stage.first_step + stage.wakeup_steps.min(stage.steps) {
            return Ok(());
        }
        let dead = wakeup.dead(|name| stage.trains(name, step - 1));
        for (layer, why) in &dead {
            self.meter.note(&format!(
                "warning: block {layer} has not woken by step {step}: {why}"
            ));
        }
        let layers: Vec<usize> = dead.into_iter().map(|(layer, _)| layer).collect();
        self.run
            .log(&json!({ "event": "woken", "step": step, "dead": layers }))
    }

    /// The record of the newest growth, if there was one.
    fn growth_record(&self) -> Option<Vec<u8>> {
        let later = (1..=self.planned.stage.index).rev();
        let names = later.map(|index| growth_file(index + 1));
        names
            .chain([format!("{GROWN_DIR}/{GROWTH_FILE}")])
            .find_map(|name| std::fs::read(self.run.path().join(name)).ok())
            .or_else(|| self.start.source_growth())
    }

    /// Measures the validation loss after `step` steps.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal.
    fn validate(&mut self, step: u64, trainee: &Trainee) -> Result<()> {
        let val = self.measures.val_loss(&trainee.model.valid())?;
        let tokens = step * self.loaded.recipe.train.batch_tokens;
        self.run
            .log(&json!({ "step": step, "tokens": tokens, "val_loss": val.loss }))?;
        self.events.scalar(step, "val/loss", val.loss as f32)?;
        let trained = self.average.map_or_else(String::new, |average| {
            format!("train loss {}, ", figure(average, 4))
        });
        self.meter.note(&format!(
            "step {step}: {}, {trained}val loss {}",
            counted(thousands(tokens), "token", "tokens"),
            figure(val.loss, 4)
        ));
        Ok(())
    }

    /// Scores the model on the recipe's tasks after `step` steps.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal.
    fn score(&mut self, step: u64, trainee: &Trainee) -> Result<()> {
        let scores = self.measures.task_scores(&trainee.model.valid())?;
        let tokens = step * self.loaded.recipe.train.batch_tokens;
        let scores: Vec<&TaskScore> = scores.iter().collect();
        let lines = report::lines(&scores);
        let mut logged = Vec::with_capacity(lines.len());
        for line in &lines {
            let (task, protocol) = (&line.name, line.protocol);
            let mut entry = json!({ "task": task, "protocol": protocol, "n": line.n });
            for metric in &line.metrics {
                entry[&metric.name] = metric.value.into();
                let tag = format!("{task}/{}", metric.name);
                self.events.scalar(step, &tag, metric.value as f32)?;
            }
            let shown: Vec<String> = line
                .metrics
                .iter()
                .map(|metric| format!("{} {}", metric.name, shown(metric, line.n)))
                .collect();
            self.meter.note(&format!(
                "step {step}: {task} (protocol {protocol}, {}) {}",
                line.count(),
                shown.join(", ")
            ));
            logged.push(entry);
        }
        self.run
            .log(&json!({ "step": step, "tokens": tokens, "tasks": logged }))
    }

    /// Announces a stage, in the metrics and, where there are several, on the screen.
    pub fn begin(&mut self, description: &Value, several: bool) -> Result<()> {
        if several {
            self.meter.note(&format!(
                "stage {}: {}, {}, {}",
                self.planned.stage.index + 1,
                self.planned.name,
                counted(self.planned.stage.steps, "step", "steps"),
                counted(self.planned.n_layer, "block", "blocks")
            ));
        }
        self.run.log(description)
    }

    /// Makes up for what was due when the run was stopped. It is owed to the model as it was
    /// saved: the next stage may grow it.
    pub fn make_up_for(&mut self, trainee: &Trainee) -> Result<()> {
        let step = trainee.step;
        if step > 0 && self.validates_after(step) && !self.run.has_logged(step, "val_loss")? {
            self.validate(step, trainee)?;
        }
        if step > 0 && self.scores_after(step) && !self.run.has_logged(step, "tasks")? {
            self.score(step, trainee)?;
        }
        Ok(())
    }

    /// Whether a validation follows step number `step`; the last one is scored anyway.
    fn validates_after(&self, step: u64) -> bool {
        let config = &self.loaded.recipe.train;
        config.is_due(config.eval_every_tokens, step) && step != self.account.steps()
    }

    /// Whether the tasks follow step number `step`.
    fn scores_after(&self, step: u64) -> bool {
        let recipe = &self.loaded.recipe;
        recipe.train.is_due(recipe.eval.every_tokens, step) && step != self.account.steps()
    }
}
