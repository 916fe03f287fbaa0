//! JSON as Python's `json` module reads and writes it, which is how models are saved.
//!
//! Python has three numbers that JSON has not, `NaN`, `Infinity` and `-Infinity`, keeps half a
//! surrogate pair, `"\ud800"`, as it is, and has whole numbers of any size. serde_json refuses the
//! former and rounds the last, so [`parse`] turns them into marked strings, and [`write()`] turns
//! those back.

use std::path::Path;

use serde_json::{Number, Value};

use crate::error::{Error, Result, printable};

/// Stands before what serde_json cannot hold. A noncharacter: no text has it.
const MARK: char = '\u{10fffe}';

/// The numbers of Python's JSON that are not finite.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Reads a JSON file.
///
/// # Errors
/// It cannot be read, or as [`parse`].
pub fn load(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(&bytes, path)
}

/// Reads JSON as Python does; `path` is for messages.
///
/// # Errors
/// It is not UTF-8, begins with a byte order mark, which Python refuses as well, or is not JSON.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    let invalid = |message: String| Error::invalid(path.display(), message);
    let marked = match bytes {
        [0xef, 0xbb, 0xbf, ..] => Some("UTF-8 with a byte order mark (BOM)"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        _ => None,
    };
    if let Some(encoding) = marked {
        return Err(
            invalid(format!("not valid JSON: the file is {encoding}")).with_hint(
                "save it as UTF-8 without a byte order mark; transformers does not read it either",
            ),
        );
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        invalid(format!(
            "not valid JSON: not UTF-8 at byte {}",
            e.valid_up_to()
        ))
    })?;
    if text.trim().is_empty() {
        return Err(invalid("not valid JSON: the file is empty".to_owned()));
    }
    serde_json::from_str(&tame(text)).map_err(|e| {
        let error = invalid(format!("not valid JSON: {}", printable(&e.to_string())));
        match super::foreign::in_place_of_text(bytes) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    })
}

/// The text of a value that [`parse`] gave, indented, as Python reads it.
pub fn write(value: &Value) -> String {
    restore(serde_json::to_string_pretty(value).expect("a JSON value serializes"))
}

/// JSON with what [`tame`] replaced.
fn restore(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    let open = format!("\"{MARK}");
    let mut parts = text.split(&open);
    let mut restored = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('"') {
            Some((number, rest)) if WORDS.contains(&number) || is_beyond(number) => {
                restored.extend([number, rest]);
            }
            _ => restored.extend([&open, part]),
        }
    }
    restored.replace(&format!("{MARK}\\\\u"), "\\u")
}

/// A value that [`parse`] gave as strict JSON: what that has no form for is a string, and a number
/// beyond 64 bits is rounded.
pub fn strict(value: Value) -> Value {
    if let Some(number) = beyond(&value).and_then(Number::from_f64) {
        return Value::Number(number);
    }
    match value {
        Value::String(text) => Value::String(text.replace(MARK, "")),
        Value::Array(items) => items.into_iter().map(strict).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key.replace(MARK, ""), strict(value)))
            .collect(),
        other => other,
    }
}

/// A value as it stands in its file, for messages.
pub fn shown(value: &Value) -> String {
    not_finite(value).map_or_else(|| printable(&restore(value.to_string())), str::to_owned)
}

/// A string of a value as it stands in its file, for messages.
pub fn shown_text(text: &str) -> String {
    printable(&text.replace(MARK, ""))
}

/// The word for a number that is not finite, in Python's form or in the one that `transformers` 5
/// writes, `{"__float__": "NaN"}`.
pub fn not_finite(value: &Value) -> Option<&'static str> {
    let text = match value {
        Value::String(text) => text.strip_prefix(MARK)?,
        Value::Object(map) if map.len() == 1 => map.get("__float__")?.as_str()?,
        _ => return None,
    };
    WORDS.into_iter().find(|word| *word == text)
}

/// A whole number of more than 64 bits, rounded.
pub fn beyond(value: &Value) -> Option<f64> {
    let digits = value.as_str()?.strip_prefix(MARK)?;
    let number = is_beyond(digits).then(|| digits.parse().ok());
    number.flatten()
}

/// Whether a word is a whole number, in the form of JSON, that 64 bits do not hold.
fn is_beyond(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_whole = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    is_whole && digits.len() > 18 && word.parse::<u64>().is_err() && word.parse::<i64>().is_err()
}

/// `text` with everything replaced that serde_json refuses and Python does not.
fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => tame_string(rest, &mut tamed),
            'N' | 'I' | '-' | '0'..='9' => tame_word(rest, &mut tamed),
            other => {
                tamed.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tamed
}

/// Copies the string that `text` begins with, with half surrogate pairs marked; returns its length.
fn tame_string(text: &str, tamed: &mut String) -> usize {
    let mut at = 1;
    tamed.push('"');
    while let Some(next) = text[at..].chars().next() {
        let half = match surrogate(&text[at..]) {
            Some(0xd800..=0xdbff) => !matches!(surrogate(&text[at + 6..]), Some(0xdc00..=0xdfff)),
            first => first.is_some(),
        };
        let length = match next {
            '\\' if half => 6,
            '\\' if surrogate(&text[at..]).is_some() => 12,
            '\\' => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            other => other.len_utf8(),
        };
        if half {
            // One more backslash makes plain text of the escape.
            tamed.extend([MARK, '\\']);
        }
        tamed.push_str(&text[at..at + length]);
        at += length;
        if next == '"' {
            break;
        }
    }
    at
}

/// The surrogate whose escape `text` begins with.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let code = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&code).then_some(code)
}

/// Copies the number that `text` begins with, marked where it is not finite or beyond 64 bits;
/// returns its length.
fn tame_word(text: &str, tamed: &mut String) -> usize {
    let length = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
        .unwrap_or(text.len())
        .max(1);
    let word = &text[..length];
    // Python reads 1e999 as infinity.
    let overflow = word.ends_with(|c: char| c.is_ascii_digit())
        && word.parse().is_ok_and(|x: f64| x.is_infinite());
    match word {
        _ if is_beyond(word) => tamed.push_str(&format!("\"{MARK}{word}\"")),
        _ if overflow && word.starts_with('-') => tamed.push_str(&format!("\"{MARK}-Infinity\"")),
        _ if overflow => tamed.push_str(&format!("\"{MARK}Infinity\"")),
        _ if WORDS.contains(&word) => tamed.push_str(&format!("\"{MARK}{word}\"")),
        _ => tamed.push_str(word),
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value> {
        parse(text.as_bytes(), Path::new("x.json"))
    }

    #[test]
    fn what_python_reads_is_written_again_as_it_was() {
        let text = r#"{
  "a": NaN,
  "b": [
    Infinity,
    -Infinity,
    -1.5
  ],
  "\ud800": "x\udc00y \"NaN\" \ud83d\uDE00 \\ud800 \\\udfff",
  "c": {
    "__float__": "NaN"
  }
}"#;
        let value = read(text).unwrap();
        assert_eq!(not_finite(&value["a"]), Some("NaN"));
        assert_eq!(not_finite(&value["b"][1]), Some("-Infinity"));
        assert_eq!(not_finite(&value["c"]), Some("NaN"));
        assert_eq!(not_finite(&value["b"][2]), None);
        assert_eq!(shown(&value["a"]), "NaN");
        // A whole pair is a character and may be written as such.
        assert_eq!(write(&value), text.replace(r"\ud83d\uDE00", "\u{1f600}"));
        assert_eq!(read(&write(&value)).unwrap(), value);
    }

    #[test]
    fn strict_json_has_strings_instead() {
        let value = strict(read(r#"{"a": [NaN, "\ud800"]}"#).unwrap());
        assert_eq!(value, json!({"a": ["NaN", "\\ud800"]}));
    }

    #[test]
    fn ordinary_json_is_left_alone() {
        for text in [
            r#"{"a": "NaN", "b": [1, -2.5e3, true, null, "é\u00e9\n\"\\"], "": {}}"#,
            "[]",
            "-0.0",
            r#""Infinity -Infinity 1e999""#,
        ] {
            assert_eq!(
                read(text).unwrap(),
                serde_json::from_str::<Value>(text).unwrap()
            );
        }
    }

    #[test]
    fn numbers_beyond_the_range_are_infinite_as_in_python() {
        let value = read("[1e999, -1e999, 1e22]").unwrap();
        assert_eq!(not_finite(&value[0]), Some("Infinity"));
        assert_eq!(not_finite(&value[1]), Some("-Infinity"));
        assert!(value[2].is_f64());
    }

    /// `transformers` itself writes `model_max_length` so.
    #[test]
    fn whole_numbers_of_any_size_stay_as_they_are() {
        let long = "9".repeat(400);
        for number in [
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "1000000000000000019884624838656",
            "12345678901234567890123",
            &long,
        ] {
            let text = format!("{{\n  \"a\": {number},\n  \"{number}\": \"{number}\"\n}}");
            let value = read(&text).unwrap();
            assert_eq!(write(&value), text);
            // What is very long is cut where people read it.
            assert!(number.starts_with(&shown(&value["a"])[..15]));
            assert!(not_finite(&value["a"]).is_none());
        }
        let value = read("[12345678901234567890123, -12345678901234567890123]").unwrap();
        assert_eq!(beyond(&value[1]), Some(-1.234_567_890_123_456_8e22));
        assert_eq!(
            strict(value),
            json!([1.2345678901234568e22, -1.2345678901234568e22])
        );
        for refused in [
            "012345678901234567890123",
            "--12345678901234567890123",
            "12345678901234567890123 4",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "",
            "nan",
            "inf",
            "+1",
            "Infinit",
            "NaNs",
            "{\"a\": 1,}",
            "\"a",
            "\"\\",
            "\"\\u12",
            "\"\\ud8",
            "[1 2]",
            "-",
            "{'a': 1}",
            "\"a\tb\"",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        for (bytes, word) in [
            (&b"\xef\xbb\xbf{}"[..], "byte order mark"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"{\"\xff\": 1}", "not UTF-8 at byte 2"),
        ] {
            let error = parse(bytes, Path::new("x.json")).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("x.json"), "{error}");
        }
    }
}
