//! Tokens that are looked for in a text before it is split into words, and the files beside a
//! tokenizer that name them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::tokenizer_files::CONFIG;
use crate::checkpoint::json as python;
use crate::error::{Error, Result};

/// The special tokens that every tokenizer of transformers has a place for, in its order.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Special tokens without a name; or as an object, more of those that have one.
const EXTRA: &str = "extra_special_tokens";
/// What the list of the former was called.
const ADDITIONAL: &str = "additional_special_tokens";

/// A token of its own, whatever stands around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    /// Its id, once it has one.
    id: u64,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl AddedToken {
    /// A token written as its text alone, or as an object.
    fn of(value: &Value, special: bool) -> Option<Self> {
        let flag = |key: &str| value[key].as_bool();
        let content = value.as_str().or_else(|| value["content"].as_str())?;
        let special = special || flag("special").unwrap_or(false);
        Some(Self {
            id: value["id"].as_u64().unwrap_or(0),
            content: content.to_owned(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized").unwrap_or(!special),
            special,
        })
    }

    pub fn content(&self) -> &str {
        &self.content
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// As `tokenizer.json` has it.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id, "content": self.content, "single_word": self.single_word, "lstrip": self.lstrip,
            "rstrip": self.rstrip, "normalized": self.normalized, "special": self.special,
        })
    }

    /// Whether they are the same but for their ids.
    fn is(&self, other: &Self) -> bool {
        let flags = |t: &Self| [t.single_word, t.lstrip, t.rstrip, t.normalized, t.special];
        self.content == other.content && flags(self) == flags(other)
    }
}

/// The added tokens of a `tokenizer.json`.
pub(super) fn of_tokenizer_json(json: &Value) -> Result<Vec<AddedToken>, String> {
    let tokens = match &json["added_tokens"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(tokens) => tokens,
        _ => return Err("added_tokens is not a list".into()),
    };
    let tokens = tokens.iter().map(|token| AddedToken::of(token, false));
    let tokens: Option<Vec<_>> = tokens.collect();
    tokens.ok_or_else(|| "an added token has no content".into())
}

/// Gives tokens the ids that the tokenizers crate will: those of the vocabulary where it has
/// them, else the next free ones. A token that comes twice is as it came last.
pub(super) fn numbered(tokens: Vec<AddedToken>, vocab: &Value) -> Vec<AddedToken> {
    let size = vocab.as_object().map_or(0, Map::len);
    let size = vocab.as_array().map_or(size, Vec::len) as u64;
    let mut next = size;
    let mut numbered: Vec<AddedToken> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for mut token in tokens.into_iter().filter(|token| !token.content.is_empty()) {
        if let Some(&place) = places.get(&token.content) {
            token.id = numbered[place].id;
            numbered[place] = token;
            continue;
        }
        token.id = vocab[&token.content].as_u64().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        places.insert(token.content.clone(), numbered.len());
        numbered.push(token);
    }
    numbered
}

/// Whether two numbered lists make the same of every text. Where nothing is normalized, it is all
/// one whether a token would be.
pub(super) fn alike(a: &[AddedToken], b: &[AddedToken], normalizes: bool) -> bool {
    let sorted = |tokens: &[AddedToken]| {
        let mut tokens = tokens.to_vec();
        tokens.sort_by_key(|token| token.id);
        for token in tokens.iter_mut().filter(|_| !normalizes) {
            token.normalized = false;
        }
        tokens
    };
    sorted(a) == sorted(b)
}

/// What the files beside a vocabulary say.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// `tokenizer_config.json`, with `special_tokens_map.json` laid over it.
    values: Map<String, Value>,
    /// Tokens of an [`EXTRA`] that is an object.
    named: Map<String, Value>,
    /// Tokens by id: `added_tokens_decoder`, or `added_tokens.json`.
    decoder: BTreeMap<u64, AddedToken>,
    /// Whether the former is there: then it is complete, and no other file counts.
    complete: bool,
}

impl Settings {
    /// Reads them from a folder.
    ///
    /// # Errors
    /// A file is not a JSON object, or a token in it is not one.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut values = object(dir, CONFIG)?;
        if values.get(EXTRA).is_none_or(is_empty)
            && let Some(list) = values.remove(ADDITIONAL)
        {
            values.insert(EXTRA.into(), list);
        }
        let mut named = take_named(&mut values);
        let mut decoder = BTreeMap::new();
        let listed = values.remove("added_tokens_decoder");
        let complete = listed.is_some();
        for (id, token) in listed.iter().filter_map(Value::as_object).flatten() {
            let (id, token) = (id.parse().ok(), AddedToken::of(token, false));
            let (Some(id), Some(token)) = (id, token) else {
                return Err(Error::invalid(
                    dir.join(CONFIG).display(),
                    "added_tokens_decoder holds something that is not an id and a token",
                ));
            };
            decoder.insert(id, token);
        }
        if !complete {
            lay_over(&mut values, object(dir, "special_tokens_map.json")?);
            named.extend(take_named(&mut values));
        }
        let mut settings = Self {
            values,
            named,
            decoder,
            complete,
        };
        if !complete {
            settings.read_old_list(dir)?;
        }
        Ok(settings)
    }

    /// Reads `added_tokens.json`: tokens and ids, no more.
    fn read_old_list(&mut self, dir: &Path) -> Result<()> {
        const FILE: &str = "added_tokens.json";
        let specials: Vec<String> = NAMED
            .iter()
            .filter_map(|name| content(self.values.get(*name)?))
            .chain(self.list(EXTRA).map(|token| token.content))
            .collect();
        for (text, id) in object(dir, FILE)? {
            let Some(id) = id.as_u64() else {
                let message = "expected tokens and their ids";
                return Err(Error::invalid(dir.join(FILE).display(), message));
            };
            let special = specials.contains(&text);
            let token = AddedToken::of(&text.into(), special).expect("a text is a token");
            self.decoder.insert(id, token);
        }
        Ok(())
    }

    /// A setting that is a text.
    pub fn text(&self, key: &str) -> Option<String> {
        Some(self.values.get(key)?.as_str()?.to_owned())
    }

    /// A setting that is on or off; off unless given.
    pub fn flag(&self, key: &str) -> bool {
        self.values.get(key) == Some(&Value::Bool(true))
    }

    /// The text of a special token; `default` where nothing is said of it.
    pub fn special(&self, name: &str, default: Option<&str>) -> Option<String> {
        match self.values.get(name) {
            None => default.map(str::to_owned),
            Some(value) => content(value),
        }
    }

    /// The added tokens of a tokenizer that begins with `existing`, in the order in which they
    /// get ids. `own` are those of `tokenizer.json`; `default` is bos, eos and unk where nothing
    /// is said of them.
    pub fn tokens(
        &self,
        own: &[AddedToken],
        existing: &[AddedToken],
        default: Option<&str>,
    ) -> Vec<AddedToken> {
        let mut decoder = self.decoder.clone();
        if !self.complete {
            decoder.extend(own.iter().map(|token| (token.id, token.clone())));
        }
        let is_there = |token: &AddedToken| existing.iter().any(|other| other.is(token));
        let mut new: Vec<AddedToken> = decoder.into_values().filter(|t| !is_there(t)).collect();
        for token in self.specials(default) {
            match new.iter_mut().find(|t| t.content == token.content) {
                Some(same) => same.special = true,
                None => add_unknown(&mut new, existing, token),
            }
        }
        for token in self.extra() {
            add_unknown(&mut new, existing, token);
        }
        [existing, &new].concat()
    }

    /// Special tokens that have a name.
    fn specials(&self, default: Option<&str>) -> Vec<AddedToken> {
        let standard = NAMED
            .into_iter()
            .filter_map(|name| match (self.values.get(name), name) {
                (None, "bos_token" | "eos_token" | "unk_token") => {
                    AddedToken::of(&default?.into(), true)
                }
                (value, _) => AddedToken::of(value?, true),
            });
        let own = self.values.iter().filter_map(|(name, value)| {
            let own = name.ends_with("_token") && !NAMED.contains(&name.as_str());
            own.then(|| AddedToken::of(value, true)).flatten()
        });
        let named = self.named.values();
        let named = named.filter_map(|value| AddedToken::of(value, true));
        standard.chain(own).chain(named).collect()
    }

    /// Special tokens that have none. Beside the newer key, whatever it says, the older one that
    /// is left is not looked at.
    fn extra(&self) -> impl Iterator<Item = AddedToken> {
        self.list(match self.values.contains_key(EXTRA) {
            true => EXTRA,
            false => ADDITIONAL,
        })
    }

    /// Tokens of a setting that is a list.
    fn list(&self, key: &str) -> impl Iterator<Item = AddedToken> {
        let list = self.values.get(key).and_then(Value::as_array);
        let tokens = list.into_iter().flatten();
        tokens.filter_map(|token| AddedToken::of(token, true))
    }
}

/// Whether Python takes a value for nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Takes out the tokens of an [`EXTRA`] that is an object.
fn take_named(values: &mut Map<String, Value>) -> Map<String, Value> {
    match values.remove(EXTRA) {
        Some(Value::Object(named)) => return named,
        Some(other) => values.insert(EXTRA.into(), other),
        None => None,
    };
    Map::new()
}

/// Lays `special_tokens_map.json` over the settings: what it says counts, and lists of [`EXTRA`]
/// are joined.
fn lay_over(values: &mut Map<String, Value>, mut map: Map<String, Value>) {
    let before = values.get(EXTRA).and_then(Value::as_array);
    let after = map.get_mut(EXTRA).and_then(Value::as_array_mut);
    if let (Some(before), Some(after)) = (before, after) {
        after.splice(0..0, before.iter().cloned());
    }
    values.extend(map);
}

/// Adds a token, unless there is one of that text.
fn add_unknown(new: &mut Vec<AddedToken>, existing: &[AddedToken], token: AddedToken) {
    let mut known = existing.iter().chain(new.iter());
    if known.all(|other| other.content != token.content) {
        new.push(token);
    }
}

/// The text of a token.
fn content(value: &Value) -> Option<String> {
    AddedToken::of(value, true).map(|token| token.content)
}

/// A file that holds a JSON object; an empty one where there is no such file.
fn object(dir: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(Map::new());
    }
    match python::load(&path)? {
        Value::Object(object) => Ok(object),
        _ => Err(Error::invalid(path.display(), "not a JSON object")),
    }
}
