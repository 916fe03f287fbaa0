//! Which runs can be compared.

use std::collections::BTreeSet;

use super::record::RunRecord;
use crate::error::{Error, Result, counted};
use crate::eval::score::Measured;

/// Runs of one recipe with different seeds.
#[derive(Clone, Debug)]
pub struct ArmRuns {
    /// What the arm is called.
    pub name: String,
    /// What it is, in a sentence.
    pub about: Option<String>,
    /// Its runs, by seed.
    pub runs: Vec<RunRecord>,
    /// Seeds whose runs diverged, and how.
    pub diverged: Vec<(u64, String)>,
}

/// Puts runs of the same recipe into one arm, named after their folders.
///
/// # Errors
/// Two runs are of one recipe and one seed.
pub fn arms_of(runs: Vec<RunRecord>) -> Result<Vec<ArmRuns>> {
    let mut arms: Vec<(String, ArmRuns)> = Vec::new();
    for run in runs {
        let identity = run.arm_identity();
        match arms.iter_mut().find(|(other, _)| *other == identity) {
            Some((_, arm)) => {
                let seed = run.recipe.seed;
                if let Some(same) = arm.runs.iter().find(|r| r.recipe.seed == seed) {
                    let (a, b) = (same.path.display(), run.path.display());
                    let message = format!("{a} and {b} are the same recipe with seed {seed}");
                    return Err(Error::usage(message).with_hint("name each run once"));
                }
                arm.runs.push(run);
            }
            None => {
                let arm = ArmRuns {
                    name: arm_name(&run),
                    about: None,
                    runs: vec![run],
                    diverged: Vec::new(),
                };
                arms.push((identity, arm));
            }
        }
    }
    let mut arms: Vec<ArmRuns> = arms.into_iter().map(|(_, arm)| arm).collect();
    for i in 1..arms.len() {
        let (before, rest) = arms.split_at_mut(i);
        let taken = |name: &str| before.iter().any(|arm| arm.name == name);
        if taken(&rest[0].name) {
            // Folders of one name in different places.
            rest[0].name = rest[0].runs[0].path.display().to_string();
        }
    }
    arms.iter_mut()
        .for_each(|arm| arm.runs.sort_by_key(|run| run.recipe.seed));
    Ok(arms)
}

/// The folder's name without its seed.
fn arm_name(run: &RunRecord) -> String {
    let name = run.path.file_name().unwrap_or_default().to_string_lossy();
    let seed = format!("seed-{}", run.recipe.seed);
    let name = name.strip_suffix(&seed).unwrap_or(&name);
    let name = name.trim_end_matches(['-', '_', '.']);
    if name.is_empty() {
        run.path.display().to_string()
    } else {
        name.to_owned()
    }
}

/// Refuses runs whose scores cannot be held against each other, and says what else differs.
///
/// # Errors
/// Names the first two runs that do not match, what of them differs, and how.
pub fn check(arms: &[ArmRuns], control: &str) -> Result<Vec<String>> {
    let runs = || arms.iter().flat_map(|arm| &arm.runs);
    let Some(first) = runs().next() else {
        return Err(Error::usage("no finished run to compare"));
    };
    for run in runs() {
        first.basis.check(&run.basis)?;
    }
    let mut notes = Vec::new();
    let mut note = |what: &str, of: &dyn Fn(&RunRecord) -> Option<String>| {
        let values: BTreeSet<String> = runs().filter_map(of).collect();
        if values.len() > 1 {
            let values: Vec<String> = values.into_iter().collect();
            notes.push(format!("runs differ in {what}: {}", values.join(", ")));
        }
    };
    note("device", &|run| Some(run.device.clone()));
    note("version of the program", &|run| {
        Some(run.tool_version.clone())
    });
    note("tokens per step", &|run| {
        Some(run.recipe.train.batch_tokens.to_string())
    });
    note("order of the data", &|run| {
        Some(format!("{:?}", run.recipe.data.order).to_lowercase())
    });
    // Runs from scratch have none to differ in.
    note("source checkpoint", &|run| {
        let source = run.basis.source_sha256.as_ref()?;
        Some(source.chars().take(12).collect())
    });
    let seeds = |arm: &ArmRuns| -> Vec<u64> { arm.runs.iter().map(|r| r.recipe.seed).collect() };
    let Some(reference) = arms.iter().find(|arm| arm.name == control) else {
        return Ok(notes);
    };
    let expected = seeds(reference);
    for arm in arms
        .iter()
        .filter(|arm| arm.name != control && !arm.runs.is_empty())
    {
        let found = seeds(arm);
        let shared = found.iter().any(|seed| expected.contains(seed));
        if !shared && arm.diverged.is_empty() && reference.diverged.is_empty() {
            let message = format!(
                "{} has seeds {found:?}, {control} has {expected:?}: with none in common, their data orders differ",
                arm.name
            );
            return Err(Error::Failed { message });
        }
        if found != expected {
            notes.push(format!(
                "{} has seeds {found:?}, {control} has {expected:?}: differences are of the seeds they share{}",
                arm.name,
                if shared { "" } else { ", which are none" }
            ));
        }
    }
    Ok(notes)
}

/// What runs must have in common.
#[derive(Clone, Debug)]
pub struct Basis {
    /// What the run or arm is called.
    pub name: String,
    /// Hash of the tokenizer.
    pub tokenizer_sha256: String,
    /// Hash of the training text.
    pub data_sha256: String,
    /// What it is measured on.
    pub measured: Measured,
    /// Hash of the source's weights, where there is a source. Arms may differ in it, runs of an
    /// arm may not.
    pub source_sha256: Option<String>,
    /// Hash of how it grows; recipes name plan files, which can change.
    pub growth_sha256: Option<String>,
}

impl Basis {
    /// What of a run is not as it is now, if anything.
    pub fn changed_since(&self, run: &Self) -> Option<String> {
        let source = self.source_sha256 != run.source_sha256;
        let known = self.growth_sha256.is_some() && run.growth_sha256.is_some();
        let growth = known && self.growth_sha256 != run.growth_sha256;
        let other = differing(self, run).map(|(what, ..)| what);
        let other = other.or(source.then(|| "the source checkpoint".to_owned()));
        other.or(growth.then(|| "the growth plan".to_owned()))
    }

    /// Refuses what cannot be compared with this one.
    ///
    /// # Errors
    /// Says what differs, and how.
    pub fn check(&self, other: &Self) -> Result<()> {
        let Some((what, a, b)) = differing(self, other) else {
            return Ok(());
        };
        let message = format!(
            "{} and {} differ in {what}: {a} and {b}",
            self.name, other.name
        );
        Err(Error::Failed { message })
    }
}

/// What must be the same and is not: a name, and both values.
fn differing(a: &Basis, b: &Basis) -> Option<(String, String, String)> {
    let text = |what: &str, a: &str, b: &str| {
        let short = |hash: &str| hash.chars().take(16).collect::<String>();
        (a != b).then(|| (what.to_owned(), short(a), short(b)))
    };
    let (ma, mb) = (&a.measured, &b.measured);
    let windows = || {
        let shown = |measured: &Measured| {
            let windows = measured.windows;
            let most = windows.max_tokens;
            format!(
                "{} every {}, {}",
                windows.context,
                windows.stride,
                most.map_or_else(|| "all".into(), |most| counted(most, "token", "tokens"))
            )
        };
        (ma.windows != mb.windows).then(|| {
            let what = "the windows of the validation text";
            (what.to_owned(), shown(ma), shown(mb))
        })
    };
    let tasks = || {
        let names = ma.tasks.keys().chain(mb.tasks.keys());
        let value = |measured: &Measured, name: &String| {
            let task = measured.tasks.get(name).cloned();
            task.unwrap_or_else(|| "not measured".into())
        };
        names
            .map(|name| (format!("task {name}"), value(ma, name), value(mb, name)))
            .find(|(_, a, b)| a != b)
    };
    text("the tokenizer", &a.tokenizer_sha256, &b.tokenizer_sha256)
        .or_else(|| text("the training text", &a.data_sha256, &b.data_sha256))
        .or_else(|| text("the validation text", &ma.val_sha256, &mb.val_sha256))
        .or_else(windows)
        .or_else(tasks)
}
