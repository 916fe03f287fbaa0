//! A run as a list of stages.
//!
//! A stage is a depth, perhaps reached by growth, a set of trainable parameters, a token
//! budget, a learning-rate schedule and an optimizer policy. From-scratch training is one
//! stage; the incremental training of arXiv 2411.18700, gradual stacking, MSLT and training
//! the new blocks before all of them are several. Everything here follows from the recipe and
//! the depth of the source, before anything is computed or written.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::checkpoint::Gpt2Config;
use crate::error::{Error, Result, counted, thousands};
use crate::growth::{Asked, GrowConfig, GrowthPlan};
use crate::settings::UNLOCATED;
use crate::train::optimizer::{BlockOrigin, OptimizerPolicy};
use crate::train::schedule::{Schedule, Shape};
use crate::train::select::{self, Scope};
use crate::train::{MAX_TOKENS, ScheduleOver, Stage, TrainConfig, check_rate};

/// A `[[stage]]` of a recipe. What it leaves open is taken from `[train]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// What it is called in tables.
    pub name: Option<String>,
    /// Its tokens, rounded up to whole steps; with `depths`, at each.
    pub tokens: u64,
    /// Runs the stage at each of these depths, growing where the model is shallower. Stages
    /// beside each other with the same list take turns at every depth.
    pub depths: Option<Vec<usize>>,
    /// How it grows before it starts; the depth comes from `depths`, or from `to` or a plan.
    pub grow: Option<GrowConfig>,
    /// What becomes of the optimizer's moments.
    pub optimizer: Option<OptimizerPolicy>,
    /// What is trained.
    pub trainable: Option<Vec<String>>,
    /// From this many tokens on, everything is trained.
    pub unfreeze_at_tokens: Option<u64>,
    /// Factors on the learning rate by selector.
    pub lr_scale: Option<BTreeMap<String, f64>>,
    /// Peak learning rate.
    pub lr: Option<f64>,
    /// Final learning rate.
    pub min_lr: Option<f64>,
    /// Shape of the schedule.
    pub schedule: Option<Shape>,
    /// Tokens of linear warm-up.
    pub warmup_tokens: Option<u64>,
    /// Tokens of decay at the end of `wsd`.
    pub decay_tokens: Option<u64>,
}

/// A stage with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStage {
    /// What it is called in tables.
    pub name: String,
    /// Blocks of its model.
    pub n_layer: usize,
    /// The growth before it.
    pub growth: Option<GrowthPlan>,
    /// What becomes of the moments before it; none leaves them alone.
    pub optimizer: Option<OptimizerPolicy>,
    /// Blocks that the last growth added.
    pub new_layers: BTreeSet<usize>,
    /// What the training loop needs.
    pub stage: Stage,
}

impl PlannedStage {
    /// Where each of its blocks comes from in the stage before.
    pub fn block_origins(&self) -> Vec<BlockOrigin> {
        match &self.growth {
            None => (0..self.n_layer)
                .map(|layer| BlockOrigin {
                    source: Some(layer),
                    kept: true,
                })
                .collect(),
            Some(plan) => plan
                .slots
                .iter()
                .enumerate()
                .map(|(layer, slot)| BlockOrigin {
                    source: plan.only_source(layer),
                    kept: slot.is_kept(),
                })
                .collect(),
        }
    }
}

/// What a run starts from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// Architecture of the source, or of the model drawn from scratch.
    pub config: &'a Gpt2Config,
    /// Blocks that count as new before any growth: those that an earlier growth added, and
    /// all of a model from scratch.
    pub new_layers: BTreeSet<usize>,
}

/// Resolves the stages of a run. `grow` is the recipe's own `[grow]`, before the first stage.
///
/// # Errors
/// Says which stage cannot be run, and why.
pub fn plan(
    train: &TrainConfig,
    stages: &[StageConfig],
    grow: Option<&GrowConfig>,
    origin: &Origin<'_>,
) -> Result<Vec<PlannedStage>> {
    let mut expanded = expand(train, stages).map_err(invalid)?;
    if let Some(grow) = grow {
        let first = &mut expanded[0].1;
        if first.grow.is_some() {
            let message = "[grow] and the first stage's grow exclude each other";
            return Err(invalid(message.into()));
        }
        first.grow = Some(grow.clone());
    }
    let whole_steps = |tokens: u64| tokens.div_ceil(train.batch_tokens) * train.batch_tokens;
    let total = expanded
        .iter()
        .map(|(_, stage)| whole_steps(stage.tokens.min(MAX_TOKENS)))
        .sum();
    let mut planner = Planner {
        train,
        table: if stages.is_empty() { "train." } else { "" },
        total_tokens: total,
        n_layer: origin.config.n_layer,
        new_layers: origin.new_layers.clone(),
        planned: Vec::new(),
    };
    let staged = !stages.is_empty();
    for (depth, stage) in &expanded {
        let number = planner.planned.len() + 1;
        let add = planner.add(stage, *depth, origin.config);
        add.map_err(|error| match error {
            Error::Invalid { at, message, hint } if staged => Error::Invalid {
                at,
                message: format!("stage {number}: {message}"),
                hint,
            },
            error => error,
        })?;
    }
    check_words(train, stages, &planner.planned)?;
    Ok(planner.planned)
}

/// Refuses `new` or `old` where no stage of the run has such blocks. In a single stage they may
/// be none: what `[train]` says holds for all.
fn check_words(
    train: &TrainConfig,
    stages: &[StageConfig],
    planned: &[PlannedStage],
) -> Result<()> {
    let lists = stages.iter().filter_map(|stage| stage.trainable.as_ref());
    let tables = stages.iter().filter_map(|stage| stage.lr_scale.as_ref());
    let named: BTreeSet<(&str, &str)> = lists
        .chain([&train.trainable])
        .flatten()
        .map(|word| ("trainable", word.as_str()))
        .chain(
            tables
                .chain([&train.lr_scale])
                .flatten()
                .map(|(word, _)| ("lr_scale", word.as_str())),
        )
        .collect();
    let has_new = planned.iter().any(|stage| !stage.new_layers.is_empty());
    let has_old = planned
        .iter()
        .any(|stage| stage.new_layers.len() < stage.n_layer);
    for (key, word) in named {
        if word == "new" && !has_new || word == "old" && !has_old {
            let table = if stages.is_empty() { "train." } else { "" };
            return Err(at_key(&format!("{table}{key}"))(select::selects_nothing(
                word,
            )));
        }
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::invalid(UNLOCATED, message)
}

/// An error of what a key says.
fn at_key(key: &str) -> impl Fn(Error) -> Error {
    let key = key.to_owned();
    move |error| Error::Invalid {
        at: UNLOCATED.into(),
        message: format!("{key}: {error}"),
        hint: error.hint().map(str::to_owned),
    }
}

/// Every stage at every depth, in order; without stages, the one that `[train]` describes.
fn expand(
    train: &TrainConfig,
    stages: &[StageConfig],
) -> Result<Vec<(Option<usize>, StageConfig)>, String> {
    match (train.tokens, stages) {
        (None, []) => return Err("train.tokens is missing, and there is no [[stage]]".into()),
        (Some(_), [_, ..]) => {
            return Err(
                "train.tokens and [[stage]] exclude each other: give every stage its tokens".into(),
            );
        }
        (Some(tokens), []) => {
            let stage = StageConfig {
                tokens,
                ..StageConfig::default()
            };
            return Ok(vec![(None, stage)]);
        }
        (None, _) => {}
    }
    let mut expanded = Vec::new();
    for turns in stages.chunk_by(|a, b| a.depths.is_some() && a.depths == b.depths) {
        match &turns[0].depths {
            None => expanded.push((None, turns[0].clone())),
            Some(depths) if depths.is_empty() => return Err("`depths` is empty".into()),
            Some(depths) => {
                for &depth in depths {
                    expanded.extend(turns.iter().map(|stage| (Some(depth), stage.clone())));
                }
            }
        }
    }
    Ok(expanded)
}

struct Planner<'a> {
    train: &'a TrainConfig,
    /// What stands before keys of a stage in errors: without stages, they are those of `[train]`.
    table: &'static str,
    total_tokens: u64,
    n_layer: usize,
    new_layers: BTreeSet<usize>,
    planned: Vec<PlannedStage>,
}

impl Planner<'_> {
    /// A key of a stage, as the recipe has it.
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.table)
    }

    /// The error of a key of a stage, with which the message begins.
    fn wrong(&self, message: String) -> Error {
        invalid(self.key(&message))
    }

    fn add(
        &mut self,
        stage: &StageConfig,
        depth: Option<usize>,
        config: &Gpt2Config,
    ) -> Result<()> {
        if !(1..=MAX_TOKENS).contains(&stage.tokens) {
            let message = format!("tokens = {}: expected 1 to {MAX_TOKENS}", stage.tokens);
            return Err(self.wrong(message));
        }
        let growth = self.growth(stage, depth)?;
        if let Some(plan) = &growth {
            self.n_layer = plan.n_layer();
            let new = plan.slots.iter().enumerate().filter(|(_, s)| !s.is_kept());
            self.new_layers = new.map(|(layer, _)| layer).collect();
        }
        let config = config.with_n_layer(self.n_layer);
        let scope = Scope {
            config: &config,
            new_layers: &self.new_layers,
        };
        let trainable = stage.trainable.as_ref().unwrap_or(&self.train.trainable);
        let trainable = scope
            .select(trainable)
            .map_err(at_key(&self.key("trainable")))?;
        let lr_scale = stage.lr_scale.as_ref().unwrap_or(&self.train.lr_scale);
        let lr_scale = scope
            .factors(lr_scale)
            .map_err(at_key(&self.key("lr_scale")))?;
        let index = self.planned.len();
        let first_step = self.planned.last().map_or(0, |last| last.stage.end());
        let steps = stage.tokens.div_ceil(self.train.batch_tokens);
        let (schedule, schedule_from) = self.schedule(stage, first_step, steps)?;
        let unfreeze = stage.unfreeze_at_tokens.or(self.train.unfreeze_at_tokens);
        if let Some(tokens) = unfreeze.filter(|&tokens| tokens >= stage.tokens) {
            let message = format!(
                "unfreeze_at_tokens = {tokens} is beyond its {}",
                counted(stage.tokens, "token", "tokens")
            );
            return Err(self.wrong(message));
        }
        let unfreeze_at =
            unfreeze.map(|tokens| first_step + tokens.div_ceil(self.train.batch_tokens));
        let grows = growth.is_some();
        let policy = stage
            .optimizer
            .or(self.train.optimizer.filter(|_| grows || index == 0));
        self.planned.push(PlannedStage {
            name: name(stage, depth, index),
            n_layer: self.n_layer,
            // The first stage has no moments to take along unless it is told to.
            optimizer: policy.or((grows && index > 0).then_some(OptimizerPolicy::ZeroNew)),
            growth,
            new_layers: self.new_layers.clone(),
            stage: Stage {
                index,
                first_step,
                steps,
                schedule,
                schedule_from,
                trainable,
                unfreeze_at,
                lr_scale,
                wakeup_steps: if grows { self.train.wakeup_steps } else { 0 },
            },
        });
        Ok(())
    }

    fn growth(&self, stage: &StageConfig, depth: Option<usize>) -> Result<Option<GrowthPlan>> {
        let to = match (depth, &stage.grow) {
            (Some(_), Some(grow)) if grow.to.is_some() => {
                return Err(invalid("`depths` and grow.to exclude each other".into()));
            }
            (Some(depth), _) if depth < self.n_layer => {
                return Err(invalid(format!(
                    "depth {depth} is below the {} the model has by then",
                    counted(self.n_layer, "block", "blocks")
                )));
            }
            (Some(depth), _) if depth == self.n_layer => return Ok(None),
            (depth, _) => depth,
        };
        let grow = match (&stage.grow, to) {
            (None, None) => return Ok(None),
            (grow, Some(_)) => GrowConfig {
                to,
                ..grow.clone().unwrap_or_default()
            },
            (Some(grow), None) => grow.clone(),
        };
        let plan = grow.resolve(self.n_layer, Asked::ByRecipe);
        plan.map(Some).map_err(|error| error.within(UNLOCATED))
    }

    /// The schedule, and the tokens of the run that it does not count.
    fn schedule(
        &self,
        stage: &StageConfig,
        first_step: u64,
        steps: u64,
    ) -> Result<(Schedule, u64)> {
        let train = self.train;
        let (total_tokens, from) = match train.schedule_over {
            ScheduleOver::Stage => (steps * train.batch_tokens, first_step * train.batch_tokens),
            ScheduleOver::Run => (self.total_tokens, 0),
        };
        let lr = stage.lr.unwrap_or(train.lr);
        let min_lr = stage.min_lr.or(train.min_lr).unwrap_or(lr / 10.0);
        for (key, rate) in [("lr", lr), ("min_lr", min_lr)] {
            check_rate(key, rate).map_err(|message| self.wrong(message))?;
        }
        if min_lr > lr {
            return Err(self.wrong(format!("min_lr = {min_lr} is above lr = {lr}")));
        }
        let shape = stage.schedule.unwrap_or(train.schedule);
        let own = stage.schedule.is_some() || stage.warmup_tokens.is_some();
        if train.schedule_over == ScheduleOver::Run && (own || stage.decay_tokens.is_some()) {
            return Err(self.wrong("schedule_over = \"run\" leaves a stage no schedule, warmup_tokens or decay_tokens of its own".into()));
        }
        let decay_tokens = stage.decay_tokens.or(train.decay_tokens);
        if decay_tokens.is_some() && shape != Shape::Wsd {
            return Err(self.wrong("decay_tokens belongs to schedule = \"wsd\"".into()));
        }
        let warmup_tokens = stage.warmup_tokens.unwrap_or(train.warmup_tokens);
        let within = warmup_tokens.saturating_add(decay_tokens.unwrap_or(0));
        if within > 0 && within >= total_tokens {
            return Err(nothing_left(train, stage, total_tokens));
        }
        let schedule = Schedule {
            shape,
            lr,
            min_lr,
            warmup_tokens,
            decay_tokens: decay_tokens.unwrap_or(total_tokens / 10),
            total_tokens,
        };
        Ok((schedule, from))
    }
}

/// The error of a warm-up and a decay that leave none of the tokens of a schedule between them.
fn nothing_left(train: &TrainConfig, stage: &StageConfig, total_tokens: u64) -> Error {
    let amounts = [
        (
            "warmup_tokens",
            stage.warmup_tokens,
            Some(train.warmup_tokens),
        ),
        ("decay_tokens", stage.decay_tokens, train.decay_tokens),
    ];
    let mut given: Vec<(String, u64)> = Vec::new();
    for (key, own, shared) in amounts {
        let found = match (own, shared) {
            (Some(tokens), _) => Some((key.to_owned(), tokens)),
            (None, tokens) => tokens.map(|tokens| (format!("train.{key}"), tokens)),
        };
        given.extend(found.filter(|&(_, tokens)| tokens > 0));
    }
    let named = given
        .iter()
        .map(|(key, tokens)| format!("{key} = {}", thousands(*tokens)));
    let named: Vec<String> = named.collect();
    let message = format!(
        "{} {} nothing of the {} of the schedule",
        named.join(" and "),
        if named.len() == 1 { "leaves" } else { "leave" },
        counted(thousands(total_tokens), "token", "tokens")
    );
    let keys: Vec<&str> = given.iter().map(|(key, _)| key.as_str()).collect();
    let mut hint = format!("set {} lower", keys.join(" or "));
    // A key of a stage stands in its table.
    if let Some(key) = keys.first().filter(|key| key.starts_with("train.")) {
        hint += &format!(", for example --set {key}=0");
    }
    invalid(message).with_hint(hint)
}

fn name(stage: &StageConfig, depth: Option<usize>, index: usize) -> String {
    let depth = depth.map(|depth| counted(depth, "block", "blocks"));
    match (&stage.name, depth) {
        (Some(name), Some(depth)) => format!("{name}, {depth}"),
        (Some(name), None) => name.clone(),
        (None, Some(depth)) => depth,
        (None, None) => format!("stage {}", index + 1),
    }
}

/// Plans the tables `train`, `grow` and `stage` of a text for a model of `n_layer` blocks.
#[cfg(test)]
pub(crate) fn planned_from(
    n_layer: usize,
    text: &str,
) -> (TrainConfig, Gpt2Config, Result<Vec<PlannedStage>>) {
    #[derive(Deserialize)]
    struct Part {
        train: TrainConfig,
        grow: Option<GrowConfig>,
        #[serde(default)]
        stage: Vec<StageConfig>,
    }
    let text = format!("train.batch_tokens = 100\ntrain.context = 10\ntrain.lr = 1.0\n{text}");
    let part: Part = toml::from_str(&text).expect("a sound test recipe");
    let config = Gpt2Config::new(16, 16, 8, n_layer, 2).expect("a sound shape");
    let origin = Origin {
        config: &config,
        new_layers: (0..n_layer).collect(),
    };
    let planned = plan(&part.train, &part.stage, part.grow.as_ref(), &origin);
    (part.train, config, planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(n_layer: usize, text: &str) -> Result<Vec<PlannedStage>> {
        planned_from(n_layer, text).2
    }

    const INCREMENTAL: &str = r#"
        [[stage]]
        name = "new"
        depths = [1, 2, 4]
        tokens = 250
        trainable = ["new", "embeddings"]
        grow = { placement = "top", init = "random" }
        [[stage]]
        name = "all"
        depths = [1, 2, 4]
        tokens = 100
        [[stage]]
        tokens = 1000
        optimizer = "fresh"
    "#;

    #[test]
    fn stages_with_the_same_depths_take_turns() {
        let stages = planned(1, INCREMENTAL).unwrap();
        let rows: Vec<_> = stages
            .iter()
            .map(|s| {
                (
                    s.name.as_str(),
                    s.n_layer,
                    s.stage.first_step,
                    s.growth.is_some(),
                )
            })
            .collect();
        let expected = [
            ("new, 1 block", 1, 0, false),
            ("all, 1 block", 1, 3, false),
            ("new, 2 blocks", 2, 4, true),
            ("all, 2 blocks", 2, 7, false),
            ("new, 4 blocks", 4, 8, true),
            ("all, 4 blocks", 4, 11, false),
            ("stage 7", 4, 12, false),
        ];
        assert_eq!(rows, expected);
        assert_eq!(stages[6].stage.end(), 22);
    }

    #[test]
    fn phases_train_what_they_name() {
        let stages = planned(1, INCREMENTAL).unwrap();
        let trains = |stage: usize, name: &str| stages[stage].stage.trains(name, 0);
        assert!(trains(0, "h.0.ln_1.bias") && trains(0, "wpe.weight") && !trains(0, "ln_f.bias"));
        assert!(!trains(2, "h.0.ln_1.bias") && trains(2, "h.1.ln_1.bias"));
        assert!(trains(3, "h.0.ln_1.bias") && trains(3, "ln_f.bias"));
        assert!(!trains(4, "h.1.ln_1.bias") && trains(4, "h.3.ln_1.bias"));
        let policies: Vec<_> = stages.iter().map(|s| s.optimizer).collect();
        let (zero_new, fresh) = (Some(OptimizerPolicy::ZeroNew), Some(OptimizerPolicy::Fresh));
        assert_eq!(
            policies,
            [None, None, zero_new, None, zero_new, None, fresh]
        );
    }

    #[test]
    fn a_schedule_spans_a_stage_or_the_run() {
        let two = "[[stage]]\ntokens = 1000\n[[stage]]\ntokens = 1000\n";
        let lr =
            |text: &str, stage: usize, step| planned(2, text).unwrap()[stage].stage.lr(step, 100);
        assert_eq!((lr(two, 0, 0), lr(two, 1, 10)), (1.0, 1.0));
        let run = format!("train.schedule_over = \"run\"\n{two}");
        assert_eq!(lr(&run, 0, 0), 1.0);
        assert!((lr(&run, 1, 10) - 0.55).abs() < 1e-9);
    }

    #[test]
    fn unfreezing_is_counted_from_the_stage() {
        let text = "[[stage]]\ntokens = 500\n[[stage]]\ntokens = 500\ntrainable = [\"ln_f\"]\nunfreeze_at_tokens = 200\n";
        let stages = planned(2, text).unwrap();
        let trains = |step| stages[1].stage.trains("wte.weight", step);
        assert_eq!((trains(6), trains(7)), (false, true));
    }

    #[test]
    fn stages_that_cannot_be_are_named() {
        for (text, word) in [
            ("", "train.tokens is missing"),
            (
                "train.tokens = 5\n[[stage]]\ntokens = 5\n",
                "exclude each other",
            ),
            ("[[stage]]\ntokens = 0\n", "stage 1: tokens"),
            (
                "[[stage]]\ntokens = 5\n[[stage]]\ntokens = 5\ndepths = [1]\n",
                "stage 2: depth 1 is below",
            ),
            ("[[stage]]\ntokens = 5\ndepths = []\n", "`depths` is empty"),
            (
                "[[stage]]\ntokens = 5\ndepths = [4]\ngrow = { to = 4 }\n",
                "exclude each other",
            ),
            (
                "[[stage]]\ntokens = 5\ntrainable = [\"hh\"]\n",
                "`hh` matches no parameter",
            ),
            ("[[stage]]\ntokens = 5\nlr = nan\n", "stage 1: lr = NaN"),
            (
                "train.tokens = 5\n[grow]\nto = 2\n",
                "grow.to = 2 is not deeper",
            ),
            ("train.tokens = 5\n[grow]\n", "give grow.to"),
            (
                "[[stage]]\ntokens = 5\ngrow = { to = 4, placement = \"top\", init = \"interpolate\" }\n",
                "stage 1: grow.init: interpolate stands between two kept blocks",
            ),
        ] {
            let error = planned(2, text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
