//! The parser's messages, which speak of Rust's types, in plain words.

use std::ops::Range;

use super::place::{self, join};
use super::{Mistake, What};
use crate::error::{did_you_mean, printable};

/// Whole numbers up to here are told apart as floats.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// What to write where a table is missing.
const MISSING: [(&str, &str); 5] = [
    ("model", "give [model] from = \"gpt2\", or [model.scratch]"),
    (
        "slice",
        "a plan file has [[slice]] tables, with layers = [START, END] each",
    ),
    ("arm", "a comparison has [[arm]] tables, with a name each"),
    (
        "budget",
        "give [budget] one of flops, layer_passes, tokens and seconds",
    ),
    (
        "base",
        "[base] has the tables of a recipe: base.model, base.data, base.train",
    ),
];

/// A number with a point or an exponent that is whole, where a whole number is expected.
pub(super) fn whole_number(text: &str, error: &toml::de::Error) -> Option<(Range<usize>, u64)> {
    let expected = expected(error.message())?;
    let span = error.span()?;
    let number: f64 = text.get(span.clone())?.replace('_', "").parse().ok()?;
    let is_whole = number.fract() == 0.0 && (0.0..=MAX_WHOLE).contains(&number);
    let is_written_so = error.message().starts_with("invalid type: floating point");
    (is_whole && is_written_so && expected.starts_with("a whole number"))
        .then_some((span, number as u64))
}

/// What an error of the parser says, and where.
pub(super) fn mistake(text: &str, error: &toml::de::Error) -> Mistake {
    let span = error.span();
    let place = span.as_ref().and_then(|span| place::find(text, span));
    let line = span.and_then(|span| Some(1 + text.get(..span.start)?.matches('\n').count()));
    let at_top = place.is_none();
    let (key, found) = place.map_or_else(Default::default, |place| (place.key, place.found));
    let (what, hint) = told(error, &key, &found);
    let key = match &what {
        What::Missing => quoted(error.message()).first().map(|name| join(&key, name)),
        _ => None,
    }
    .unwrap_or(key);
    Mistake {
        key: printable(&key),
        // What is missing at the top is on no line, and the parser shows its own.
        line: line.filter(|_| !at_top),
        what,
        hint,
    }
}

/// The message in plain words, and what to do next.
fn told(error: &toml::de::Error, key: &str, found: &str) -> (What, Option<String>) {
    let message = error.message();
    let names = quoted(message);
    let starts = |start: &str| message.starts_with(start);
    if let Some(expected) = expected(message) {
        let told = format!("expected {expected}, found {}", printable(found));
        return (What::Other(told), hint(key, &expected, found));
    }
    match &names[..] {
        [word, known @ ..] if starts("unknown field") => {
            let list = || match known {
                [] => "nothing is to be said there".into(),
                known => format!("known are {}", known.join(", ")),
            };
            (
                What::Unknown,
                Some(nearest(word, known).unwrap_or_else(list)),
            )
        }
        [word, known @ ..] if starts("unknown variant") => {
            let told = format!("`{}` is none of {}", printable(word), known.join(", "));
            (What::Other(told), nearest(word, known))
        }
        [word] if starts("missing field") => {
            let advice = MISSING
                .iter()
                .find(|(name, _)| name == word && key.is_empty());
            (What::Missing, advice.map(|(_, hint)| (*hint).to_owned()))
        }
        _ if starts("wanted exactly 1 element") => {
            let found = if starts("wanted exactly 1 element, found 0") {
                "none"
            } else {
                "several"
            };
            (
                What::Other(format!("expected one entry, found {found}")),
                None,
            )
        }
        // Not TOML: the parser shows the line, and knows best.
        _ if key.is_empty() => (What::Other(error.to_string().trim_end().to_owned()), None),
        _ => (What::Other(message.to_owned()), None),
    }
}

/// Names between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn nearest(word: &str, known: &[&str]) -> Option<String> {
    let near = did_you_mean(word, known.iter().copied())?;
    Some(format!("did you mean `{near}`?"))
}

/// What serde expected, in words.
fn expected(message: &str) -> Option<String> {
    if message == "wanted string or table" {
        return Some("a name in quotes, or a table".into());
    }
    let of_serde = ["invalid type: ", "invalid value: ", "invalid length "];
    if !of_serde.iter().any(|start| message.starts_with(start)) {
        return None;
    }
    let (_, expected) = message.rsplit_once(", expected ")?;
    Some(match expected {
        "f32" | "f64" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "a string" | "string" | "path string" | "a borrowed string" => "text in quotes".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "enum" => "a table with one entry".into(),
        _ if expected.starts_with("a nonzero ") => "a whole number from 1".into(),
        _ if expected.starts_with("struct ") => "a table".into(),
        _ => match expected.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length}"),
            None => expected.to_owned(),
        },
    })
}

/// How to write what was probably meant.
fn hint(key: &str, expected: &str, found: &str) -> Option<String> {
    let name = key.rsplit('.').next().unwrap_or(key);
    let name = if name.parse::<usize>().is_ok() {
        ""
    } else {
        name
    };
    let as_value = |value: String| match name {
        "" => format!("write {value}"),
        name => format!("write {name} = {value}"),
    };
    let inside = found
        .strip_prefix(['"', '\''])
        .and_then(|rest| rest.strip_suffix(['"', '\'']));
    let is_table = found == "a table";
    match (expected, inside) {
        (_, Some(text)) if expected.starts_with("a number") || expected.starts_with("a whole") => {
            Some(as_value(number_in(text)?))
        }
        ("true or false", Some("true" | "yes" | "on")) => Some(as_value("true".into())),
        ("true or false", Some("false" | "no" | "off")) => Some(as_value("false".into())),
        ("text in quotes", None) if !is_table && found != "a list" => {
            Some(as_value(format!("\"{}\"", printable(found))))
        }
        ("a list", _) if !is_table => Some(as_value(format!("[{}]", printable(found)))),
        ("a table", _) if !is_table && !name.is_empty() => Some(format!(
            "a table is written {name} = {{ key = value }}, or [{}] with a line for each key",
            printable(key)
        )),
        _ => None,
    }
}

/// The number that a text in quotes means, as TOML has it: `3e-4`, or `2_000_000_000` for `2B`.
fn number_in(text: &str) -> Option<String> {
    let text = text.trim();
    let is_finite = |number: &str| number.parse().is_ok_and(f64::is_finite);
    let plain = text.replace(['_', ',', ' '], "");
    if is_finite(&plain) {
        return Some(plain);
    }
    let unit = plain.chars().next_back()?;
    let zeros = match unit.to_ascii_lowercase() {
        'k' => 1e3,
        'm' => 1e6,
        'b' | 'g' => 1e9,
        't' => 1e12,
        _ => return None,
    };
    let number: f64 = plain.strip_suffix(unit)?.parse().ok()?;
    let number = number * zeros;
    (number.fract() == 0.0 && (0.0..=MAX_WHOLE).contains(&number)).then(|| grouped(number as u64))
}

/// A whole number in groups of three digits, as TOML may have it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let (head, tail) = digits.split_at((digits.len() - 1) % 3 + 1);
    let groups = tail.as_bytes().chunks(3);
    groups.fold(head.to_owned(), |text, group| {
        format!("{text}_{}", String::from_utf8_lossy(group))
    })
}
