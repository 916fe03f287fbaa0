//! How to grow, as a recipe's table or a command's flags say it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{GrowthPlan, Initializer, Method, Placement, plan_file};
use crate::checkpoint::config::MAX_LAYERS;
use crate::error::{Error, Result, counted};
use crate::home;

/// How to grow: the `[grow]` table, and the flags of `grow`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GrowConfig {
    /// Blocks afterwards; not with `plan`.
    pub to: Option<usize>,
    /// A published method.
    pub method: Option<String>,
    /// Where new blocks stand; `interleave` unless given.
    pub placement: Option<Placement>,
    /// How they get their values; `zero-residual` unless given.
    pub init: Option<Initializer>,
    /// A plan file.
    #[serde(default, deserialize_with = "home::deserialize")]
    pub plan: Option<PathBuf>,
    /// Whether a plan file may leave fewer blocks than there are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_shrink: bool,
}

/// What is said of keys of which one leaves no room for the other.
pub const EXCLUDE: &str = "exclude each other";

/// Where a [`GrowConfig`] was written, so that errors name what can be changed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By the flags of `grow`.
    ByFlags,
    /// By the `grow` table of a recipe.
    ByRecipe,
}

impl Asked {
    /// What a key is called there.
    fn name(self, key: &str) -> String {
        match self {
            Self::ByFlags => format!("--{}", key.replace('_', "-")),
            Self::ByRecipe => format!("grow.{key}"),
        }
    }

    /// How a plan file is allowed to leave fewer blocks.
    fn allow_shrink(self) -> String {
        match self {
            Self::ByFlags => self.name("allow_shrink"),
            Self::ByRecipe => self.set("allow_shrink", true),
        }
    }

    /// The error of what a key says; flags say it themselves.
    fn of_key(self, key: &str, error: Error) -> Error {
        if self == Self::ByFlags {
            return error;
        }
        let hint = error.hint().map(str::to_owned);
        let told = Error::usage(format!("{}: {error}", self.name(key)));
        match hint {
            Some(hint) => told.with_hint(hint),
            None => told,
        }
    }

    /// A key with a value.
    fn set(self, key: &str, value: impl std::fmt::Display) -> String {
        match self {
            Self::ByFlags => format!("{} {value}", self.name(key)),
            Self::ByRecipe => format!("{} = {value}", self.name(key)),
        }
    }
}

impl GrowConfig {
    /// The plan for a model of `n` blocks.
    ///
    /// # Errors
    /// The keys contradict each other, or `to` is not above `n`, or a plan file leaves fewer
    /// blocks than `n` and is not allowed to.
    pub fn resolve(&self, n: usize, asked: Asked) -> Result<GrowthPlan> {
        self.check_exclusive(asked)?;
        if let Some(path) = &self.plan {
            let plan = plan_file::load(path, n).map_err(|error| asked.of_key("plan", error))?;
            self.check_plan(&plan, asked)?;
            return Ok(plan);
        }
        let to = self.to.ok_or_else(|| {
            Error::usage(match asked {
                Asked::ByFlags => "how deep? give --to N, or a plan file with --plan",
                Asked::ByRecipe => "how deep? give grow.to, grow.plan, or `depths` of a stage",
            })
        })?;
        if to <= n {
            let error = Error::usage(format!(
                "{} is not deeper than the source's {}",
                asked.set("to", to),
                counted(n, "block", "blocks")
            ));
            return Err(if to < n {
                error.with_hint(format!(
                    "a plan file can name fewer blocks than there are, with {}",
                    asked.allow_shrink()
                ))
            } else {
                error
            });
        }
        if to > MAX_LAYERS {
            return Err(Error::usage(format!(
                "{}: at most {MAX_LAYERS} blocks are supported",
                asked.set("to", to)
            )));
        }
        if let Some(name) = &self.method {
            let named = Method::by_name(name).and_then(|method| method.plan(n, to));
            return named.map_err(|error| asked.of_key("method", error));
        }
        let map = self
            .placement
            .unwrap_or(Placement::Interleave)
            .layer_map(n, to);
        GrowthPlan::from_map(
            n,
            &map,
            self.init.as_ref().unwrap_or(&Initializer::ZERO_RESIDUAL),
        )
        .map_err(|error| asked.of_key("init", error))
    }

    /// Refuses a method, a plan file, and a placement or an initializer beside each other.
    fn check_exclusive(&self, asked: Asked) -> Result<()> {
        let own = match (self.placement.is_some(), self.init.is_some()) {
            (true, _) => Some("placement"),
            (false, true) => Some("init"),
            (false, false) => None,
        };
        let given = [
            self.method.as_ref().map(|_| "method"),
            self.plan.as_ref().map(|_| "plan"),
            own,
        ];
        let given: Vec<&str> = given.into_iter().flatten().collect();
        let [one, other, ..] = given[..] else {
            return Ok(());
        };
        let [one, other] = [one, other].map(|key| asked.name(key));
        Err(Error::usage(format!("{one} and {other} {EXCLUDE}"))
            .with_hint("a method and a plan file each say both where and what"))
    }

    /// Holds what a plan file makes against what is asked besides.
    fn check_plan(&self, plan: &GrowthPlan, asked: Asked) -> Result<()> {
        let (n, makes) = (plan.source_n_layer, plan.n_layer());
        if let Some(to) = self.to.filter(|&to| to != makes) {
            return Err(Error::usage(match asked {
                Asked::ByFlags => format!("the plan file makes {makes} blocks, --to says {to}"),
                Asked::ByRecipe => {
                    format!("grow.to = {to}, but the plan file makes {makes} blocks")
                }
            }));
        }
        if makes < n && !self.allow_shrink {
            let lost = match plan.dropped().as_slice() {
                [one] => format!("source block {one} would be lost"),
                several => {
                    let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                    format!("source blocks {} would be lost", names.join(", "))
                }
            };
            let message = format!("the plan file leaves {makes} of {n} blocks: {lost}");
            let allow = asked.allow_shrink();
            return Err(Error::usage(message).with_hint(format!("give {allow} if that is meant")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keys_that_contradict_are_refused() {
        let resolve = |grow: GrowConfig| grow.resolve(12, Asked::ByRecipe);
        assert!(
            resolve(GrowConfig {
                to: Some(12),
                ..Default::default()
            })
            .is_err()
        );
        assert!(
            resolve(GrowConfig {
                to: Some(8),
                ..Default::default()
            })
            .is_err()
        );
        assert!(resolve(GrowConfig::default()).is_err());
        assert!(
            resolve(GrowConfig {
                to: Some(24),
                method: Some("g-stack".into()),
                init: Some(Initializer::COPY),
                ..Default::default()
            })
            .is_err()
        );
        let plan = resolve(GrowConfig {
            to: Some(24),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(plan.layer_map(), (0..24).map(|j| j / 2).collect::<Vec<_>>());
    }
}
