//! Keys that the command line sets: `--set KEY=VALUE`.

use super::Mistake;
use crate::error::{Error, Result, printable};

/// Assignments of `--set`, in order.
#[derive(Clone, Copy, Debug)]
pub struct Overrides<'a>(pub &'a [String]);

impl Overrides<'_> {
    /// Carries them out. Tables of a list are numbered from 1.
    ///
    /// # Errors
    /// An assignment has no key or no `=`, or names a table that is not there.
    pub fn apply(&self, root: &mut toml::Table) -> Result<()> {
        for assignment in self.0 {
            assign(root, assignment).map_err(|why| {
                Error::usage(format!("--set {}: {why}", printable(assignment)))
                    .with_hint("write --set train.lr=3e-4")
            })?;
        }
        Ok(())
    }

    /// The assignment that a mistake at `key` came by.
    pub fn behind(&self, mistake: &Mistake) -> Option<&str> {
        let key = &mistake.key;
        let is_behind = |set: &&String| {
            let own = set.split_once('=').map_or("", |(own, _)| own.trim());
            let rest = key.strip_prefix(own);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().rev().find(is_behind).map(String::as_str)
    }
}

fn assign(root: &mut toml::Table, assignment: &str) -> Result<(), String> {
    let (key, value) = assignment.split_once('=').ok_or("no `=`")?;
    let parts: Vec<&str> = key.trim().split('.').collect();
    let Some((last, parents)) = parts.split_last().filter(|(last, _)| !last.is_empty()) else {
        return Err("no key".into());
    };
    let mut table = root;
    let mut parents = parents.iter();
    let mut path = String::new();
    while let Some(part) = parents.next() {
        path = super::place::join(&path, part);
        let next = parents.as_slice().first();
        if !table.contains_key(*part) && next.is_some_and(|next| next.parse::<usize>().is_ok()) {
            return Err(format!("there is no [[{path}]]"));
        }
        let entry = table
            .entry(*part)
            .or_insert_with(|| toml::Table::new().into());
        let entry = match entry {
            toml::Value::Array(list) => {
                let number = parents.next().copied().unwrap_or_default();
                let of_list = one_of(list, number, &path, last)?;
                path = super::place::join(&path, number);
                of_list
            }
            entry => entry,
        };
        let not_a_table = || format!("{path} is not a table");
        table = entry.as_table_mut().ok_or_else(not_a_table)?;
    }
    table.insert((*last).to_owned(), value_of(value));
    Ok(())
}

/// Table `number`, from 1, of the list at `path`; `key` is what is set in it.
fn one_of<'a>(
    list: &'a mut [toml::Value],
    number: &str,
    path: &str,
    key: &str,
) -> Result<&'a mut toml::Value, String> {
    if !list.first().is_some_and(toml::Value::is_table) {
        return Err(format!("{path} is not a table"));
    }
    let which = match list.len() {
        1 => format!("there is one [[{path}]]: {path}.1.{key}"),
        n => {
            format!("there are {n} [[{path}]], numbered from 1: {path}.1.{key} to {path}.{n}.{key}")
        }
    };
    let index = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let found = index.and_then(|index| list.get_mut(index));
    found.ok_or_else(|| printable(&which))
}

/// A value as in TOML. A bare word is taken as a text, for shells that eat quotes.
pub(super) fn value_of(text: &str) -> toml::Value {
    format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.trim().to_owned()))
}

/// A table written `key=value,key=value`, values as for `--set`.
///
/// # Errors
/// A part has no `=`, or no key.
pub fn inline_table(text: &str) -> Result<toml::Table, String> {
    let mut table = toml::Table::new();
    for part in parts(text) {
        let assigned = part.split_once('=').map(|(key, value)| (key.trim(), value));
        match assigned.filter(|(key, _)| !key.is_empty()) {
            Some((key, value)) => drop(table.insert(key.to_owned(), value_of(value))),
            None => return Err(format!("`{}` is not key=value", printable(part.trim()))),
        }
    }
    Ok(table)
}

/// The parts between commas that stand in no brackets and no quotes.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut quote, mut start) = (0_usize, None, 0);
    let mut found = Vec::new();
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (_, Some(open)) => quote = quote.filter(|_| c != open),
            ('"' | '\'', None) => quote = Some(c),
            ('[' | '{', None) => depth += 1,
            (']' | '}', None) => depth = depth.saturating_sub(1),
            (',', None) if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found.retain(|part| !part.trim().is_empty());
    found
}
