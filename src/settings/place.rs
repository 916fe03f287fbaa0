//! Where in a text a mistake stands: by the span that the parser gives, its key and its value.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A key, or the value behind one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The full key; tables of a list are numbered from 1, as `--set` names them.
    pub key: String,
    /// What stands there, as written, where it is one value; what it is otherwise.
    pub found: String,
}

/// The place with exactly this span.
pub(super) fn find(text: &str, span: &Range<usize>) -> Option<Place> {
    let root = DeTable::parse(text).ok()?;
    in_table(text, "", root.get_ref(), span)
}

fn in_table(text: &str, path: &str, table: &DeTable<'_>, span: &Range<usize>) -> Option<Place> {
    for (name, value) in table {
        let key = join(path, name.get_ref());
        if name.span() == *span {
            let found = name.get_ref().to_string();
            return Some(Place { key, found });
        }
        if let Some(place) = in_value(text, key, value.get_ref(), &value.span(), span) {
            return Some(place);
        }
    }
    None
}

fn in_value(
    text: &str,
    key: String,
    value: &DeValue<'_>,
    own: &Range<usize>,
    span: &Range<usize>,
) -> Option<Place> {
    // A table of several lines has no span of its own, but its values do.
    let below = match value {
        DeValue::Table(table) => in_table(text, &key, table, span),
        DeValue::Array(values) => values.iter().enumerate().find_map(|(i, value)| {
            let key = join(&key, &(i + 1).to_string());
            in_value(text, key, value.get_ref(), &value.span(), span)
        }),
        _ => None,
    };
    below.or_else(|| {
        let found = match value {
            DeValue::Table(_) => "a table",
            DeValue::Array(_) => "a list",
            _ => text.get(own.clone())?,
        };
        let found = found.to_owned();
        (own == span).then_some(Place { key, found })
    })
}

/// The line, from 1, of a full key in a text.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut parts = key.split('.').peekable();
    let mut table = root.get_ref();
    loop {
        let (name, mut value) = table.get_key_value(parts.next()?)?;
        let mut start = name.span().start;
        if let DeValue::Array(values) = value.get_ref()
            && let Some(part) = parts.peek()
        {
            value = values.get(part.parse::<usize>().ok()?.checked_sub(1)?)?;
            start = value.span().start;
            parts.next();
        }
        match (parts.peek(), value.get_ref()) {
            (None, _) => return Some(1 + text.get(..start)?.matches('\n').count()),
            (Some(_), DeValue::Table(below)) => table = below,
            _ => return None,
        }
    }
}

/// A key within the table `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// Whether tables have a value at a full key.
pub(super) fn holds(table: &toml::Table, key: &str) -> bool {
    let mut parts = key.split('.');
    let mut value = parts.next().and_then(|part| table.get(part));
    for part in parts {
        let index = || part.parse::<usize>().ok()?.checked_sub(1);
        value = match value {
            Some(toml::Value::Table(table)) => table.get(part),
            Some(toml::Value::Array(list)) => index().and_then(|index| list.get(index)),
            _ => None,
        };
    }
    value.is_some()
}
