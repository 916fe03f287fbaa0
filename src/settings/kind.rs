//! What a settings file is of. People give one command the file of another; each kind has keys
//! that no other has.

use std::path::Path;

use crate::error::{Error, Result, read_text};

/// A kind of settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The recipe of a run.
    Run,
    /// A comparison.
    Comparison,
    /// A search for a growth plan.
    Search,
    /// An evaluation of checkpoints.
    Evaluation,
    /// A growth plan.
    Plan,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Run,
        Self::Comparison,
        Self::Search,
        Self::Evaluation,
        Self::Plan,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "the recipe of a run",
            Self::Comparison => "a comparison",
            Self::Search => "a search",
            Self::Evaluation => "an evaluation",
            Self::Plan => "a plan file",
        }
    }

    /// The command that reads it.
    pub fn command(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Run => format!("scale-ckpt train {path}"),
            Self::Comparison => format!("scale-ckpt compare {path}"),
            Self::Search => format!("scale-ckpt search {path}"),
            Self::Evaluation => format!("scale-ckpt eval {path}"),
            Self::Plan => format!("scale-ckpt grow MODEL --plan {path}"),
        }
    }

    /// Keys at the top that no other kind has.
    fn own_keys(self) -> &'static [&'static str] {
        match self {
            Self::Run => &["model", "grow", "train", "stage", "eval", "peak_flops"],
            Self::Comparison => &["arm", "budget", "sweep", "seeds", "control", "points"],
            Self::Search => &["candidates", "candidate", "flops", "eta"],
            Self::Evaluation => &[
                "models",
                "tasks",
                "val",
                "num_fewshot",
                "fewshot_data",
                "limit",
                "skip_bad",
                "context",
                "stride",
            ],
            Self::Plan => &["slice"],
        }
    }

    fn matches(self, table: &toml::Table) -> usize {
        let own = self.own_keys().iter();
        own.filter(|key| table.contains_key(**key)).count()
    }

    /// The text of a file of this kind.
    ///
    /// # Errors
    /// It is a folder, cannot be read, is written in YAML or JSON, or is of another kind.
    pub fn read(self, path: &Path) -> Result<String> {
        if path.is_dir() {
            return Err(self.of_folder(path));
        }
        let text = read_text(path)?;
        if let Some(language) = foreign(&text, path) {
            return Err(self.of_language(language, path));
        }
        self.expect(&text, path)?;
        Ok(text)
    }

    /// The error of a folder where a file is expected.
    fn of_folder(self, path: &Path) -> Error {
        let holds = |name: &str| path.join(name).is_file();
        let is_run = holds("recipe.toml") && holds("inputs.json");
        let is_checkpoint = !is_run && holds("config.json");
        let what = match (is_run, is_checkpoint) {
            (true, _) => "the folder of a run",
            (_, true) => "a checkpoint",
            _ => "a folder",
        };
        let hint = match self {
            Self::Run if is_run => format!(
                "go on with the recipe it was started from, or with its copy {}",
                path.join("recipe.toml").display()
            ),
            Self::Run if is_checkpoint => "a recipe names it in model.from".to_owned(),
            _ => "name a .toml file".to_owned(),
        };
        let message = format!("this is {what}, not {}", self.name());
        Error::invalid(path.display(), message).with_hint(hint)
    }

    /// The error of a file that is written in another language than TOML.
    fn of_language(self, language: &str, path: &Path) -> Error {
        let message = format!("this is {language}, but {} is written in TOML", self.name());
        Error::invalid(path.display(), message).with_hint(match self {
            Self::Plan => {
                "a plan file has [[slice]] with layers = [0, 3] for `layer_range: [0, 3]`"
            }
            _ => "in TOML, a table begins with [name], and its keys are written key = value",
        })
    }

    /// The kind that most keys of a text speak for, if any does.
    pub fn of(text: &str) -> Option<Self> {
        let table = text.parse::<toml::Table>().ok()?;
        let kinds = Self::ALL.into_iter();
        let best = kinds.max_by_key(|kind| kind.matches(&table))?;
        (best.matches(&table) > 0).then_some(best)
    }

    /// Refuses the text of another kind. One whose kind cannot be told is let through: what is
    /// wrong with it is told by key.
    ///
    /// # Errors
    /// Says what the file is, and which command reads it.
    pub fn expect(self, text: &str, path: &Path) -> Result<()> {
        // What is not TOML is told where it is read.
        let Ok(table) = text.parse::<toml::Table>() else {
            return Ok(());
        };
        let own = self.matches(&table);
        let best = Self::ALL
            .into_iter()
            .max_by_key(|kind| kind.matches(&table));
        match best.filter(|best| best.matches(&table) > own) {
            None => Ok(()),
            Some(other) => {
                let message = format!("this is {}, not {}", other.name(), self.name());
                Err(Error::invalid(path.display(), message)
                    .with_hint(format!("run `{}`", other.command(path))))
            }
        }
    }
}

/// The language of a text that is not TOML but looks like another.
fn foreign(text: &str, path: &Path) -> Option<&'static str> {
    if text.parse::<toml::Table>().is_ok() {
        return None;
    }
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("yml" | "yaml") => return Some("YAML"),
        Some("json") => return Some("JSON"),
        _ => {}
    }
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.find(|line| !line.starts_with("---"))?;
    // A table of TOML in braces has no line of its own.
    if first.starts_with('{') {
        return Some("JSON");
    }
    let entry = first.strip_prefix("- ").unwrap_or(first);
    let is_name = |key: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        !key.is_empty() && key.chars().all(plain)
    };
    let (key, value) = entry.split_once(':')?;
    (is_name(key) && (value.is_empty() || value.starts_with(' '))).then_some("YAML")
}
