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
            assign(root, assignment).map_err(|Slip { why, hint }| {
                Error::usage(format!("--set {}: {why}", printable(assignment))).with_hint(hint)
            })?;
        }
        Ok(())
    }

    /// The assignment that a mistake came by.
    pub fn behind(&self, mistake: &Mistake) -> Option<&str> {
        self.that_sets(&mistake.key)
    }

    /// The last assignment that sets `key` or a table around it.
    pub fn that_sets(&self, key: &str) -> Option<&str> {
        let is_behind = |set: &&String| {
            let own = set.split_once('=').map_or("", |(own, _)| own.trim());
            let rest = key.strip_prefix(own);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().rev().find(is_behind).map(String::as_str)
    }
}

/// What is wrong with an assignment, and what to write.
struct Slip {
    why: String,
    hint: String,
}

impl Slip {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: hint.into(),
        }
    }
}

/// Lists of tables that files may have.
const LISTS: [&str; 4] = ["stage", "arm", "candidate", "slice"];

fn assign(root: &mut toml::Table, assignment: &str) -> Result<(), Slip> {
    let unclear = |why: &str| Slip::new(why, "write --set train.lr=3e-4");
    let (key, value) = assignment
        .split_once('=')
        .ok_or_else(|| unclear("no `=`"))?;
    let parts: Vec<&str> = key.trim().split('.').collect();
    let Some((last, parents)) = parts.split_last().filter(|(last, _)| !last.is_empty()) else {
        return Err(unclear("no key"));
    };
    let mut table = root;
    let mut parents = parents.iter();
    let mut path = String::new();
    while let Some(part) = parents.next() {
        let outer = std::mem::take(&mut path);
        path = super::place::join(&outer, part);
        let rest = || rest_of(parents.as_slice(), last);
        let next = parents.as_slice().first();
        let is_numbered = next.is_some_and(|next| next.parse::<usize>().is_ok());
        if !table.contains_key(*part) && (is_numbered || LISTS.contains(part)) {
            let why = format!("there is no [[{}]]", printable(&path));
            return Err(Slip::new(why, without_list(&outer, part, &rest(), value)));
        }
        let entry = table
            .entry(*part)
            .or_insert_with(|| toml::Table::new().into());
        let entry = match entry {
            toml::Value::Array(list) => {
                let rest = rest();
                let number = parents.next().copied().unwrap_or_default();
                let of_list = one_of(list, number, &path, &rest, value)?;
                path = super::place::join(&path, number);
                of_list
            }
            entry => entry,
        };
        let not_a_table = || not_a_table(&path);
        table = entry.as_table_mut().ok_or_else(not_a_table)?;
    }
    table.insert((*last).to_owned(), value_of(value));
    Ok(())
}

fn not_a_table(path: &str) -> Slip {
    let path = printable(path);
    let why = format!("{path} is not a table");
    Slip::new(why, format!("set it as a whole: --set {path}=VALUE"))
}

/// The key within a table of a list, with or without the number of the table before it.
fn rest_of(parents: &[&str], last: &str) -> String {
    let is_number = |part: &&str| part.parse::<i64>().is_ok();
    let number = parents.first().is_some_and(is_number);
    let below = &parents[usize::from(number)..];
    let parts: Vec<&str> = below.iter().copied().chain([last]).collect();
    parts.join(".")
}

/// What to write where there is no such list: without stages, `[train]` says it all.
fn without_list(outer: &str, list: &str, key: &str, value: &str) -> String {
    let of_stages_alone = ["name", "depths"];
    let is_of_list = of_stages_alone.contains(&key) || key.parse::<usize>().is_ok();
    if list != "stage" || is_of_list {
        return format!(
            "add [[{}]] to the file",
            printable(&super::place::join(outer, list))
        );
    }
    let key = match key.strip_prefix("grow.") {
        Some(_) => super::place::join(outer, key),
        None => super::place::join(outer, &format!("train.{key}")),
    };
    format!("write --set {}={}", printable(&key), printable(value))
}

/// Table `number`, from 1, of the list at `path`; `key` is what is set in it.
fn one_of<'a>(
    list: &'a mut [toml::Value],
    number: &str,
    path: &str,
    key: &str,
    value: &str,
) -> Result<&'a mut toml::Value, Slip> {
    if !list.first().is_some_and(toml::Value::is_table) {
        return Err(not_a_table(path));
    }
    let which = match list.len() {
        1 => format!("there is one [[{path}]]: {path}.1.{key}"),
        n => {
            format!("there are {n} [[{path}]], numbered from 1: {path}.1.{key} to {path}.{n}.{key}")
        }
    };
    let index = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let found = index.and_then(|index| list.get_mut(index));
    found.ok_or_else(|| {
        let hint = format!("write --set {path}.1.{key}={value}");
        Slip::new(printable(&which), printable(&hint))
    })
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
