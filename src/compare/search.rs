//! Choosing a growth plan by successive halving.
//!
//! Every candidate is ranked at step 0; then all are trained for a little, the best part of them
//! for longer, and so on (Jamieson and Talwalkar, arXiv 1502.07943). Every rung spends the same
//! compute: n candidates get B / (R · n) each of a budget B over R rungs. A rung starts from the
//! source again, with a schedule that ends at the rung's end: losses of unfinished schedules
//! rank badly, and a rung costs 1/η of the next at most.
//!
//! Beside the candidates the source itself is trained on, in every rung and for as many FLOPs: the
//! baseline, which is never dropped and cannot win.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::overlay;
use super::folder::Keep;
use super::stats::{LEAST_SHOWN, rank_correlation};
use crate::checkpoint::Gpt2Config;
use crate::device::DeviceSpec;
use crate::error::{Error, Result};
use crate::eval::figures::{figure, is_zero};
use crate::growth::{GrowConfig, Initializer, Method, Placement};
use crate::home;
use crate::recipe::{self, Recipe};
use crate::settings::Kind;
use crate::train::select::Scope;

/// The source as it is, trained on beside the candidates.
pub const BASELINE: &str = "continued";
/// More candidates than anybody trains.
const MAX_CANDIDATES: usize = 1000;

/// A search.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// The folder of runs and results.
    #[serde(deserialize_with = "home::deserialize")]
    pub out: PathBuf,
    /// Seed of growth and data order.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// `cpu`, `cuda` or `cuda:N`; `--device` wins.
    #[serde(default)]
    pub device: DeviceSpec,
    /// FLOPs of training in all, with those of the baseline.
    pub flops: f64,
    /// One in so many candidates gets to the next rung.
    #[serde(default = "three")]
    pub eta: usize,
    /// Which models of the runs are kept: `needed` or `all`.
    #[serde(default)]
    pub keep: Keep,
    /// All combinations of these.
    #[serde(default)]
    pub candidates: Candidates,
    /// Candidates by name.
    #[serde(default, rename = "candidate")]
    pub named: Vec<Named>,
    /// Tables of the recipe that all share; tokens of warm-up are those of the last rung.
    pub base: toml::Table,
}

fn default_seed() -> u64 {
    1337
}

fn three() -> usize {
    3
}

/// Depths, and ways to reach them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidates {
    /// Depths.
    #[serde(default)]
    pub to: Vec<usize>,
    /// Published methods.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Where new blocks stand, each with every initializer.
    #[serde(default)]
    pub placements: Vec<Placement>,
    /// How they get their values; `zero-residual` unless given.
    #[serde(default)]
    pub inits: Vec<Initializer>,
    /// Plan files, whatever depth they make.
    #[serde(default, deserialize_with = "home::deserialize")]
    pub plans: Vec<PathBuf>,
}

/// A candidate by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What it is called, also in names of files.
    pub name: String,
    /// How it grows.
    pub grow: GrowConfig,
    /// Whether it is one of all combinations, which need not all be possible.
    #[serde(skip)]
    pub combined: bool,
}

/// A round of training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rung {
    /// Candidates that are trained, the baseline apart.
    pub candidates: usize,
    /// FLOPs of each, and of the baseline.
    pub flops: f64,
}

impl SearchConfig {
    /// Reads a search; `overrides` are as for recipes.
    ///
    /// # Errors
    /// As [`recipe::load_any`], or its candidates are none.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let (config, _): (Self, String) = recipe::load_any(Kind::Search, path, overrides)?;
        let checked = config.check();
        checked.map_err(|message| recipe::value_error(path, overrides, message))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !(self.flops.is_finite() && self.flops > 0.0) {
            return Err(format!("flops = {} must be above 0", self.flops));
        }
        if self.eta < 2 {
            return Err(format!("eta = {} must be at least 2", self.eta));
        }
        let Candidates {
            to,
            methods,
            placements,
            inits,
            ..
        } = &self.candidates;
        if to.is_empty() && !(methods.is_empty() && placements.is_empty()) {
            return Err("candidates.to names no depth".into());
        }
        for method in methods {
            Method::by_name(method).map_err(|error| match error.hint() {
                Some(hint) => format!("candidates.methods: {error}; {hint}"),
                None => format!("candidates.methods: {error}"),
            })?;
        }
        if placements.is_empty() && !inits.is_empty() {
            return Err("candidates.inits needs candidates.placements".into());
        }
        let found = self.all();
        if found.len() < 2 {
            return Err("there are fewer than two candidates".into());
        }
        if found.len() > MAX_CANDIDATES {
            let count = found.len();
            return Err(format!("{count} candidates are more than {MAX_CANDIDATES}"));
        }
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        super::config::check_names("candidate", &names)?;
        if names.contains(&BASELINE) {
            return Err(format!(
                "a candidate is called `{BASELINE}`, as the source is that every search trains on beside its candidates: give it another name"
            ));
        }
        Ok(())
    }

    /// All candidates, those by name last.
    pub fn all(&self) -> Vec<Named> {
        let Candidates {
            to,
            methods,
            placements,
            inits,
            plans,
        } = &self.candidates;
        let zero_residual = [Initializer::ZERO_RESIDUAL];
        let inits = if inits.is_empty() {
            &zero_residual[..]
        } else {
            inits
        };
        let mut found = Vec::new();
        for &depth in to {
            for method in methods {
                found.push(Named {
                    name: format!("{method}-{depth}"),
                    grow: GrowConfig {
                        to: Some(depth),
                        method: Some(method.clone()),
                        ..GrowConfig::default()
                    },
                    combined: true,
                });
            }
            for &placement in placements {
                for (i, init) in inits.iter().enumerate() {
                    // The same initializer may come with several parameters.
                    let same = inits.iter().filter(|other| other.name() == init.name());
                    let number = if same.count() > 1 {
                        format!(".{}", i + 1)
                    } else {
                        String::new()
                    };
                    let placed = serde_json::to_value(placement).unwrap_or_default();
                    let placed = placed.as_str().unwrap_or("placed").to_owned();
                    found.push(Named {
                        name: format!("{placed}-{}{number}-{depth}", init.name()),
                        grow: GrowConfig {
                            to: Some(depth),
                            placement: Some(placement),
                            init: Some(init.clone()),
                            ..GrowConfig::default()
                        },
                        combined: true,
                    });
                }
            }
        }
        for plan in plans {
            let stem = plan.file_stem().unwrap_or_default().to_string_lossy();
            found.push(Named {
                name: format!("plan-{stem}"),
                grow: GrowConfig {
                    plan: Some(plan.clone()),
                    ..GrowConfig::default()
                },
                combined: false,
            });
        }
        found.extend(self.named.iter().cloned());
        found
    }

    /// The rungs for so many candidates: as long as there is a choice.
    pub fn rungs(&self, candidates: usize) -> Vec<Rung> {
        let mut counts = vec![candidates];
        while let Some(&last) = counts.last() {
            let next = last.div_ceil(self.eta);
            if next < 2 || next == last {
                break;
            }
            counts.push(next);
        }
        let share = self.flops / counts.len() as f64;
        let rung = |candidates: usize| Rung {
            candidates,
            // The baseline is one more.
            flops: share / (candidates + 1) as f64,
        };
        counts.into_iter().map(rung).collect()
    }

    /// The recipe of a candidate, before it has a budget.
    ///
    /// # Errors
    /// `[base]` does not make one with it.
    pub fn recipe_of(&self, candidate: &Named) -> Result<Recipe> {
        let at = format!("candidate `{}`", candidate.name);
        let grow = toml::Table::try_from(&candidate.grow);
        let grow = grow.map_err(|e| Error::invalid(&at, e.to_string()))?;
        self.recipe_with(&at, [("grow".to_owned(), grow.into())])
    }

    /// The recipe of the baseline, before it has a budget: `[base]` without a growth, on a source
    /// like `config`. Where `[base]` trains what a growth adds, all of the source is trained.
    ///
    /// # Errors
    /// `[base]` does not make one.
    pub fn baseline_recipe(&self, config: &Gpt2Config) -> Result<Recipe> {
        let mut recipe = self.recipe_with(BASELINE, None)?;
        let scope = Scope {
            config,
            new_layers: &BTreeSet::new(),
        };
        let is_there = |selector: &String| {
            let name = selector.trim_start_matches('!').to_owned();
            scope.select(&[name]).is_ok()
        };
        let train = &mut recipe.train;
        if !train.trainable.iter().all(is_there) {
            train.trainable = vec!["all".to_owned()];
        }
        train.lr_scale.retain(|selector, _| is_there(selector));
        Ok(recipe)
    }

    fn recipe_with(
        &self,
        at: &str,
        own: impl IntoIterator<Item = (String, toml::Value)>,
    ) -> Result<Recipe> {
        let mut table = self.base.clone();
        if table.contains_key("grow") || table.contains_key("stage") {
            let message = "[base] of a search has no grow and no stage: candidates say how to grow";
            return Err(Error::invalid(at, message));
        }
        let seed = toml::Value::Integer(self.seed.try_into().unwrap_or(i64::MAX));
        let all = [
            ("out".to_owned(), self.out.display().to_string().into()),
            ("seed".to_owned(), seed),
        ];
        let own: toml::Table = all.into_iter().chain(own).collect();
        overlay(&mut table, &own, true);
        if let Some(train) = table.get_mut("train").and_then(toml::Value::as_table_mut) {
            train.entry("tokens").or_insert(1.into());
        }
        recipe::of_table(&table, at, &[("base", &self.base)])
    }
}

/// A candidate and what it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Ranked {
    /// What it is called.
    pub name: String,
    /// Blocks.
    pub n_layer: usize,
    /// Parameters.
    pub parameters: u64,
    /// Validation loss at step 0 and after every rung that it was trained in; infinite where it
    /// diverged.
    pub losses: Vec<f64>,
}

impl Ranked {
    /// The loss after a rung, 0 for step 0; infinite where it diverged, or did not come to it.
    fn loss(&self, rung: usize) -> f64 {
        self.losses.get(rung).copied().unwrap_or(f64::INFINITY)
    }
}

/// What the best candidate is worth beside the source, which says whether to grow at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It ends above the untouched source's loss.
    WorseThanNotTraining,
    /// It does not end below the source that was trained on for as many FLOPs.
    NoBetterThanContinued,
    /// It ends below it.
    BetterThanContinued,
    /// Training the source on diverged.
    Alone,
}

impl Standing {
    /// Of the winner, after so many rungs.
    pub fn of(winner: &Ranked, baseline: &Ranked, rungs: usize) -> Self {
        let [own, continued] = [winner, baseline].map(|one| one.loss(rungs));
        if own - baseline.loss(0) > LEAST_SHOWN {
            Self::WorseThanNotTraining
        } else if !continued.is_finite() {
            Self::Alone
        } else if continued - own > LEAST_SHOWN {
            Self::BetterThanContinued
        } else {
            Self::NoBetterThanContinued
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::WorseThanNotTraining => "worse than not training",
            Self::NoBetterThanContinued => "no better than training the source on",
            Self::BetterThanContinued => "better than training the source on",
            Self::Alone => "with no baseline to hold it against",
        }
    }
}

/// What a search found in sentences, the most important first.
pub fn conclusion(winner: &Ranked, baseline: &Ranked, rungs: usize) -> Vec<String> {
    let [own, continued] = [winner, baseline].map(|one| one.loss(rungs));
    let (source, name) = (baseline.loss(0), &winner.name);
    let [own_shown, continued_shown, source_shown] =
        [own, continued, source].map(|loss| figure(loss, 4));
    let mut sentences = Vec::new();
    let is_worse = Standing::of(winner, baseline, rungs) == Standing::WorseThanNotTraining;
    if is_worse {
        let too = if continued.is_finite() && continued - source > LEAST_SHOWN {
            ", and so does training the source on: the budget is too small, or the learning rate too high, for training to pay"
        } else {
            ""
        };
        sentences.push(format!(
            "Worse than not training: {name}, the best candidate, ends at a validation loss of {own_shown}, above the untouched source's {source_shown}{too}."
        ));
    }
    sentences.push(if !continued.is_finite() {
        format!("Training the source on diverged: there is nothing to hold {name} against.")
    } else if continued - own > LEAST_SHOWN {
        format!(
            "{name} ends {} below training the source on for as many FLOPs ({own_shown} against {continued_shown}).",
            figure(continued - own, 4)
        )
    } else {
        format!(
            "No candidate is better than training the source on: for as many FLOPs it ends at {continued_shown}, {name}, the best of them, at {own_shown}."
        )
    });
    if !is_worse {
        let below = (source - own).max(0.0);
        let place = if is_zero(below) {
            "level with".to_owned()
        } else {
            format!("{} below", figure(below, 4))
        };
        sentences.push(format!(
            "The untouched source is at {source_shown}, {name} {place} it."
        ));
    }
    sentences.push("One seed, and so no interval: candidates whose losses are near each other may change places with another.".to_owned());
    sentences
}

/// How well one rung foretells a later one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Foretelling {
    /// The earlier rung; 0 is step 0.
    pub from: usize,
    /// The later one.
    pub to: usize,
    /// Candidates that came to both.
    pub candidates: usize,
    /// Spearman's rank correlation of their losses.
    pub rank_correlation: Option<f64>,
}

/// Candidates from best to worst: those that got further first, then by their last loss.
pub fn rank(candidates: &mut [Ranked]) {
    candidates.sort_by(|a, b| {
        let last = |c: &Ranked| c.losses.last().copied().unwrap_or(f64::INFINITY);
        let further = b.losses.len().cmp(&a.losses.len());
        further.then(last(a).total_cmp(&last(b)))
    });
}

/// How well every rung foretells the later ones.
pub fn foretelling(candidates: &[Ranked]) -> Vec<Foretelling> {
    let rungs = candidates.iter().map(|c| c.losses.len()).max().unwrap_or(0);
    let pairs = (0..rungs).flat_map(|from| (from + 1..rungs).map(move |to| (from, to)));
    pairs
        .map(|(from, to)| {
            let both = || candidates.iter().filter(|c| c.losses.len() > to);
            let losses = |rung: usize| both().map(|c| c.losses[rung]).collect::<Vec<f64>>();
            Foretelling {
                from,
                to,
                candidates: both().count(),
                rank_correlation: rank_correlation(&losses(from), &losses(to)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> Result<SearchConfig, String> {
        let text = format!("out = \"o\"\nflops = 1e12\n{rest}\n[base]\n");
        let config: SearchConfig = toml::from_str(&text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn candidates_are_all_combinations() {
        let config = config(
            "[candidates]\nto = [6, 8]\nmethods = [\"g-stack\"]\nplacements = [\"top\", \"interleave\"]\ninits = [\"copy\", { noisy = { noise = 0.1 } }, { noisy = { noise = 0.2 } }]",
        )
        .unwrap();
        let names: Vec<String> = config.all().into_iter().map(|c| c.name).collect();
        assert_eq!(names.len(), 2 * (1 + 2 * 3));
        assert!(names.contains(&"g-stack-6".to_owned()), "{names:?}");
        assert!(names.contains(&"top-noisy.3-8".to_owned()), "{names:?}");
    }

    #[test]
    fn rungs_spend_the_budget_in_equal_parts() {
        let config =
            config("[candidates]\nto = [6]\nplacements = [\"top\", \"interleave\"]").unwrap();
        let rungs = config.rungs(9);
        assert_eq!(
            rungs.iter().map(|r| r.candidates).collect::<Vec<_>>(),
            [9, 3]
        );
        for rung in &rungs {
            let trained = (rung.candidates + 1) as f64;
            assert!((rung.flops * trained - 5e11).abs() < 1.0);
        }
        assert_eq!(config.rungs(2).len(), 1);
        assert_eq!(config.rungs(3).len(), 1);
        assert_eq!(
            config
                .rungs(4)
                .iter()
                .map(|r| r.candidates)
                .collect::<Vec<_>>(),
            [4, 2]
        );
    }

    #[test]
    fn searches_without_a_choice_are_refused() {
        for (text, wanted) in [
            ("", "fewer than two"),
            ("[candidates]\nmethods = [\"g-stack\"]", "no depth"),
            ("[candidates]\nto = [6]\ninits = [\"copy\"]", "placements"),
            ("eta = 1", "eta"),
            (
                "[candidates]\nto = [6]\nplacements = [\"top\"]\n[[candidate]]\nname = \"continued\"\ngrow = { to = 8 }",
                "another name",
            ),
            ("[candidates]\nto = [6]\nmethods = [\"gstack\"]", "g-stack"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn the_baseline_is_the_base_without_a_growth() {
        let text = r#"
            out = "o"
            flops = 1e12
            [candidates]
            to = [6]
            placements = ["top", "interleave"]
            [base.model]
            from = "./m"
            [base.data]
            train = ["a.txt"]
            val = ["b.txt"]
            [base.train]
            batch_tokens = 64
            context = 8
            lr = 1e-3
            trainable = ["new", "ln_f"]
            lr_scale = { new = 2.0, embeddings = 0.1 }
        "#;
        let config: SearchConfig = toml::from_str(text).unwrap();
        let source = Gpt2Config::new(8, 8, 4, 4, 2).unwrap();
        let recipe = config.baseline_recipe(&source).unwrap();
        assert!(recipe.grow.is_none());
        assert_eq!(
            recipe.train.trainable,
            ["all"],
            "nothing is new in the source"
        );
        assert!(recipe.train.lr_scale.keys().eq(["embeddings"]));
        let trained = |selectors: &str| {
            let text = text.replace("[\"new\", \"ln_f\"]", selectors);
            let config: SearchConfig = toml::from_str(&text).unwrap();
            config.baseline_recipe(&source).unwrap().train.trainable
        };
        assert_eq!(trained("[\"h.3.*\", \"ln_f\"]"), ["h.3.*", "ln_f"]);
        assert_eq!(
            trained("[\"h.4.*\"]"),
            ["all"],
            "a block that the source does not have"
        );
        assert_eq!(
            trained("[\"all\", \"!embeddings\"]"),
            ["all", "!embeddings"]
        );
        let grown = config.recipe_of(&config.all()[0]).unwrap();
        assert_eq!(grown.train.trainable, ["new", "ln_f"]);
        assert_eq!((grown.seed, grown.train.lr), (recipe.seed, recipe.train.lr));
    }

    #[test]
    fn a_winner_is_called_what_it_is() {
        let of = |winner: f64, continued: f64| {
            let one = |name: &str, losses: &[f64]| Ranked {
                name: name.into(),
                n_layer: 8,
                parameters: 1,
                losses: losses.to_vec(),
            };
            let winner = one("a", &[4.5, 4.9, winner]);
            let baseline = one(BASELINE, &[4.4, 4.3, continued]);
            let standing = Standing::of(&winner, &baseline, 2);
            (standing, conclusion(&winner, &baseline, 2))
        };
        for (winner, continued, standing, beginning, words) in [
            (
                4.6,
                4.5,
                Standing::WorseThanNotTraining,
                "Worse than not training: a,",
                "so does training the source on",
            ),
            (
                4.6,
                4.3,
                Standing::WorseThanNotTraining,
                "Worse than",
                "No candidate is better",
            ),
            (
                4.3,
                4.2,
                Standing::NoBetterThanContinued,
                "No candidate is better",
                "0.1000 below it",
            ),
            (
                4.2,
                4.2,
                Standing::NoBetterThanContinued,
                "No candidate is better",
                "0.2000 below it",
            ),
            // Apart by less than is shown.
            (
                4.40001,
                4.40002,
                Standing::NoBetterThanContinued,
                "No candidate",
                "level with it",
            ),
            (
                4.39998,
                4.39999,
                Standing::NoBetterThanContinued,
                "No candidate",
                "a 2.0e-5 below it",
            ),
            (
                4.1,
                4.2,
                Standing::BetterThanContinued,
                "a ends 0.1000 below",
                "0.3000 below it",
            ),
            (
                4.1,
                f64::INFINITY,
                Standing::Alone,
                "Training the source on diverged",
                "One seed",
            ),
        ] {
            let (found, sentences) = of(winner, continued);
            assert_eq!(found, standing, "{sentences:?}");
            assert!(sentences[0].starts_with(beginning), "{sentences:?}");
            assert!(sentences.join(" ").contains(words), "{sentences:?}");
        }
        assert!(!of(4.6, 4.3).1[0].contains("so does"));
    }

    #[test]
    fn the_furthest_and_lowest_comes_first() {
        let of = |name: &str, losses: &[f64]| Ranked {
            name: name.into(),
            n_layer: 8,
            parameters: 1,
            losses: losses.to_vec(),
        };
        let mut all = [
            of("a", &[1.0, 3.0]),
            of("b", &[2.0, 2.0, 1.9]),
            of("c", &[3.0, 1.0, 2.0]),
            of("d", &[4.0, f64::INFINITY]),
        ];
        rank(&mut all);
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["b", "c", "a", "d"]);
        let told = foretelling(&all);
        assert_eq!(told.len(), 3);
        assert_eq!((told[0].candidates, told[1].candidates), (4, 2));
        // 2 3 1 4 against 2 1 3 4: ρ = 1 − 6·8/60 = 0.2.
        assert!(
            (told[0].rank_correlation.unwrap() - 0.2).abs() < 1e-12,
            "{told:?}"
        );
        assert_eq!(told[1].rank_correlation, None);
    }
}
