//! The recipe of a comparison.
//!
//! ```toml
//! out = "runs/compare"
//! seeds = [1, 2, 3]
//!
//! [budget]
//! flops = 3e13              # or layer_passes, tokens, seconds, or { arm, ledger }
//!
//! [base]                    # what all arms share: tables of a recipe
//! [base.data]
//! train = ["data/novels"]
//!
//! [[arm]]
//! name = "grown"
//! set = { grow = { to = 8 } }
//! ```
//!
//! An arm is `[base]` with what it sets. One with a `recipe` starts from that file and takes
//! from `[base]` all but `model`, `grow` and `stage`, which are its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::budget::{Fit, Ledger, scale};
use super::folder::Keep;
use crate::device::DeviceSpec;
use crate::error::{Error, Result};
use crate::home;
use crate::recipe::{self, LoadedRecipe, Recipe};
use crate::settings::Kind;

/// Tables that are replaced as a whole, since their keys exclude each other.
const WHOLE: [&str; 3] = ["model", "grow", "stage"];

/// A comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareConfig {
    /// The folder of runs and reports.
    #[serde(deserialize_with = "home::deserialize")]
    pub out: PathBuf,
    /// What the report is called.
    pub title: Option<String>,
    /// Seeds of every arm; 1337 alone unless given.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// The arm that all others are compared with; the first unless given.
    pub control: Option<String>,
    /// `cpu`, `cuda` or `cuda:N`; `--device` wins.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Validation losses along every run, at equal distances.
    #[serde(default = "default_points")]
    pub points: u64,
    /// Scores on the tasks along every run; only before and after training unless given.
    pub task_points: Option<u64>,
    /// What every arm may spend.
    pub budget: BudgetConfig,
    /// A search for the learning rate, before the runs that count.
    pub sweep: Option<SweepConfig>,
    /// What all arms share: tables of a recipe.
    #[serde(default)]
    pub base: toml::Table,
    /// Which models of the runs are kept: `needed` or `all`.
    #[serde(default)]
    pub keep: Keep,
    /// The arms.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
}

fn default_seeds() -> Vec<u64> {
    vec![1337]
}

fn default_points() -> u64 {
    20
}

/// What every arm may spend on training: one of the amounts, or what an arm's own tokens cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Floating-point operations.
    pub flops: Option<f64>,
    /// Passes of a token through a block, as arXiv 2411.18700 counts.
    pub layer_passes: Option<f64>,
    /// Tokens.
    pub tokens: Option<f64>,
    /// Time of training steps on this machine, as timed passes estimate it.
    pub seconds: Option<f64>,
    /// As much as this arm spends on the tokens of its recipe.
    pub arm: Option<String>,
    /// Counted in this, with `arm`.
    pub ledger: Option<Ledger>,
}

/// How much is to be spent.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    /// So much.
    Of(f64),
    /// What the tokens of this arm's own recipe cost.
    AsArm(String),
}

impl BudgetConfig {
    /// The ledger, and the amount in it.
    ///
    /// # Errors
    /// Says what is missing or contradictory.
    pub fn resolve(&self) -> Result<(Ledger, Amount), String> {
        let amounts = [
            (Ledger::Flops, self.flops),
            (Ledger::LayerPasses, self.layer_passes),
            (Ledger::Tokens, self.tokens),
            (Ledger::Seconds, self.seconds),
        ];
        let given = amounts.iter().filter_map(|&(l, a)| Some((l, a?)));
        let given: Vec<(Ledger, f64)> = given.collect();
        match (given.as_slice(), &self.arm, self.ledger) {
            (&[(ledger, amount)], None, None) => {
                if !(amount.is_finite() && amount > 0.0) {
                    return Err(format!("{} = {amount} must be above 0", ledger.name()));
                }
                Ok((ledger, Amount::Of(amount)))
            }
            ([], Some(arm), ledger) => Ok((ledger.unwrap_or_default(), Amount::AsArm(arm.clone()))),
            ([_], None, Some(_)) => Err("`ledger` belongs to `arm`: an amount says its own".into()),
            _ => Err(
                "give one of flops, layer_passes, tokens and seconds, or an arm whose cost it is"
                    .into(),
            ),
        }
    }
}

/// A search for the learning rate of every arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Factors on every learning rate of the arm's recipe.
    pub lr_factors: Vec<f64>,
    /// The part of the arm's budget that each try gets.
    pub share: f64,
}

/// An arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// What it is called, also in names of files.
    pub name: String,
    /// What it is, in a sentence, for the report.
    pub about: Option<String>,
    /// A recipe that it starts from.
    #[serde(default, deserialize_with = "home::deserialize")]
    pub recipe: Option<PathBuf>,
    /// Whether it may spend what the source cost as well: for arms that do not use the source.
    #[serde(default)]
    pub total: bool,
    /// Which stages take up the budget.
    #[serde(default)]
    pub fit: Fit,
    /// Whether its learning rate is searched for, where the others' are.
    #[serde(default = "yes")]
    pub sweep: bool,
    /// Tables and keys of its recipe.
    #[serde(default)]
    pub set: toml::Table,
}

fn yes() -> bool {
    true
}

impl CompareConfig {
    /// Reads a comparison; `overrides` are as for recipes.
    ///
    /// # Errors
    /// As [`recipe::load_any`], or its numbers and names do not go together.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let (config, _): (Self, String) = recipe::load_any(Kind::Comparison, path, overrides)?;
        let checked = config.check();
        checked.map_err(|message| recipe::value_error(path, overrides, message))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.arms.is_empty() {
            return Err("there is no [[arm]]".into());
        }
        let names: Vec<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
        check_names("arm", &names)?;
        let known = |name: &String| self.arms.iter().any(|arm| arm.name == *name);
        for (key, name) in [("control", &self.control), ("budget.arm", &self.budget.arm)] {
            if let Some(name) = name.as_ref().filter(|name| !known(name)) {
                return Err(format!("{key} = \"{name}\": there is no such arm"));
            }
        }
        if self.seeds.is_empty() {
            return Err("`seeds` is empty".into());
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() < self.seeds.len() {
            return Err("`seeds` names a seed twice".into());
        }
        if self.points == 0 || self.task_points == Some(0) {
            return Err("points and task_points must be at least 1".into());
        }
        if let Some(sweep) = &self.sweep {
            let sound = |x: f64| x.is_finite() && x > 0.0;
            if sweep.lr_factors.is_empty() || !sweep.lr_factors.iter().all(|&x| sound(x)) {
                return Err("sweep.lr_factors must be numbers above 0, at least one".into());
            }
            if !(sound(sweep.share) && sweep.share <= 1.0) {
                return Err(format!("sweep.share = {} is not in (0, 1]", sweep.share));
            }
        }
        self.budget
            .resolve()
            .map_err(|message| format!("[budget]: {message}"))?;
        Ok(())
    }

    /// The arm that the others are compared with.
    pub fn control(&self) -> &str {
        self.control.as_deref().unwrap_or(&self.arms[0].name)
    }

    /// The recipe of an arm, before it has a budget.
    ///
    /// # Errors
    /// Its recipe cannot be read, or does not make one with `[base]`.
    pub fn recipe_of(&self, arm: &Arm) -> Result<Recipe> {
        let at = format!("arm `{}`", arm.name);
        let mut table = self.table_of(arm)?;
        let placeholder = self.out.join(&arm.name).display().to_string();
        table.insert("out".into(), placeholder.into());
        let staged = table.contains_key("stage");
        if let Some(train) = table.get_mut("train").and_then(toml::Value::as_table_mut) {
            // The budget decides.
            if staged {
                train.remove("tokens");
            } else if !train.contains_key("tokens") {
                let needed = match (&self.budget.arm, arm.fit) {
                    (Some(name), _) if *name == arm.name => Some("it is the budget of all"),
                    (_, Fit::Scale) => Some("fit = \"scale\" keeps proportions"),
                    _ => None,
                };
                if let Some(needed) = needed {
                    let message = format!("it has no train.tokens and no stages, but {needed}");
                    return Err(Error::invalid(at, message).with_hint("give it train.tokens"));
                }
                train.insert("tokens".into(), 1.into());
            }
        }
        let origins = [("base", &self.base), ("set", &arm.set)];
        recipe::of_table(&table, &at, &origins)
    }

    /// The tables of an arm's recipe.
    fn table_of(&self, arm: &Arm) -> Result<toml::Table> {
        let mut table = match &arm.recipe {
            Some(path) => recipe::read_table(path)?,
            None => toml::Table::new(),
        };
        let mut base = self.base.clone();
        if arm.recipe.is_some() {
            WHOLE.iter().for_each(|key| drop(base.remove(*key)));
        }
        overlay(&mut table, &base, true);
        overlay(&mut table, &arm.set, true);
        Ok(table)
    }
}

/// Refuses names that stand twice, or cannot become names of files.
pub(super) fn check_names(what: &str, names: &[&str]) -> Result<(), String> {
    for (i, name) in names.iter().enumerate() {
        check_name(what, name)?;
        if names[..i].contains(name) {
            return Err(format!("two {what}s are called `{name}`"));
        }
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if name.is_empty() || name.len() > 60 || !name.chars().all(plain) || name.starts_with('.') {
        let article = if what == "arm" { "an" } else { "a" };
        return Err(format!(
            "{article} {what} is called {name:?}: up to 60 letters, digits and - _ . + are expected"
        ));
    }
    Ok(())
}

/// Puts the values of one table over those of another, key by key in tables within.
pub(super) fn overlay(under: &mut toml::Table, over: &toml::Table, top: bool) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over))
                if !(top && WHOLE.contains(&key.as_str())) =>
            {
                overlay(under, over, false);
            }
            _ => drop(under.insert(key.clone(), value.clone())),
        }
    }
}

/// Multiplies every learning rate.
pub fn scale_lr(recipe: &mut Recipe, factor: f64) {
    recipe.train.lr *= factor;
    recipe.train.min_lr.iter_mut().for_each(|lr| *lr *= factor);
    for stage in &mut recipe.stages {
        stage.lr.iter_mut().for_each(|lr| *lr *= factor);
        stage.min_lr.iter_mut().for_each(|lr| *lr *= factor);
    }
}

/// A short run of an arm, to try a learning rate: everything in proportion, measured at the end
/// alone.
pub fn trial(recipe: &Recipe, share: f64, lr_factor: f64) -> Recipe {
    let mut trial = recipe.clone();
    scale(&mut trial, share);
    scale_lr(&mut trial, lr_factor);
    trial.train.eval_every_tokens = None;
    trial.eval.every_tokens = None;
    trial.eval.tasks.clear();
    trial.eval.data.clear();
    trial.eval.prompt = None;
    trial.train.keep = 1;
    trial
}

/// A recipe as `train` takes it.
pub fn loaded(recipe: Recipe) -> Result<LoadedRecipe> {
    let text = toml::to_string(&recipe).map_err(|e| Error::invalid("recipe", e.to_string()))?;
    recipe::of_text(&text, "recipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        out = "runs/c"
        [budget]
        flops = 1e12
        [base.model]
        from = "./source"
        [base.data]
        train = ["a.txt"]
        val = ["b.txt"]
        [base.train]
        batch_tokens = 64
        context = 8
        lr = 1e-3
        warmup_tokens = 640
    "#;

    fn load(text: &str) -> Result<CompareConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        CompareConfig::load(&path, &[])
    }

    fn with(rest: &str) -> Result<CompareConfig> {
        load(&format!("{BASE}\n{rest}"))
    }

    #[test]
    fn an_arm_is_the_base_with_what_it_sets() {
        let config = with(
            "[[arm]]\nname = \"a\"\n[[arm]]\nname = \"b\"\nset = { grow = { to = 8 }, train = { lr = 2e-3 }, model = { scratch = { n_layer = 1, n_embd = 8, n_head = 1, n_positions = 8 } } }",
        )
        .unwrap();
        assert_eq!(config.control(), "a");
        let [a, b] = [0, 1].map(|i| config.recipe_of(&config.arms[i]).unwrap());
        assert_eq!((a.train.lr, a.train.warmup_tokens), (1e-3, 640));
        assert_eq!((b.train.lr, b.train.warmup_tokens), (2e-3, 640));
        assert_eq!(b.grow.unwrap().to, Some(8));
        assert!(matches!(b.model, recipe::ModelSource::Scratch(_)));
    }

    #[test]
    fn mistakes_are_named() {
        let arm = "[[arm]]\nname = \"a\"\n";
        for (text, wanted) in [
            (with(""), "arm"),
            (with(&format!("{arm}{arm}")), "two arms"),
            (with("[[arm]]\nname = \"../a\""), "letters"),
            (with("[[arm]]\nname = \"a\"\nrecpe = \"x\""), "line"),
            (
                load(&format!("control = \"z\"\n{BASE}{arm}")),
                "no such arm",
            ),
            (load(&format!("seeds = [1, 1]\n{BASE}{arm}")), "twice"),
            (
                load(&format!("{BASE}{arm}").replace("flops = 1e12", "flops = 0")),
                "above 0",
            ),
            (
                load(&format!("{BASE}{arm}").replace("flops = 1e12", "flops = 1\ntokens = 2")),
                "one of",
            ),
            (
                with(&format!("{arm}[sweep]\nlr_factors = []\nshare = 0.1")),
                "lr_factors",
            ),
        ] {
            let error = text.unwrap_err().to_string();
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
        let bad = with("[[arm]]\nname = \"a\"\nset = { train = { lrr = 1 } }").unwrap();
        let error = bad.recipe_of(&bad.arms[0]).unwrap_err();
        assert!(error.to_string().contains("arm `a`"), "{error}");
        assert!(error.hint().unwrap().contains("lr"), "{error}");
    }

    #[test]
    fn a_trial_keeps_proportions() {
        let config = with("[[arm]]\nname = \"a\"\nset = { train = { tokens = 6400 } }").unwrap();
        let recipe = config.recipe_of(&config.arms[0]).unwrap();
        let trial = trial(&recipe, 0.5, 3.0);
        assert_eq!(
            (trial.train.tokens, trial.train.warmup_tokens),
            (Some(3200), 320)
        );
        assert!((trial.train.lr - 3e-3).abs() < 1e-12);
    }
}
