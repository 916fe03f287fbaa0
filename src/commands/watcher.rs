//! Watches a training run: logs, validates, saves.

use burn::tensor::Device;
use scale_ckpt::checkpoint::Gpt2Config;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::progress::Meter;
use scale_ckpt::recipe::LoadedRecipe;
use scale_ckpt::run::RunDir;
use scale_ckpt::train::state::{self, TrainerState};
use scale_ckpt::train::{Observer, StepReport, Trainee};
use scale_ckpt::{Error, Result, VERSION};
use serde_json::json;

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
    /// Moving average of the training loss.
    pub average: Option<f64>,
    /// The step last saved.
    pub saved: Option<u64>,
}

impl Observer for Watcher<'_> {
    fn after_step(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()> {
        let config = &self.loaded.recipe.train;
        let average = self.average.map_or(report.loss, |old| {
            (1.0 - NEWEST) * old + NEWEST * report.loss
        });
        self.average = Some(average);
        self.run.log(report)?;
        let rate = thousands((config.batch_tokens as f64 / report.elapsed_s) as u64);
        let StepReport {
            loss,
            grad_norm,
            lr,
            ..
        } = report;
        self.meter.message(format!(
            "loss {loss:.4} (avg {average:.4}) norm {grad_norm:.2} lr {lr:.2e} {rate} tok/s"
        ));
        self.meter.advance(1);
        let last = report.step == config.steps();
        if config.is_due(config.eval_every_tokens, report.step) && !last {
            self.validate(report, trainee)?;
        }
        if config.is_due(config.save_every_tokens, report.step) {
            self.save(trainee)?;
        }
        Ok(())
    }

    fn save(&mut self, trainee: &Trainee) -> Result<()> {
        if self.saved == Some(trainee.step) {
            return Ok(());
        }
        let config = &self.loaded.recipe.train;
        let state = TrainerState {
            step: trainee.step,
            tokens: trainee.step * config.batch_tokens,
            data_sha256: self.data_sha256.clone(),
            recipe_sha256: self.loaded.sha256.clone(),
            tool_version: VERSION.to_owned(),
            optimizer_steps: Default::default(),
        };
        let mut extra = vec![("recipe.toml", self.loaded.text.clone().into_bytes())];
        extra.extend(self.start.tokenizer.embedded_files());
        if let Ok(growth) = std::fs::read(self.run.path().join("grown/growth.json")) {
            extra.push(("growth.json", growth));
        }
        let destination = self.run.checkpoint_path(trainee.step);
        state::save(
            &destination,
            trainee,
            &self.start.config,
            self.start.tokenizer_dir.as_deref(),
            state,
            &extra,
        )?;
        self.saved = Some(trainee.step);
        self.run.prune(config.keep)
    }
}

impl Watcher<'_> {
    fn validate(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()> {
        let model = without_autodiff(&trainee.model, &self.start.config, &self.measures.device)?;
        let val = match self.measures.val_loss(&model) {
            Ok(Some(val)) => val,
            // A signal: the loop sees it as well, and saves.
            Ok(None) | Err(Error::Interrupted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (step, tokens) = (report.step, report.tokens);
        self.run
            .log(&json!({ "step": step, "tokens": tokens, "val_loss": val.loss }))?;
        let average = self.average.unwrap_or(report.loss);
        self.meter.note(&format!(
            "step {step}: {} tokens, train loss {average:.4}, val loss {:.4}",
            thousands(tokens),
            val.loss
        ));
        Ok(())
    }
}

/// The same weights without gradient tracking.
pub fn without_autodiff(model: &Gpt2, config: &Gpt2Config, device: &Device) -> Result<Gpt2> {
    weights::copy_to(model, config, &device.clone().inner())
}
