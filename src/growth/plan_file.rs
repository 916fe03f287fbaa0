//! Plan files: any depth plan in TOML, as slices of the source.
//!
//! ```toml
//! [[slice]]                      # mergekit's passthrough: half-open ranges, in order
//! layers = [0, 8]
//!
//! [[slice]]                      # again: these blocks are new
//! layers = [4, 12]
//! init = "zero-residual"         # for the new ones; copy unless given
//!
//! [[slice]]
//! layers = [11, 12]
//! init = { scaled = { scale = 0.5, only = ["c_proj"] } }
//! repeat = 2                     # the slice this many times; 1 unless given
//! ```
//!
//! The first place of a source block keeps it. `keep = false` makes new blocks of a slice's
//! first places too.

use std::path::Path;

use serde::Deserialize;

use super::init::Initializer;
use super::plan::{GrowthPlan, Slot};
use crate::checkpoint::config::MAX_LAYERS;
use crate::error::{Error, Result};
use crate::settings::{self, Kind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    slice: Vec<Slice>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slice {
    layers: [usize; 2],
    #[serde(default = "copy")]
    init: Initializer,
    #[serde(default = "one")]
    repeat: usize,
    #[serde(default = "yes")]
    keep: bool,
}

fn copy() -> Initializer {
    Initializer::COPY
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// Reads a plan for a source of `n_layer` blocks.
///
/// # Errors
/// It cannot be read, is a file of another kind, or does not fit the source.
pub fn load(path: &Path, n_layer: usize) -> Result<GrowthPlan> {
    let text = Kind::Plan.read(path)?;
    parse(&text, n_layer, &path.display().to_string())
}

/// A plan as the text of a plan file, which [`load`] reads as the same plan.
///
/// # Errors
/// A number of an initializer is none that TOML has.
pub fn render(plan: &GrowthPlan) -> Result<String> {
    let mut seen = vec![false; plan.source_n_layer];
    let mut slices: Vec<([usize; 2], String)> = Vec::new();
    for slot in &plan.slots {
        let mut how = String::new();
        if let Some(init) = &slot.init {
            if !seen[slot.source] {
                how += "keep = false\n";
            }
            how += &format!("init = {}\n", in_toml(init)?);
        }
        seen[slot.source] |= slot.is_kept();
        match slices.last_mut() {
            // A run of kept blocks, or of new ones made alike.
            Some((layers, same)) if layers[1] == slot.source && *same == how => layers[1] += 1,
            _ => slices.push(([slot.source, slot.source + 1], how)),
        }
    }
    let slices = slices
        .into_iter()
        .map(|([start, end], how)| format!("[[slice]]\nlayers = [{start}, {end}]\n{how}"));
    Ok(slices.collect::<Vec<_>>().join("\n"))
}

/// An initializer as a value: its name, where it has no parameters.
fn in_toml(init: &Initializer) -> Result<String> {
    let bad = |e: toml::ser::Error| Error::invalid("plan", e.to_string());
    let value = toml::Value::try_from(init).map_err(bad)?;
    match value.as_table().and_then(|table| table.iter().next()) {
        Some((name, toml::Value::Table(parameters))) if parameters.is_empty() => {
            Ok(format!("\"{name}\""))
        }
        _ => Ok(value.to_string()),
    }
}

/// `at` names the text in errors.
fn parse(text: &str, n_layer: usize, at: &str) -> Result<GrowthPlan> {
    let file: PlanFile = settings::read(text).map_err(|mistake| mistake.into_error(at))?;
    let mut seen = vec![false; n_layer];
    let mut slots = Vec::new();
    for (i, slice) in file.slice.iter().enumerate() {
        let [start, end] = slice.layers;
        if start >= end || end > n_layer {
            let message = format!(
                "slice {}: layers = [{start}, {end}] is not a range within the source's [0, {n_layer}]",
                i + 1
            );
            return Err(Error::invalid(at, message));
        }
        for source in (0..slice.repeat).flat_map(|_| start..end) {
            let first = !seen[source] && slice.keep;
            seen[source] |= first;
            slots.push(Slot {
                source,
                init: (!first).then(|| slice.init.clone()),
            });
            if slots.len() > MAX_LAYERS {
                let message = format!("the plan has more than {MAX_LAYERS} blocks");
                return Err(Error::invalid(at, message));
            }
        }
    }
    GrowthPlan::new(n_layer, slots).map_err(|error| error.within(at))
}

#[cfg(test)]
mod tests {
    use super::super::init::{Claim, Scaled};
    use super::*;

    fn parse(text: &str, n_layer: usize) -> Result<GrowthPlan> {
        super::parse(text, n_layer, "plan.toml")
    }

    #[test]
    fn slices_repeat_and_keep_as_documented() {
        let plan = parse("[[slice]]\nlayers = [0, 3]\n[[slice]]\nlayers = [1, 4]\ninit = \"zero-residual\"\n[[slice]]\nlayers = [3, 4]\nrepeat = 2\ninit = { scaled = { scale = 0.25 } }\n", 4).unwrap();
        assert_eq!(plan.to_string(), "0 1 2 1* 2* 3 3* 3*");
        let quarter = Scaled {
            scale: 0.25,
            ..Scaled::default()
        };
        assert_eq!(plan.slots[7].init, Some(Initializer::Scaled(quarter)));
    }

    #[test]
    fn a_llama_pro_plan_is_exact() {
        let text =
            "[[slice]]\nlayers = [0, 2]\n[[slice]]\nlayers = [1, 2]\ninit = \"zero-residual\"\n";
        assert_eq!(parse(text, 2).unwrap().claim(), Claim::Exact);
    }

    #[test]
    fn every_plan_is_read_back_as_it_was_written() {
        for method in &crate::growth::method::METHODS {
            for to in [5, 6, 8, 12] {
                let Ok(plan) = method.plan(4, to) else {
                    continue;
                };
                let text = render(&plan).unwrap();
                let back =
                    parse(&text, 4).unwrap_or_else(|e| panic!("{}: {e}\n{text}", method.name));
                assert_eq!(back.slots, plan.slots, "{}\n{text}", method.name);
            }
        }
        let text = "[[slice]]\nlayers = [1, 2]\nkeep = false\n[[slice]]\nlayers = [0, 2]\n[[slice]]\nlayers = [0, 1]\ninit = { scaled = { scale = 0.25 } }\nrepeat = 2\n";
        let plan = parse(text, 2).unwrap();
        assert_eq!(parse(&render(&plan).unwrap(), 2).unwrap().slots, plan.slots);
    }

    #[test]
    fn mistakes_are_located() {
        let parse = |text: &str, n| parse(text, n).map_err(|error| error.to_string());
        let error = parse("[[slice]]\nlayers = [0, 2]\nint = \"copy\"\n", 2).unwrap_err();
        assert!(error.contains("line 3") && error.contains("int"), "{error}");
        let error = parse("[[slice]]\nlayers = [0, 9]\n", 2).unwrap_err();
        assert!(
            error.contains("slice 1") && error.contains("[0, 2]"),
            "{error}"
        );
        let error = parse("[[slice]]\nlayers = [0, 2]\ninit = \"zero-residul\"\n", 2).unwrap_err();
        assert!(error.contains("did you mean `zero-residual`"), "{error}");
        assert!(parse("[[slice]]\nlayers = [0, 2]\nrepeat = 1000000000000\n", 2).is_err());
    }
}
