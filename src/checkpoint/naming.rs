//! What training frameworks put before and into the names of tensors.
//!
//! A compiled, data-parallel or sharded model, a trainer and a dictionary around the weights each
//! leave a word in every name: `module._orig_mod.transformer.wte.weight`. Which words they are is
//! seen from the names themselves: whatever stands before `wpe.weight`, which every GPT-2 has.

use std::collections::BTreeSet;

use super::layout::{PREFIX, WPE};
use crate::error::printable;

/// Words of PyTorch's wrappers, which stand at any place in a name.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// How the tensors of a file are named.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// What stands before the names of the model, such as `module.`.
    outer: String,
    /// Words of wrappers that were met.
    wrappers: BTreeSet<&'static str>,
}

impl Naming {
    /// Looks at all names of a model.
    ///
    /// # Errors
    /// They are those of several models: what stands before the names of each.
    pub fn of(names: &[String]) -> Result<Self, Vec<String>> {
        let words = names.iter().flat_map(|name| name.split('.'));
        let met = |word| WRAPPERS.into_iter().find(|wrapper| *wrapper == word);
        let naming = Self {
            outer: String::new(),
            wrappers: words.filter_map(met).collect(),
        };
        let outers: BTreeSet<String> = names
            .iter()
            .filter_map(|name| {
                let name = naming.without_wrappers(name);
                let before = name.strip_suffix(WPE)?;
                let before = before.strip_suffix(PREFIX).unwrap_or(before);
                let whole_words = before.is_empty() || before.ends_with('.');
                whole_words.then(|| before.to_owned())
            })
            .collect();
        if outers.len() > 1 && !outers.contains("") {
            return Err(outers.into_iter().collect());
        }
        let outer = outers.into_iter().next().unwrap_or_default();
        Ok(Self { outer, ..naming })
    }

    /// The name that a tensor has in its model. What does not belong to the model keeps its own.
    pub fn inner(&self, name: &str) -> String {
        let name = self.without_wrappers(name);
        match name.strip_prefix(&self.outer) {
            Some(inner) => inner.to_owned(),
            None => name,
        }
    }

    fn without_wrappers(&self, name: &str) -> String {
        if self.wrappers.is_empty() {
            return name.to_owned();
        }
        let words = name.split('.').filter(|word| !self.wrappers.contains(word));
        words.collect::<Vec<_>>().join(".")
    }

    /// What is left out of the names, in words; nothing where they are read as they are.
    pub fn note(&self) -> Option<String> {
        let outer = Some(printable(&self.outer)).filter(|outer| !outer.is_empty());
        let wrappers = self.wrappers.iter().map(|word| format!("{word}."));
        let left_out: Vec<String> = outer
            .into_iter()
            .chain(wrappers)
            .map(|word| format!("`{word}`"))
            .collect();
        (!left_out.is_empty()).then(|| {
            format!(
                "the names of tensors are read without {}",
                left_out.join(" and ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(names: &[&str]) -> Result<Naming, Vec<String>> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Naming::of(&names)
    }

    #[test]
    fn words_before_and_within_are_left_out() {
        for (wpe, block, note) in [
            ("wpe.weight", "h.0.ln_1.bias", None),
            (
                "module.wpe.weight",
                "module.h.0.ln_1.bias",
                Some("`module.`"),
            ),
            (
                "state_dict.model._orig_mod.wpe.weight",
                "state_dict.model._orig_mod.h.0.ln_1.bias",
                Some("`state_dict.model.` and `_orig_mod.`"),
            ),
            (
                "_forward_module.lit.wpe.weight",
                "_forward_module.lit.h.0._orig_mod.ln_1.bias",
                Some("`lit.` and `_forward_module.` and `_orig_mod.`"),
            ),
        ] {
            let naming = naming(&[wpe, block, "optimizer.state.0.exp_avg"]).unwrap();
            assert_eq!(naming.inner(wpe), "wpe.weight");
            assert_eq!(naming.inner(block), "h.0.ln_1.bias");
            assert_eq!(naming.inner("lm_head.weight"), "lm_head.weight");
            assert_eq!(
                naming.inner("optimizer.state.0.exp_avg"),
                "optimizer.state.0.exp_avg"
            );
            let expected =
                note.map(|words| format!("the names of tensors are read without {words}"));
            assert_eq!(naming.note(), expected);
        }
    }

    #[test]
    fn the_prefix_of_the_trunk_is_part_of_the_model() {
        let naming = naming(&["module.transformer.wpe.weight", "module.lm_head.weight"]).unwrap();
        assert_eq!(
            naming.inner("module.transformer.wpe.weight"),
            "transformer.wpe.weight"
        );
        assert_eq!(naming.inner("module.lm_head.weight"), "lm_head.weight");
    }

    #[test]
    fn several_models_are_told_apart() {
        let both = naming(&["model.wpe.weight", "ema.transformer.wpe.weight"]);
        assert_eq!(both.unwrap_err(), ["ema.", "model."]);
        let plain = naming(&["wpe.weight", "teacher.wpe.weight"]).unwrap();
        assert_eq!(plain.inner("teacher.wpe.weight"), "teacher.wpe.weight");
        assert_eq!(naming(&["xwpe.weight"]).unwrap().note(), None);
    }
}
