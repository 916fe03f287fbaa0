//! `scale-ckpt clean`.

use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::clean::{Leftover, Rest, free, leftovers};
use scale_ckpt::compare::folder::{COMPARISON, SEARCH, needed};
use scale_ckpt::error::Error;
use scale_ckpt::owner;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::report::table;
use scale_ckpt::run;
use serde_json::json;

use super::shared::{bytes, print, print_json};

/// Show what of runs nobody needs any more, and free it with --yes.
///
/// Of a finished run that is all but its last checkpoint and its records: earlier checkpoints, the
/// model as it was grown. Of a comparison also the models of learning-rate trials, of a search those
/// of candidates that lost. Reports and comparisons of what was cleaned stay as they were. What a
/// run that is not finished may go on from is never freed, nor what scale-ckpt did not make.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders of runs, comparisons and searches.
    #[arg(required = true, value_name = "RUN")]
    folders: Vec<PathBuf>,
    /// Free it.
    #[arg(long)]
    yes: bool,
    /// The last checkpoints of finished runs, too: records are all that stays.
    #[arg(long)]
    last: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let mut runs: Vec<(PathBuf, Rest)> = Vec::new();
        for folder in &self.folders {
            runs.extend(runs_of(folder)?);
        }
        let runs = each_once(runs)?;
        let rest = |rest| if self.last { Rest::Records } else { rest };
        let mut found = Vec::new();
        // All are looked at before anything goes.
        for (run, needed) in &runs {
            found.extend(leftovers(run, rest(*needed))?);
        }
        let (stay, found): (Vec<Leftover>, Vec<Leftover>) =
            found.into_iter().partition(|l| !l.strangers.is_empty());
        let mut found = found;
        if self.yes {
            // What was really freed is what is told.
            found.clear();
            for (run, needed) in &runs {
                found.extend(free(run, rest(*needed))?);
            }
        }
        for Leftover {
            path, strangers, ..
        } in &stay
        {
            eprint_line(&format!(
                "{} stays: it holds {}, which scale-ckpt did not make",
                path.display(),
                owner::listed(strangers)
            ));
        }
        let total = found.iter().map(|l| l.bytes).sum();
        if self.json {
            return print_json(&json!({
                "schema": 1,
                "freed": self.yes,
                "bytes": total,
                "items": found,
                "stay": stay,
            }));
        }
        self.show(&found, total)
    }

    fn show(&self, found: &[Leftover], total: u64) -> Result<()> {
        if found.is_empty() {
            return print("nothing to free");
        }
        let cells = found.iter().map(|leftover| {
            let Leftover {
                path,
                what,
                bytes: n,
                ..
            } = leftover;
            vec![path.display().to_string(), (*what).to_owned(), bytes(*n)]
        });
        let cells: Vec<Vec<String>> = cells.collect();
        print(&table::render(
            &["folder", "what", "size"],
            &[false, false, true],
            &cells,
        ))?;
        let total = bytes(total);
        if self.yes {
            return print(&format!("\n{total} freed"));
        }
        print(&format!("\n{total} can be freed; --yes does it"))
    }
}

/// Every run once, by the name that it was first called. Of one that is named by itself and in its
/// comparison goes what either leaves unneeded.
fn each_once(runs: Vec<(PathBuf, Rest)>) -> Result<Vec<(PathBuf, Rest)>> {
    let mut once: Vec<(PathBuf, PathBuf, Rest)> = Vec::new();
    for (run, rest) in runs {
        let place = run.canonicalize().map_err(Error::io("find", &run))?;
        match once.iter_mut().find(|(known, ..)| *known == place) {
            Some((_, _, known)) if rest == Rest::Records => *known = rest,
            Some(_) => {}
            None => once.push((place, run, rest)),
        }
    }
    Ok(once.into_iter().map(|(_, run, rest)| (run, rest)).collect())
}

/// The runs of a folder, and what of each is needed.
fn runs_of(folder: &Path) -> Result<Vec<(PathBuf, Rest)>> {
    if !folder.is_dir() {
        return Err(Error::invalid(folder.display(), "no folder there"));
    }
    if run::KIND.is_of(folder) {
        return Ok(vec![(folder.to_owned(), Rest::LastCheckpoint)]);
    }
    if COMPARISON.is_of(folder) || SEARCH.is_of(folder) {
        return needed(folder);
    }
    let message = "not the folder of a run, a comparison or a search";
    Err(Error::usage(format!("{}: {message}", folder.display()))
        .with_hint("name folders that `train`, `compare` or `search` wrote, as in runs/*"))
}
