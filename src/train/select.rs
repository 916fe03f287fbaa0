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
    pub fn select(&self, selectors: &[String]) -> Result<BTreeSet<String>, String> {
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
        if selected.is_empty() {
            return Err(format!("{selectors:?} selects no parameter"));
        }
        Ok(selected)
    }

    /// Factor per parameter: the product of all whose selector matches.
    ///
    /// # Errors
    /// A selector matches nothing, or a factor is not a number from 0.
    pub fn factors(&self, table: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>, String> {
        let mut factors = BTreeMap::new();
        for (selector, &factor) in table {
            check_rate(selector, factor)?;
            for name in self.one(selector)? {
                *factors.entry(name).or_insert(1.0) *= factor;
            }
        }
        Ok(factors)
    }

    fn one(&self, selector: &str) -> Result<BTreeSet<String>, String> {
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
            return Err(format!(
                "`{}` matches no parameter; known are all, new, old, embeddings, head, ln_f, and names such as h.0.attn.c_attn.weight with * for any part",
                crate::error::printable(selector)
            ));
        }
        Ok(found)
    }
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

    fn select(tied: bool, new: &[usize], selectors: &[&str]) -> Result<BTreeSet<String>, String> {
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
        assert!(
            select(true, &[], &["new"])
                .unwrap_err()
                .contains("selects no parameter")
        );
        assert!(select(true, &[], &["h.7.*"]).unwrap_err().contains("h.7.*"));
        assert!(select(true, &[], &["all", "!hh"]).is_err());
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
