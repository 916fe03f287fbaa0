//! JSON objects, one of whose values is the text.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::documents::{BadDocuments, Documents, MAX_LINE, Piece};
use crate::data::records::{Record, Records, columns_hint, parse, wrapped};
use crate::error::{Error, Result, did_you_mean, printable};

/// Keys that are shown.
const SHOWN: usize = 12;

/// The documents of a file of JSON objects.
pub(super) struct JsonTexts<'a> {
    records: Records,
    field: &'a str,
    bad: &'a BadDocuments,
}

impl<'a> JsonTexts<'a> {
    pub fn new(records: Records, field: &'a str, bad: &'a BadDocuments) -> Self {
        Self {
            records,
            field,
            bad,
        }
    }

    /// The text of a record; or what is wrong with it, and what to do if more can be said than
    /// in general.
    fn text(&self, record: Record) -> Result<String, (String, Option<String>)> {
        let Record::Bytes(bytes) = record else {
            return Err((format!("longer than {} MiB", MAX_LINE >> 20), None));
        };
        let field = Field(self.field);
        let read = |bytes: &[u8]| {
            let mut json = serde_json::Deserializer::from_slice(bytes);
            let text = json.deserialize_map(field)?;
            json.end().map(|()| text)
        };
        match parse(&bytes, read) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(self.no_such_key(&bytes)),
            Err(message) => {
                let object = parse(&bytes, |bytes| serde_json::from_slice(bytes)).ok();
                let hint = object.as_ref().and_then(columns_hint);
                let hint = hint.or_else(|| self.records.advice(&bytes));
                Err((message, hint.map(str::to_owned)))
            }
        }
    }

    /// What is said of an object without the key.
    fn no_such_key(&self, record: &[u8]) -> (String, Option<String>) {
        let field = printable(self.field);
        let Ok(Value::Object(object)) = parse(record, |bytes| serde_json::from_slice(bytes)) else {
            return (format!("no key `{field}`"), None);
        };
        let mut keys = Vec::new();
        for (key, value) in &object {
            match value {
                Value::Object(inner) => keys.extend(inner.keys().map(|k| format!("{key}.{k}"))),
                _ => keys.push(key.clone()),
            }
        }
        let near = did_you_mean(self.field, keys.iter().map(String::as_str));
        let near = near.map(|near| format!("did you mean --field {}?", printable(near)));
        let hint = near.or_else(|| wrapped(&object).map(|(hint, _)| hint));
        let more = if keys.len() > SHOWN { ", ..." } else { "" };
        let shown = keys
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let shown = if shown.is_empty() {
            "none".to_owned()
        } else {
            printable(&shown)
        };
        (format!("no key `{field}`; there are {shown}{more}"), hint)
    }
}

impl Documents for JsonTexts<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(record) = self.records.next()? {
            match self.text(record) {
                Ok(text) => {
                    if let Some(piece) = Piece::whole(text) {
                        return Ok(Some(piece));
                    }
                }
                Err((message, hint)) => {
                    let hint = hint.unwrap_or_else(|| {
                        let expected = self.records.hint();
                        format!(
                            "{expected}, with a text, see --field; --skip-bad leaves others out"
                        )
                    });
                    let error = Error::invalid(self.records.at(), message);
                    self.bad.meet(error.with_hint(hint))?;
                }
            }
        }
        self.bad.padded(self.records.path(), self.records.padding());
        Ok(None)
    }
}

/// Takes one value of an object and passes over the others without keeping them. `a.b` is the
/// key `a.b` if there is one, else the key `b` of the object that is the value of `a`.
#[derive(Clone, Copy)]
struct Field<'a>(&'a str);

/// What a key is to a field.
enum Key<'a> {
    /// The one that is wanted.
    Itself,
    /// That of an object to look for the rest in.
    Above(&'a str),
    /// Another.
    Other,
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let twice = || A::Error::custom(format!("two keys `{}`", self.0));
        let (mut text, mut above) = (None, Vec::new());
        while let Some(key) = map.next_key_seed(self)? {
            match key {
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
                Key::Above(rest) => above.push((map.next_value::<&RawValue>()?, rest)),
                Key::Itself => {
                    if text.replace(map.next_value()?).is_some() {
                        return Err(twice());
                    }
                }
            }
        }
        if text.is_some() {
            return Ok(text);
        }
        for (value, rest) in above {
            let found = below_of(value.get(), rest).map_err(A::Error::custom)?;
            if found.is_some() && std::mem::replace(&mut text, found).is_some() {
                return Err(twice());
            }
        }
        Ok(text)
    }
}

/// The text of `field` in a value, if that is an object that has it.
fn below_of(value: &str, field: &str) -> Result<Option<String>, String> {
    if !value.starts_with('{') {
        return Ok(None);
    }
    let mut json = serde_json::Deserializer::from_str(value);
    // Its place in the value would be taken for one in the line.
    let words = |e: serde_json::Error| e.to_string().split(" at line ").next().map(str::to_owned);
    json.deserialize_map(Field(field))
        .map_err(|e| words(e).unwrap_or_default())
}

/// What the next key is.
impl<'a, 'de> DeserializeSeed<'de> for Field<'a> {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Key<'a>, D::Error> {
        struct Compare<'a>(&'a str);
        impl<'a> Visitor<'_> for Compare<'a> {
            type Value = Key<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'a>, E> {
                let rest = self.0.strip_prefix(key);
                Ok(match rest.map(|rest| rest.strip_prefix('.')) {
                    None => Key::Other,
                    Some(Some(rest)) => Key::Above(rest),
                    Some(None) if self.0 == key => Key::Itself,
                    Some(None) => Key::Other,
                })
            }
        }
        key.deserialize_str(Compare(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, object: &str) -> Result<Option<String>, String> {
        let read =
            |bytes: &[u8]| serde_json::Deserializer::from_slice(bytes).deserialize_map(Field(name));
        parse(object.as_bytes(), read)
    }

    #[test]
    fn fields_may_be_in_objects_below() {
        for (name, object, text) in [
            ("a", r#"{"a": "x", "b": 1}"#, Some("x")),
            ("a.b", r#"{"a": {"c": [1], "b": "x"}}"#, Some("x")),
            ("a.b", r#"{"a": {"b": "x"}, "a.b": "y"}"#, Some("y")),
            ("a.b", r#"{"a.b": "y", "a": {"b": 3.5}}"#, Some("y")),
            ("a.b.c", r#"{"a.b": {"c": "x"}}"#, Some("x")),
            ("a.b.c", r#"{"a": {"b.c": "x"}, "a.b": 1}"#, Some("x")),
            (
                "a.b.c",
                r#"{"a": {"b": {"c": "x\u0041", "d": NaN}}}"#,
                Some("xA"),
            ),
            ("a.b", r#"{"a": "b"}"#, None),
            ("a.b", r#"{"ab": 1, "a": {}}"#, None),
        ] {
            let found = field(name, object);
            assert_eq!(found, Ok(text.map(str::to_owned)), "{name} of {object}");
        }
        let error = field("a.b", r#"{"a": {"b": 1}}"#).unwrap_err();
        assert!(error.contains("integer `1`, expected a string"), "{error}");
        assert!(field("a.b", r#"{"a": {"b": "x"}, "a": {"b": "y"}}"#).is_err());
        assert!(field("a", r#"{"a": "x", "a": "y"}"#).is_err());
    }
}
