//! `scale-ckpt eval`.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::device::{DeviceSpec, Precision};
use scale_ckpt::error::Error;
use scale_ckpt::eval::dataset::Shots;
use scale_ckpt::eval::published::CELLS;
use scale_ckpt::eval::task::{Selection, Shard};
use scale_ckpt::home;
use scale_ckpt::recipe::{self, FamilyRecipe, load_family};
use serde_json::json;

use super::family::{Family, published, show};
use super::natural;
use super::shared::{print, print_json};
use super::tasks::TaskChoice;

/// Seed of the choice of few-shot examples in lm-evaluation-harness.
const FEWSHOT_SEED: u64 = 1234;

const AFTER_HELP: &str = "\
Tasks: hellaswag (lm-evaluation-harness 1.0), hellaswag_completion (build-nanogpt), lambada_openai,
arc_easy, arc_challenge, piqa, winogrande, blimp (67 paradigms, also each by name). Their data is
fetched from the hub, or read from --data: jsonl or parquet in the official form, for hellaswag
also six lines an item. The datasets are hellaswag, lambada_openai, arc_easy, arc_challenge, piqa,
winogrande, blimp (a folder).";

/// Score checkpoints: tasks, loss and perplexity on text; paired differences between them.
///
/// With --out, the same command goes on where it was stopped, and keeps every item's score.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Checkpoints, globs of them, or one recipe (.toml) that names them.
    checkpoints: Vec<String>,
    /// The model to compare the others with, which is scored too; of two alone the first.
    #[arg(long, value_name = "MODEL")]
    baseline: Option<String>,
    /// Tasks, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    tasks: Vec<String>,
    /// Data of a dataset: a file, or a folder with a file of the task's name; repeatable.
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path)]
    data: Vec<(String, PathBuf)>,
    /// Examples before every question.
    #[arg(long, value_name = "K")]
    num_fewshot: Option<usize>,
    /// Seed of their choice [default: 1234, that of lm-evaluation-harness].
    #[arg(long, value_name = "SEED")]
    fewshot_seed: Option<u64>,
    /// Where examples come from; repeatable.
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path)]
    fewshot_data: Vec<(String, PathBuf)>,
    /// At most so many items of each task: the first ones.
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Draw those items with this seed instead.
    #[arg(long, value_name = "SEED")]
    sample_seed: Option<u64>,
    /// Score one part of the items, to be joined by `merge`.
    #[arg(long, value_name = "I/N", requires = "out")]
    shard: Option<Shard>,
    /// A folder for results and every item's score.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Leave bad items out and count them, instead of stopping.
    #[arg(long)]
    skip_bad: bool,
    /// Text files, token shards, folders or globs for loss and perplexity.
    #[arg(long, value_name = "PATH")]
    val: Vec<PathBuf>,
    /// About so many tokens of them: whole windows, at least one.
    #[arg(long, value_name = "N")]
    val_tokens: Option<NonZeroU64>,
    /// Tokens per window; n_positions unless given.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens from one window to the next; the context unless given.
    #[arg(long, value_name = "N")]
    stride: Option<NonZeroUsize>,
    /// Score every choice alone, without sharing its context: slower, to check against.
    #[arg(long)]
    plain: bool,
    /// Score HellaSwag with gpt2 and gpt2-xl from the hub, or those of them that are named, and
    /// fail unless the published figures come out.
    #[arg(long, conflicts_with_all = ["tasks", "data", "num_fewshot", "limit", "shard", "val"])]
    reproduce_published: bool,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N.
    #[arg(long)]
    device: Option<DeviceSpec>,
    /// f32 or bf16: what products are computed in [default: the recipe's, else f32].
    #[arg(long)]
    precision: Option<Precision>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            let path = home::expand(path).map_err(|error| error.to_string())?;
            Ok((name.to_owned(), path))
        }
        _ => Err("expected NAME=PATH, as in hellaswag=hellaswag_val.jsonl".into()),
    }
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let (json, reproduce, shard) = (self.json, self.reproduce_published, self.shard);
        let family = self.family()?;
        let Some(outcome) = family.score()? else {
            let shard = shard.map(|shard| shard.to_string());
            if json {
                return print_json(&json!({ "schema": 2, "shard": shard }));
            }
            return print("this shard is scored; `scale-ckpt merge` joins it with the others");
        };
        show(&outcome, json)?;
        if reproduce {
            return published(&outcome);
        }
        Ok(())
    }

    /// What a file says. Its tasks may be others' on the command line.
    fn of_file(&self, path: &Path) -> Result<FamilyRecipe> {
        let recipe = load_family(path)?;
        if self.tasks.is_empty() && !self.reproduce_published {
            let choice = TaskChoice {
                names: recipe.tasks.clone(),
                data: recipe.data.clone(),
                ..TaskChoice::default()
            };
            let checked = choice.check_keys("tasks", "data");
            checked.map_err(|error| recipe::located(error, path, &[]))?;
        }
        Ok(recipe)
    }

    /// What is asked: by the recipe, if there is one, and by the command line, which wins.
    fn family(self) -> Result<Family> {
        let mut recipe = match self.checkpoints.as_slice() {
            [only] if is_recipe(only) => self.of_file(&home::expand(only)?)?,
            names => {
                let mut names = names.to_vec();
                natural::relist(&mut names);
                if let Some(recipe) = names.iter().find(|name| is_recipe(name)) {
                    let message = format!("{recipe} is a recipe, and other checkpoints are named");
                    return Err(Error::usage(message).with_hint("name them in the recipe"));
                }
                FamilyRecipe {
                    models: names,
                    ..FamilyRecipe::default()
                }
            }
        };
        if self.reproduce_published {
            if recipe.models.is_empty() {
                let mut all: Vec<String> = CELLS.iter().map(|c| c.model.to_owned()).collect();
                all.dedup();
                recipe.models = all;
            }
            if recipe.limit.is_some() || recipe.num_fewshot > 0 {
                let message = "published scores are of all items, without examples";
                return Err(Error::usage(message).with_hint("leave the recipe's limit away"));
            }
            recipe.tasks = vec!["hellaswag_completion".into(), "hellaswag".into()];
            let published = |model: &String| CELLS.iter().any(|cell| cell.model == model);
            if let Some(model) = recipe.models.iter().find(|model| !published(model)) {
                return Err(
                    Error::usage(format!("no HellaSwag score of {model} is on record"))
                        .with_hint("name gpt2 or gpt2-xl, or none"),
                );
            }
        }
        if !self.tasks.is_empty() {
            recipe.tasks = self.tasks;
            // What the recipe has for other tasks is not meant.
            let named = TaskChoice {
                names: recipe.tasks.clone(),
                ..TaskChoice::default()
            };
            let tasks = named.find()?;
            let is_read = |name: &String| tasks.iter().any(|task| task.dataset() == name);
            recipe.data.retain(|name, _| is_read(name));
            recipe.fewshot_data.retain(|name, _| is_read(name));
        }
        recipe.data.extend(self.data);
        recipe.fewshot_data.extend(self.fewshot_data);
        if !self.val.is_empty() {
            recipe.val = self.val;
        }
        let count = self.num_fewshot.unwrap_or(recipe.num_fewshot);
        let seed = self.fewshot_seed.or(recipe.fewshot_seed);
        let device = self.device.unwrap_or(recipe.device);
        let family = Family {
            models: recipe.models,
            baseline: self.baseline.or(recipe.baseline),
            tasks: TaskChoice {
                names: recipe.tasks,
                data: recipe.data,
                shots: (count > 0).then(|| Shots {
                    count,
                    seed: seed.unwrap_or(FEWSHOT_SEED),
                }),
                examples: recipe.fewshot_data,
                selection: Selection {
                    limit: self.limit.or(recipe.limit).map(usize::from),
                    sample_seed: self.sample_seed.or(recipe.sample_seed),
                },
                skip_bad: self.skip_bad || recipe.skip_bad,
            },
            shard: self.shard,
            out: self.out.or(recipe.out),
            val: recipe.val,
            val_tokens: self.val_tokens.or(recipe.val_tokens).map(u64::from),
            context: self.context.or(recipe.context),
            stride: self.stride.or(recipe.stride).map(usize::from),
            share: !self.plain,
            precision: self.precision.unwrap_or(recipe.precision),
            device,
        };
        family.check()?;
        Ok(family)
    }
}

fn is_recipe(name: &str) -> bool {
    name.ends_with(".toml")
}
