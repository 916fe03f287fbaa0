//! What a settings file is of. People give one command the file of another; each kind has keys
//! that no other has.

use std::path::Path;

use crate::error::{Error, Result};

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
