//! The folder of a comparison or a search: whether it is one, and what of its runs is needed.
//!
//! ```text
//! out/
//!   .scale-ckpt.json   says what the folder is: the first file
//!   recipes/NAME.toml  the recipe of a run, for `scale-ckpt train`
//!   sweep/NAME/        a run that decides on a learning rate
//!   runs/NAME/         a run that counts; of a search NAME ends in `-rung-N`
//!   report.json, .md, .html
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claim::Kind;
use crate::clean::{Rest, free};
use crate::error::Result;
use crate::owner::{self, Marker};
use crate::run::{self, REPORT_FILE};

/// A comparison's folder, or one of a comparison's report alone.
pub const COMPARISON: Kind = Kind {
    name: ("a", "comparison"),
    is_older: |dir| {
        let report = report(dir);
        (report["control"].is_string() && report["arms"].is_array())
            || (has_runs(dir) && report.is_null() && !has_rungs(dir))
    },
};

/// A search's folder.
pub const SEARCH: Kind = Kind {
    name: ("a", "search"),
    is_older: |dir| {
        let report = report(dir);
        (report["rungs"].is_array() && report["winner"].is_string())
            || (has_runs(dir) && report.is_null() && has_rungs(dir))
    },
};

/// Which models of an experiment's runs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The last checkpoint of every run that counts: not those of learning-rate trials, nor of
    /// candidates that lost.
    #[default]
    Needed,
    /// All that the runs themselves keep.
    All,
}

/// Makes a folder an experiment's, if it is not one already. It is not locked from then on:
/// several processes may share the runs, which are.
///
/// # Errors
/// The folder holds something else.
pub fn claim(kind: &Kind, out: &Path) -> Result<()> {
    kind.check(out)?;
    match Marker::of(out) {
        Some(_) => Ok(()),
        None => kind.claim(out).map(drop),
    }
}

/// The runs of an experiment, and what is needed of each.
///
/// # Errors
/// A folder cannot be listed.
pub fn needed(out: &Path) -> Result<Vec<(PathBuf, Rest)>> {
    let trials = runs_in(out, "sweep")?;
    let mut found: Vec<(PathBuf, Rest)> =
        trials.into_iter().map(|run| (run, Rest::Records)).collect();
    let runs = runs_in(out, "runs")?;
    let last = runs
        .iter()
        .filter_map(|run| rung_of(run))
        .max_by_key(|(_, rung)| *rung);
    let last = last.map(|(_, rung)| rung);
    let report = report(out);
    let winner = report["winner"].as_str();
    for run in runs {
        // Of rungs below the last, nothing is gone on with; in the last one, all are until it is
        // known who has won.
        let lost = rung_of(&run).is_some_and(|(name, rung)| {
            Some(rung) != last || winner.is_some_and(|winner| winner != name)
        });
        let rest = if lost {
            Rest::Records
        } else {
            Rest::LastCheckpoint
        };
        found.push((run, rest));
    }
    Ok(found)
}

/// Frees what is not needed of an experiment that is over.
///
/// # Errors
/// Something cannot be removed.
pub fn free_all(out: &Path, keep: Keep) -> Result<()> {
    if keep == Keep::Needed {
        for (run, rest) in needed(out)? {
            free(&run, rest)?;
        }
    }
    Ok(())
}

fn report(dir: &Path) -> Value {
    owner::json(&dir.join(REPORT_FILE)).unwrap_or_default()
}

/// The folders of runs in a part of an experiment's folder.
fn runs_in(out: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let dir = out.join(part);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let names = owner::contents(&dir)?.into_iter();
    let mut runs: Vec<PathBuf> = names.map(|name| dir.join(name)).collect();
    runs.retain(|run| run::KIND.is_of(run));
    Ok(runs)
}

/// Candidate and rung of a search's run.
fn rung_of(run: &Path) -> Option<(&str, u64)> {
    let (name, rung) = run.file_name()?.to_str()?.rsplit_once("-rung-")?;
    Some((name, rung.parse().ok()?))
}

/// Whether a folder has runs whose recipes stand beside them: a folder `runs` alone may be
/// anybody's.
fn has_runs(out: &Path) -> bool {
    let runs = ["runs", "sweep"].map(|part| runs_in(out, part).unwrap_or_default());
    let has_recipe = |run: &PathBuf| {
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        out.join("recipes").join(format!("{name}.toml")).is_file()
    };
    runs.iter().flatten().any(has_recipe)
}

fn has_rungs(out: &Path) -> bool {
    let runs = runs_in(out, "runs").unwrap_or_default();
    runs.iter().any(|run| rung_of(run).is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const INPUTS: &str =
        r#"{"recipe": "a", "training text": "b", "tokenizer": "c", "growth plan": "d"}"#;

    fn with_run(out: &Path, name: &str) {
        fs::create_dir_all(out.join("runs").join(name)).unwrap();
        fs::write(out.join("runs").join(name).join("inputs.json"), INPUTS).unwrap();
    }

    #[test]
    fn older_folders_are_known_by_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path();
        with_run(out, "a-seed-1");
        assert!(COMPARISON.check(out).is_err(), "anybody's folder of runs");
        fs::create_dir(out.join("recipes")).unwrap();
        fs::write(out.join("recipes/a-seed-1.toml"), "").unwrap();
        assert!(COMPARISON.check(out).is_ok() && SEARCH.check(out).is_err());
        fs::write(out.join("report.json"), r#"{"mine": 1}"#).unwrap();
        assert!(
            COMPARISON.check(out).is_err(),
            "a report of somebody else's"
        );
        let report = r#"{"control": "a", "arms": []}"#;
        fs::write(out.join("report.json"), report).unwrap();
        assert!(COMPARISON.check(out).is_ok() && SEARCH.check(out).is_err());
        let report = r#"{"rungs": [], "winner": "a"}"#;
        fs::write(out.join("report.json"), report).unwrap();
        assert!(COMPARISON.check(out).is_err() && SEARCH.check(out).is_ok());
    }

    #[test]
    fn a_search_needs_the_last_rung_and_then_the_winner() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path();
        for run in ["a-rung-1", "b-rung-1", "c-rung-1", "a-rung-2", "b-rung-2"] {
            with_run(out, run);
        }
        let kept = || {
            let mut runs = needed(out).unwrap();
            runs.retain(|(_, rest)| *rest == Rest::LastCheckpoint);
            let name =
                |(run, _): (PathBuf, Rest)| run.strip_prefix(out.join("runs")).unwrap().to_owned();
            runs.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(kept(), ["a-rung-2", "b-rung-2"].map(PathBuf::from));
        let report = r#"{"rungs": [], "winner": "b"}"#;
        fs::write(out.join("report.json"), report).unwrap();
        assert_eq!(kept(), [PathBuf::from("b-rung-2")]);
        // A name from a file is compared, never followed.
        let report = r#"{"rungs": [], "winner": "../../b"}"#;
        fs::write(out.join("report.json"), report).unwrap();
        assert_eq!(kept(), Vec::<PathBuf>::new());
    }
}
