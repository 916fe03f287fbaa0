//! Tasks that are asked for by name, with their data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use scale_ckpt::Result;
use scale_ckpt::checkpoint::hub::HubConfig;
use scale_ckpt::data::Tokenizer;
use scale_ckpt::error::{Error, counted, did_you_mean, printable};
use scale_ckpt::eval::dataset::{self, Hub, Shots, Source};
use scale_ckpt::eval::prepared::LoadedTask;
use scale_ckpt::eval::task::{Selection, Task, tasks_named};
use scale_ckpt::progress::{DownloadMeter, eprint_line};
use scale_ckpt::recipe::Recipe;
use scale_ckpt::settings::UNLOCATED;

/// What to ask.
#[derive(Clone, Debug, Default)]
pub struct TaskChoice {
    /// Tasks by name.
    pub names: Vec<String>,
    /// Files of their data by name of the dataset.
    pub data: BTreeMap<String, PathBuf>,
    /// Few-shot examples.
    pub shots: Option<Shots>,
    /// Files of examples by name of the dataset.
    pub examples: BTreeMap<String, PathBuf>,
    /// Which items.
    pub selection: Selection,
    /// Leave bad items out.
    pub skip_bad: bool,
}

impl TaskChoice {
    /// What a recipe asks.
    ///
    /// # Errors
    /// There is no such task, or data is given for none of them.
    pub fn of(recipe: &Recipe) -> Result<Self> {
        let eval = &recipe.eval;
        let choice = Self {
            names: eval.tasks.clone(),
            data: eval.data.clone(),
            selection: Selection {
                limit: eval.limit.map(usize::from),
                sample_seed: None,
            },
            skip_bad: eval.skip_bad,
            ..Self::default()
        };
        choice.check_keys("eval.tasks", "eval.data")?;
        Ok(choice)
    }

    /// Checks what two keys of a file name.
    ///
    /// # Errors
    /// As [`find`](Self::find), as an error of that key's value.
    pub fn check_keys(&self, tasks: &str, data: &str) -> Result<()> {
        let named = self.named().map_err(|error| of_key(tasks, &error))?;
        let checked = self.check_data(&named);
        checked.map_err(|error| of_key(data, &error))
    }

    /// Finds the tasks, each once, in the order in which they are named.
    ///
    /// # Errors
    /// There is no such task, or data is given for none of them.
    pub fn find(&self) -> Result<Vec<Box<dyn Task>>> {
        let tasks = self.named()?;
        self.check_data(&tasks)?;
        Ok(tasks)
    }

    fn named(&self) -> Result<Vec<Box<dyn Task>>> {
        let mut tasks: Vec<Box<dyn Task>> = Vec::new();
        let names = self.names.iter().map(|name| name.trim());
        for name in names.filter(|name| !name.is_empty()) {
            for task in tasks_named(name)? {
                if tasks.iter().all(|other| other.name() != task.name()) {
                    tasks.push(task);
                }
            }
        }
        Ok(tasks)
    }

    /// Refuses data that none of the tasks reads.
    fn check_data(&self, tasks: &[Box<dyn Task>]) -> Result<()> {
        for name in self.data.keys().chain(self.examples.keys()) {
            if tasks.iter().all(|task| task.dataset() != name) {
                let wanted: Vec<&str> = tasks.iter().map(|task| task.dataset()).collect();
                let message = format!("data for `{}`, which no task reads", printable(name));
                let hint = match did_you_mean(name, wanted.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if wanted.is_empty() => "no tasks are named".to_owned(),
                    None => format!("the tasks read {}", unique(&wanted)),
                };
                return Err(Error::usage(message).with_hint(hint));
            }
        }
        Ok(())
    }

    /// Reads the data of the tasks.
    ///
    /// # Errors
    /// Some of it is missing or bad.
    pub fn load(&self) -> Result<Vec<LoadedTask>> {
        let progress = DownloadMeter::default();
        let hub = Hub {
            config: &HubConfig::from_env,
            progress: &progress,
        };
        let load = |task: &dyn Task| {
            let source = |from: &BTreeMap<String, PathBuf>| {
                from.get(task.dataset()).cloned().map(Source::Path)
            };
            let data = dataset::load(
                task,
                &source(&self.data).unwrap_or(Source::Hub),
                source(&self.examples).as_ref(),
                self.shots,
                self.skip_bad,
                &hub,
            )?;
            LoadedTask::new(task, data, self.shots, self.selection)
        };
        self.find()?.iter().map(|task| load(&**task)).collect()
    }
}

/// The error of what a key of a recipe says.
fn of_key(key: &str, error: &Error) -> Error {
    let told = Error::invalid(UNLOCATED, format!("{key}: {error}"));
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

/// Leaves out what some model cannot read, for all of them: they are compared item by item.
pub fn leave_out_unfit(task: &mut LoadedTask, kinds: &[(&Tokenizer, usize)]) -> Result<()> {
    for (tokenizer, n_positions) in kinds {
        task.leave_out_unfit(tokenizer, *n_positions)?;
    }
    let (name, unfit) = (&task.record.task, &task.record.unfit);
    if !unfit.is_empty() {
        let items = counted(unfit.len(), "item", "items");
        eprint_line(&format!("{name}: {items} left out, too long for a model"));
    }
    if task.is_empty() {
        return Err(Error::invalid(name, "no item fits the models"));
    }
    Ok(())
}

fn unique(names: &[&str]) -> String {
    let names: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
