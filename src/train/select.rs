//! Which parameters a stage trains, and which learn at a rate of their own.
//!
//! A selector is a word or a pattern over parameter names: `all`; `new` and `old`, the blocks
//! added by the last growth and all other blocks; `embeddings` (`wte` and `wpe`); `head` (the
//! matrix that makes the logits, which is `wte` where tied); `ln_f`; or a name with `*` for any
//! run of characters, as in `h.*.attn.c_attn.*`. In a list, what starts with `!` takes away
//! from what stands before it.

use std::collections::{BTreeMap, BTreeSet};

use super::check_rate;
use crate::checkpoint::{Gpt2Config, layout};
use crate::error::{Error, Result, did_you_mean, printable};

/// Selectors that are words.
const WORDS: [&str; 6] = ["all", "new", "old", "embeddings", "head", "ln_f"];

/// What names are selected from.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The architecture.
    pub config: &'a Gpt2Config,
    /// Blocks added by the last growth.
    pub new_layers: &'a BTreeSet<usize>,
}

impl Scope<'_> {
    /// Every parameter.
    pub fn names(&self) -> BTreeSet<String> {
        let params = layout::params(self.config).into_iter();
        params.map(|param| param.name).collect()
    }

    /// The parameters that a list selects.
    ///
    /// # Errors
    /// The list, or one of its patterns, selects nothing.
    pub fn select(&self, selectors: &[String]) -> Result<BTreeSet<String>> {
        let mut selected = BTreeSet::new();
        for selector in selectors {
            match selector.strip_prefix('!') {
                Some(without) => {
                    let away = self.one(without)?;
                    selected.retain(|name| !away.contains(name));
                }
                None => selected.extend(self.one(selector)?),
            }
        }
        if !selected.is_empty() {
            return Ok(selected);
        }
        Err(match selectors {
            [one] if ["new", "old"].contains(&one.as_str()) => selects_nothing(one),
            [] => Error::usage("the list is empty").with_hint(known()),
            _ => Error::usage(format!("{selectors:?} selects no parameter")).with_hint(known()),
        })
    }

    /// Factor per parameter: the product of all whose selector matches.
    ///
    /// # Errors
    /// A selector matches nothing, or a factor is not 0 or more.
    pub fn factors(&self, table: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
        let mut factors = BTreeMap::new();
        for (selector, &factor) in table {
            check_rate(selector, factor).map_err(Error::usage)?;
            for name in self.one(selector)? {
                *factors.entry(name).or_insert(1.0) *= factor;
            }
        }
        Ok(factors)
    }

    fn one(&self, selector: &str) -> Result<BTreeSet<String>> {
        let head = if self.config.tie_word_embeddings {
            layout::WTE
        } else {
            layout::LM_HEAD
        };
        let in_block = |name: &str, new: bool| {
            layout::split_block_name(name)
                .is_some_and(|(layer, _)| self.new_layers.contains(&layer) == new)
        };
        let matches = |name: &str| match selector {
            "all" => true,
            "new" => in_block(name, true),
            "old" => in_block(name, false),
            "embeddings" => name == layout::WTE || name == layout::WPE,
            "head" => name == head,
            "ln_f" => name.starts_with("ln_f."),
            pattern => glob(pattern.as_bytes(), name.as_bytes()),
        };
        let found: BTreeSet<String> = self.names().into_iter().filter(|n| matches(n)).collect();
        // `new` and `old` may be empty by themselves: a list says what else there is.
        if found.is_empty() && !["new", "old"].contains(&selector) {
            let message = format!("`{}` matches no parameter", printable(selector));
            let hint = self.nearest(selector).unwrap_or_else(known);
            return Err(Error::usage(message).with_hint(hint));
        }
        Ok(found)
    }

    /// What may be meant by a selector that matches nothing.
    fn nearest(&self, selector: &str) -> Option<String> {
        let names = self.names();
        let names = || names.iter().map(String::as_str);
        let did = |meant: &str| Some(format!("did you mean `{meant}`?"));
        if let Some(rest) = selector.strip_prefix("transformer.") {
            let matches = names().any(|name| glob(rest.as_bytes(), name.as_bytes()));
            return if matches {
                did(rest)
            } else {
                self.nearest(rest)
            };
        }
        let block = selector
            .strip_prefix("h.")
            .and_then(|rest| rest.split('.').next());
        if block.is_some_and(|block| block.parse().is_ok_and(|n: usize| n >= self.config.n_layer)) {
            return Some(format!(
                "the blocks are h.0 to h.{}",
                self.config.n_layer - 1
            ));
        }
        if let Some(near) = did_you_mean(&selector.to_lowercase(), WORDS.into_iter().chain(names()))
        {
            return did(near);
        }
        // A part of a name, as `c_attn` or `h.0`.
        let is_part = |name: &str| format!(".{name}.").contains(&format!(".{selector}."));
        let whole = |name: &str| name.starts_with(&format!("{selector}."));
        match (names().any(whole), names().any(is_part)) {
            (true, _) => did(&format!("{selector}.*")),
            (_, true) => did(&format!("*.{selector}.*")),
            _ => None,
        }
    }
}

/// The error of `new` or `old` where there are no such blocks.
pub fn selects_nothing(word: &str) -> Error {
    let (message, other) = match word {
        "new" => ("`new` selects nothing: no growth adds blocks", "old"),
        _ => ("`old` selects nothing: all blocks are new", "new"),
    };
    Error::usage(message).with_hint(format!(
        "say how the model grows, with [grow], or select others: {other}, all, embeddings, head, ln_f, or names with *"
    ))
}

/// What selectors there are.
fn known() -> String {
    format!(
        "known are {}, and names such as h.0.attn.c_attn.weight with * for any part",
        WORDS.join(", ")
    )
}

/// Whether `pattern`, in which `*` stands for any run of bytes, matches all of `name`.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| glob(rest, &name[skip..])),
        Some((byte, rest)) => name.first() == Some(byte) && glob(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(tied: bool, new: &[usize], selectors: &[&str]) -> Result<BTreeSet<String>> {
        let mut config = Gpt2Config::new(16, 8, 8, 3, 2).unwrap();
        config.tie_word_embeddings = tied;
        let new_layers = new.iter().copied().collect();
        let scope = Scope {
            config: &config,
            new_layers: &new_layers,
        };
        scope.select(&selectors.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_select_their_parameters() {
        let count = |selectors: &[&str]| select(true, &[1], selectors).unwrap().len();
        assert_eq!(count(&["all"]), 2 + 3 * 12 + 2);
        assert_eq!((count(&["new"]), count(&["old"])), (12, 24));
        assert_eq!((count(&["embeddings"]), count(&["ln_f"])), (2, 2));
        assert_eq!(
            count(&["new", "old", "embeddings", "ln_f"]),
            count(&["all"])
        );
        assert_eq!(count(&["h.*.attn.c_attn.*"]), 6);
        assert_eq!(count(&["all", "!old"]), 16);
    }

    #[test]
    fn the_head_is_wte_where_tied() {
        let head = |tied| select(tied, &[], &["head"]).unwrap().pop_first().unwrap();
        assert_eq!(
            (head(true).as_str(), head(false).as_str()),
            ("wte.weight", "lm_head.weight")
        );
    }

    #[test]
    fn selecting_nothing_is_an_error() {
        for (selectors, told, hint) in [
            (
                &["new"][..],
                "no growth adds blocks",
                "old, all, embeddings",
            ),
            (
                &["old", "!old"],
                "selects no parameter",
                "known are all, new",
            ),
            (&[], "the list is empty", "known are all"),
            (&["h.7.*"], "`h.7.*`", "the blocks are h.0 to h.2"),
            (
                &["h.3.ln_1.bias"],
                "`h.3.ln_1.bias`",
                "the blocks are h.0 to h.2",
            ),
            (&["all", "!hh"], "`hh`", "known are"),
            (&["embedings"], "`embedings`", "did you mean `embeddings`?"),
            (&["News"], "`News`", "did you mean `new`?"),
            (&["wte"], "`wte`", "did you mean `wte.*`?"),
            (&["c_attn"], "`c_attn`", "did you mean `*.c_attn.*`?"),
            (&["h.0"], "`h.0`", "did you mean `h.0.*`?"),
            (
                &["h.0.attn.c_atn.weight"],
                "c_atn",
                "did you mean `h.0.attn.c_attn.weight`?",
            ),
            (
                &["transformer.h.*.mlp.*"],
                "transformer",
                "did you mean `h.*.mlp.*`?",
            ),
            (&["transformer.wte"], "transformer", "did you mean `wte.*`?"),
        ] {
            let error = select(true, &[], selectors).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            assert!(
                error.hint().unwrap().contains(hint),
                "{error}: {:?}",
                error.hint()
            );
        }
        let none_old = select(true, &[0, 1, 2], &["old"]).unwrap_err();
        assert!(none_old.to_string().contains("all blocks are new"));
    }

    #[test]
    fn factors_multiply() {
        let config = Gpt2Config::new(16, 8, 8, 3, 2).unwrap();
        let new_layers = BTreeSet::from([2]);
        let scope = Scope {
            config: &config,
            new_layers: &new_layers,
        };
        let table = BTreeMap::from([("new".to_owned(), 0.5), ("*.c_proj.*".to_owned(), 0.1)]);
        let factors = scope.factors(&table).unwrap();
        assert_eq!(factors["h.2.mlp.c_fc.bias"], 0.5);
        assert_eq!(factors["h.2.mlp.c_proj.bias"], 0.05);
        assert!(!factors.contains_key("h.0.mlp.c_fc.bias"));
        assert!(
            scope
                .factors(&BTreeMap::from([("new".to_owned(), f64::NAN)]))
                .is_err()
        );
    }
}
