//! Budgets: as many tokens for every arm as the compute pays for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::error::{Error, Result, printable, thousands};
use crate::eval::figures::amount as in_words;
use crate::recipe::Recipe;
use crate::stages::{self, Origin, StageConfig};
use crate::train::{MAX_TOKENS, TrainConfig};

/// What compute is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ledger {
    /// Floating-point operations of forward and backward pass: see [`crate::ledger`].
    #[default]
    Flops,
    /// The account of arXiv 2411.18700.
    LayerPasses,
    /// Tokens trained on.
    Tokens,
    /// Time of training steps, without evaluation.
    Seconds,
}

impl Ledger {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flops, Self::LayerPasses, Self::Tokens, Self::Seconds];

    /// Its name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flops => "flops",
            Self::LayerPasses => "layer_passes",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds",
        }
    }

    /// What it counts, in words.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Flops => "FLOPs",
            Self::LayerPasses => "layer passes",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds of training",
        }
    }

    /// So much of it for people, without the unit: a count of tokens is shown whole.
    pub fn shown(self, cost: f64) -> String {
        match self {
            Self::Tokens => thousands(cost.round() as u64),
            Self::Flops | Self::LayerPasses | Self::Seconds => in_words(cost),
        }
    }
}

impl FromStr for Ledger {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|ledger| ledger.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("{}: expected one of {names}", printable(name)))
        })
    }
}

/// Which stages take up a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The last stage gets what the ones before it leave.
    #[default]
    Last,
    /// All stages, warm-ups and decays keep their proportions.
    Scale,
}

/// What a run spends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Passes of a token through a block, forward and backward.
    pub layer_passes: f64,
    /// Estimated time of the steps, where a rate is known.
    pub seconds: Option<f64>,
}

impl Spent {
    /// What an account comes to in the end.
    pub fn of(account: &Account, train: &TrainConfig, seconds_per_flop: Option<f64>) -> Self {
        let total = account.total();
        Self {
            steps: account.steps(),
            tokens: account.steps() * train.batch_tokens,
            flops: total.flops,
            layer_passes: total.layer_passes,
            seconds: seconds_per_flop.map(|rate| rate * total.flops),
        }
    }

    /// In a ledger; none where the time is not known.
    pub fn in_ledger(&self, ledger: Ledger) -> Option<f64> {
        match ledger {
            Ledger::Flops => Some(self.flops),
            Ledger::LayerPasses => Some(self.layer_passes),
            Ledger::Tokens => Some(self.tokens as f64),
            Ledger::Seconds => self.seconds,
        }
    }
}

/// What a recipe spends on a model like that of `origin`.
fn spent(recipe: &Recipe, origin: &Origin<'_>, seconds_per_flop: Option<f64>) -> Result<Spent> {
    let stages = stages::plan(&recipe.train, &recipe.stages, recipe.grow.as_ref(), origin)?;
    let account = Account::new(&stages, origin.config, &recipe.train);
    Ok(Spent::of(&account, &recipe.train, seconds_per_flop))
}

/// Gives a recipe as many whole steps as `amount` pays for.
///
/// # Errors
/// The recipe cannot be run, or its other stages alone, and a step of the last, cost more.
pub fn fit(
    recipe: &mut Recipe,
    origin: &Origin<'_>,
    how: Fit,
    ledger: Ledger,
    amount: f64,
    seconds_per_flop: Option<f64>,
) -> Result<()> {
    let cost = |recipe: &Recipe| -> Result<f64> {
        let spent = spent(&without_schedule(recipe), origin, seconds_per_flop)?;
        let unknown = || Error::usage("a budget in seconds needs passes that are timed");
        spent.in_ledger(ledger).ok_or_else(unknown)
    };
    if how == Fit::Scale {
        let factor = fitting_factor(recipe, &cost, amount)?;
        scale(recipe, factor);
    }
    let batch = recipe.train.batch_tokens.max(1);
    let within = |steps: u64| -> Result<bool> {
        let mut tried = recipe.clone();
        *last_tokens(&mut tried) = steps * batch;
        Ok(cost(&tried)? <= amount)
    };
    if !within(1)? {
        let mut least = recipe.clone();
        *last_tokens(&mut least) = batch;
        let (what, hint) = match (recipe.stages.as_slice(), how) {
            ([], _) => ("one step", "raise the budget"),
            (_, Fit::Scale) => ("one step of each stage", "raise the budget"),
            (_, Fit::Last) => (
                "its first stages and one step of the last",
                "raise the budget, or give the arm fit = \"scale\"",
            ),
        };
        let message = format!(
            "a budget of {} {} does not pay for {what}, {}",
            ledger.shown(amount),
            ledger.unit(),
            ledger.shown(cost(&least)?)
        );
        return Err(Error::invalid("budget", message).with_hint(hint));
    }
    // The largest number of steps that is paid for: 2^k steps are, 2^(k+1) are not.
    let most = MAX_TOKENS / batch;
    let mut paid = 1;
    while paid * 2 <= most && within(paid * 2)? {
        paid *= 2;
    }
    if paid == most || (paid * 2 > most && within(most)?) {
        let message = format!(
            "a budget of {} {} is more than {} tokens cost",
            ledger.shown(amount),
            ledger.unit(),
            thousands(MAX_TOKENS)
        );
        return Err(Error::invalid("budget", message));
    }
    let mut not_paid = (paid * 2).min(most + 1);
    while not_paid - paid > 1 {
        let middle = paid + (not_paid - paid) / 2;
        if within(middle)? {
            paid = middle;
        } else {
            not_paid = middle;
        }
    }
    *last_tokens(recipe) = paid * batch;
    Ok(())
}

/// Multiplies every number of tokens by `factor`, rounded to whole steps.
pub fn scale(recipe: &mut Recipe, factor: f64) {
    let batch = recipe.train.batch_tokens.max(1);
    let stretch = |tokens: &mut u64| {
        let steps = (*tokens as f64 * factor / batch as f64).round();
        *tokens = (steps.max(1.0) as u64).min(MAX_TOKENS / batch) * batch;
    };
    // A warm-up of less than a step is none.
    let part = |tokens: &mut u64| *tokens = (*tokens as f64 * factor) as u64;
    let train = &mut recipe.train;
    train.tokens.iter_mut().for_each(stretch);
    part(&mut train.warmup_tokens);
    train.decay_tokens.iter_mut().for_each(part);
    train.unfreeze_at_tokens.iter_mut().for_each(part);
    for stage in &mut recipe.stages {
        stretch(&mut stage.tokens);
        stage.warmup_tokens.iter_mut().for_each(part);
        stage.decay_tokens.iter_mut().for_each(part);
        stage.unfreeze_at_tokens.iter_mut().for_each(part);
    }
}

/// The largest factor, to nine digits, by which all stages can be multiplied.
fn fitting_factor(
    recipe: &Recipe,
    cost: &dyn Fn(&Recipe) -> Result<f64>,
    amount: f64,
) -> Result<f64> {
    let scaled_cost = |factor: f64| {
        let mut tried = recipe.clone();
        scale(&mut tried, factor);
        cost(&tried)
    };
    let mut high = 1.0;
    while scaled_cost(high)? <= amount && high < 1e9 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if scaled_cost(middle)? <= amount {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The tokens that the budget decides.
fn last_tokens(recipe: &mut Recipe) -> &mut u64 {
    match recipe.stages.last_mut() {
        Some(StageConfig { tokens, .. }) => tokens,
        None => recipe.train.tokens.get_or_insert(1),
    }
}

/// The recipe without what costs nothing and might not fit a number of tokens that is only
/// tried.
fn without_schedule(recipe: &Recipe) -> Recipe {
    let mut bare = recipe.clone();
    let unfrozen_at = |at: &mut Option<u64>, tokens: u64| {
        *at = at.filter(|&at| at < tokens);
    };
    let train = &mut bare.train;
    train.warmup_tokens = 0;
    train.decay_tokens = None;
    if let Some(tokens) = train.tokens {
        unfrozen_at(&mut train.unfreeze_at_tokens, tokens);
    }
    let of_train = if bare.stages.is_empty() {
        None
    } else {
        train.unfreeze_at_tokens.take()
    };
    for stage in &mut bare.stages {
        stage.warmup_tokens = None;
        stage.decay_tokens = None;
        stage.unfreeze_at_tokens = stage.unfreeze_at_tokens.or(of_train);
        unfrozen_at(&mut stage.unfreeze_at_tokens, stage.tokens);
    }
    bare
}
