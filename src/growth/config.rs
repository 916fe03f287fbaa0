//! How to grow, as a recipe's table or a command's flags say it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{GrowthPlan, Initializer, Method, Placement, plan_file};
use crate::checkpoint::config::MAX_LAYERS;
use crate::error::{Error, Result, counted};

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
    pub plan: Option<PathBuf>,
}

impl GrowConfig {
    /// The plan for a source of `n` blocks.
    ///
    /// # Errors
    /// The keys contradict each other, or `to` is not above `n`.
    pub fn resolve(&self, n: usize) -> Result<GrowthPlan> {
        let given = [
            self.method.is_some(),
            self.plan.is_some(),
            self.placement.is_some() || self.init.is_some(),
        ];
        if given.into_iter().filter(|&g| g).count() > 1 {
            return Err(
                Error::usage("method, plan, and placement with init exclude each other")
                    .with_hint("a method and a plan file each say both where and what"),
            );
        }
        if let Some(path) = &self.plan {
            let plan = plan_file::load(path, n)?;
            return match self.to {
                Some(to) if to != plan.n_layer() => Err(Error::usage(format!(
                    "the plan file makes {}, --to says {to}",
                    counted(plan.n_layer(), "block", "blocks")
                ))),
                _ => Ok(plan),
            };
        }
        let to = self.to.ok_or_else(|| {
            Error::usage("how deep? give --to N, in a recipe `to` or `depths`, or a plan file")
        })?;
        if to <= n {
            return Err(Error::usage(format!(
                "--to {to} is not deeper than the source's {}",
                counted(n, "block", "blocks")
            )));
        }
        if to > MAX_LAYERS {
            return Err(Error::usage(format!(
                "--to {to}: at most {MAX_LAYERS} blocks are supported"
            )));
        }
        if let Some(name) = &self.method {
            return Method::by_name(name)?.plan(n, to);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keys_that_contradict_are_refused() {
        let resolve = |grow: GrowConfig| grow.resolve(12);
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
