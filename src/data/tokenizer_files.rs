//! The tokenizer files of a folder, put together as `AutoTokenizer` of transformers 5 does it
//! for a GPT-2 checkpoint.
//!
//! `GPT2Tokenizer`, the class of a checkpoint that names none, takes vocabulary, merges, added
//! tokens and post-processor from `tokenizer.json`, and the rest from `tokenizer_config.json`.
//! A class of no particular kind (`PreTrainedTokenizerFast`) uses `tokenizer.json` as it stands.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::added_tokens::{self, AddedToken, Settings};
use super::tokenizer::END_OF_TEXT;
use crate::checkpoint::{hex, json as python};
use crate::error::{Error, Result, printable};

/// Where a folder says how its tokenizer is set up.
pub(super) const CONFIG: &str = "tokenizer_config.json";

/// What says something of a tokenizer, but has no vocabulary.
const WITHOUT_VOCABULARY: [&str; 3] = [CONFIG, "special_tokens_map.json", "added_tokens.json"];

/// A tokenizer as the files of a folder describe it.
#[derive(Debug)]
pub(super) struct TokenizerFiles {
    /// The file that the vocabulary is from.
    pub path: PathBuf,
    /// A `tokenizer.json` that holds everything.
    pub json: Value,
    /// The same as bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 in hex: of the file itself, where nothing beside it changes what it does.
    pub sha256: String,
    /// The token that begins a text.
    pub bos: Option<String>,
    /// The token that ends one.
    pub eos: Option<String>,
    /// Whether special tokens that stand in a text are text.
    pub split_special_tokens: bool,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Which of the classes of transformers reads the files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Class {
    /// `GPT2Tokenizer`, which is named.
    Gpt2,
    /// `GPT2Tokenizer`, since a GPT-2 checkpoint names no other.
    Assumed,
    /// One that takes `tokenizer.json` as it stands.
    Generic,
    /// One with rules of its own.
    Other(String),
}

impl TokenizerFiles {
    /// Reads the tokenizer of a folder; none where no file there belongs to one.
    ///
    /// # Errors
    /// A file is damaged, or of a kind that is not read; the error names it.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let (json, vocab, merges) = (
            dir.join("tokenizer.json"),
            dir.join("vocab.json"),
            dir.join("merges.txt"),
        );
        let old = vocab.is_file() && merges.is_file();
        if !json.is_file() && !old {
            return match foreign(dir) {
                Some(error) => Err(error),
                None => Ok(None),
            };
        }
        let settings = Settings::read(dir)?;
        let class = Class::of(dir, &settings)?;
        let (path, bytes) = if json.is_file() {
            let bytes = read(&json)?;
            (json, bytes)
        } else {
            let pipeline = from_vocab_and_merges(&vocab, &merges, &class, &settings)?;
            let bytes = serde_json::to_vec(&pipeline).expect("JSON serializes");
            (vocab, bytes)
        };
        Self::assemble(path, bytes, class, &settings).map(Some)
    }

    /// A tokenizer of GPT-2's class that is in one file, without any beside it.
    ///
    /// # Errors
    /// It is damaged.
    pub fn from_json(bytes: &[u8], name: &str) -> Result<Self> {
        let settings = Settings::default();
        Self::assemble(name.into(), bytes.to_vec(), Class::Assumed, &settings)
    }

    fn assemble(path: PathBuf, bytes: Vec<u8>, class: Class, settings: &Settings) -> Result<Self> {
        let invalid =
            |message: String| Error::invalid(path.display(), format!("not a tokenizer: {message}"));
        let mut json: Value =
            serde_json::from_slice(&bytes).map_err(|e| invalid(printable(&e.to_string())))?;
        if !json.is_object() {
            return Err(invalid("expected a JSON object".into()));
        }
        let model = &json["model"];
        let by_merges =
            model["type"] == "BPE" || (model["type"].is_null() && model["merges"].is_array());
        let as_gpt2 = matches!(class, Class::Gpt2 | Class::Assumed) && by_merges;
        let own_tokens = added_tokens::of_tokenizer_json(&json).map_err(&invalid)?;
        let (mut changed, mut notes) = (false, Vec::new());
        if as_gpt2 {
            let ignored = make_gpt2s(&mut json, settings.flag("add_prefix_space"), &mut changed);
            notes.extend(ignored_note(&path, &ignored));
        } else if class == Class::Gpt2 {
            return Err(of_another_kind(&path, &json["model"]));
        } else if class == Class::Assumed {
            // No class is meant: nobody wants what GPT-2's would make of it.
            notes.push(format!(
                "{}: read as it stands; transformers would read it in another way unless {CONFIG} names PreTrainedTokenizerFast as tokenizer_class",
                path.display()
            ));
        } else if let Class::Other(name) = &class {
            notes.push(format!(
                "{}: read as it stands; {name}, which {CONFIG} names, may read it in another way",
                path.display()
            ));
        }
        let existing = if as_gpt2 { &[][..] } else { &own_tokens[..] };
        let defaults = as_gpt2.then_some(END_OF_TEXT);
        let tokens = settings.tokens(&own_tokens, existing, defaults);
        let vocab = &json["model"]["vocab"];
        let tokens = added_tokens::numbered(tokens, vocab);
        // The ids of the file itself go by the order of its list, whatever it says of them.
        let own_tokens = added_tokens::numbered(own_tokens, vocab);
        if !added_tokens::alike(&tokens, &own_tokens, !json["normalizer"].is_null()) {
            json["added_tokens"] = tokens.iter().map(AddedToken::to_json).collect();
            changed = true;
        }
        changed |= fill_in_ids(&mut json, &tokens);
        let bytes = match changed {
            true => serde_json::to_vec(&json).expect("JSON serializes"),
            false => bytes,
        };
        let mut files = Self {
            sha256: String::new(),
            path,
            json,
            bytes,
            bos: settings.special("bos_token", defaults),
            eos: settings.special("eos_token", defaults),
            split_special_tokens: settings.flag("split_special_tokens"),
            notes,
        };
        files.sha256 = files.identity();
        Ok(files)
    }

    /// SHA-256 over what decides about ids, in hex.
    fn identity(&self) -> String {
        let mut sha256 = Sha256::new_with_prefix(&self.bytes);
        let usual = |token: &Option<String>| token.as_deref().is_none_or(|t| t == END_OF_TEXT);
        if self.split_special_tokens || !usual(&self.bos) || !usual(&self.eos) {
            let beside = json!([self.bos, self.eos, self.split_special_tokens]);
            sha256.update(beside.to_string());
        }
        hex(&sha256.finalize())
    }
}

impl Class {
    /// The class that `tokenizer_config.json` names, else `config.json`.
    fn of(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut name = settings.text("tokenizer_class");
        let config = dir.join("config.json");
        if name.is_none() && config.is_file() {
            let config = python::load(&config)?;
            name = config["tokenizer_class"].as_str().map(str::to_owned);
        }
        let Some(name) = name else {
            return Ok(Self::Assumed);
        };
        Ok(match name.strip_suffix("Fast").unwrap_or(&name) {
            "GPT2Tokenizer" => Self::Gpt2,
            "PreTrainedTokenizer" | "TokenizersBackend" | "PythonBackend" => Self::Generic,
            _ => Self::Other(python::shown_text(&name)),
        })
    }
}

/// Makes the pipeline that of `GPT2Tokenizer`, and notes whether it was not; returns what is
/// left out and could have decided about ids.
fn make_gpt2s(json: &mut Value, add_prefix_space: bool, changed: &mut bool) -> Vec<&'static str> {
    let off = |value: &Value| {
        matches!(value, Value::Null | Value::Bool(false)) || value == "" || value == 0.0
    };
    let mut ignored = Vec::new();
    let words = &json["pre_tokenizer"];
    let by_bytes = words["type"] == "ByteLevel" && words["use_regex"] != false;
    let prefixed = words["add_prefix_space"] != false;
    let mut set = |part: &mut Value, wanted: Value, name: Option<&'static str>| {
        *part = wanted;
        *changed = true;
        ignored.extend(name);
    };
    if !by_bytes || prefixed != add_prefix_space {
        let name = match (by_bytes, prefixed) {
            (false, _) => Some("pre_tokenizer"),
            (true, true) => Some("add_prefix_space"),
            (true, false) => None,
        };
        set(
            &mut json["pre_tokenizer"],
            byte_level(add_prefix_space),
            name,
        );
    }
    if !off(&json["normalizer"]) {
        set(&mut json["normalizer"], Value::Null, Some("normalizer"));
    }
    if json["decoder"]["type"] != "ByteLevel" {
        set(&mut json["decoder"], byte_level(false), None);
    }
    // Without the last three, ids are the same where every byte has one.
    for (key, wanted, name) in [
        ("dropout", Value::Null, Some("dropout")),
        (
            "continuing_subword_prefix",
            Value::Null,
            Some("continuing_subword_prefix"),
        ),
        (
            "end_of_word_suffix",
            Value::Null,
            Some("end_of_word_suffix"),
        ),
        ("ignore_merges", false.into(), Some("ignore_merges")),
        ("unk_token", Value::Null, None),
        ("fuse_unk", false.into(), None),
        ("byte_fallback", false.into(), None),
    ] {
        if let Some(part) = json["model"].get_mut(key).filter(|part| !off(part)) {
            set(part, wanted, name);
        }
    }
    ignored
}

/// Why a model that is not by merges is not read as one of `GPT2Tokenizer`: transformers makes of
/// its vocabulary a BPE without merges, so that every text falls into single bytes.
fn of_another_kind(path: &Path, model: &Value) -> Error {
    let kind = match model["type"].as_str() {
        Some(kind) => format!("a {} tokenizer", printable(kind)),
        None => "a tokenizer without merges".to_owned(),
    };
    let message =
        format!("{kind}, which GPT2Tokenizer, the class that is named, takes for another kind");
    Error::invalid(path.display(), message).with_hint(format!(
        "if the model was trained with it, let {CONFIG} name PreTrainedTokenizerFast as tokenizer_class"
    ))
}

fn ignored_note(path: &Path, ignored: &[&str]) -> Option<String> {
    (!ignored.is_empty()).then(|| {
        format!(
            "{}: {} left out, as GPT2Tokenizer of transformers does; if the model was trained with it, let {CONFIG} name PreTrainedTokenizerFast as tokenizer_class",
            path.display(),
            ignored.join(" and ")
        )
    })
}

fn byte_level(add_prefix_space: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true })
}

/// The pipeline that `GPT2Tokenizer` builds from the two old files.
fn from_vocab_and_merges(
    vocab_path: &Path,
    merges_path: &Path,
    class: &Class,
    settings: &Settings,
) -> Result<Value> {
    let invalid = |path: &Path, message: String| Error::invalid(path.display(), message);
    if let Class::Other(name) = class {
        let message = format!(
            "{CONFIG} names {name}; without tokenizer.json, the files of GPT2Tokenizer alone are read"
        );
        return Err(invalid(vocab_path, message).with_hint(convert(vocab_path)));
    }
    let vocab: Value = serde_json::from_slice(&read(vocab_path)?)
        .map_err(|e| invalid(vocab_path, format!("not valid JSON: {e}")))?;
    let entries = vocab.as_object().filter(|entries| !entries.is_empty());
    let entries = entries
        .ok_or_else(|| invalid(vocab_path, "not a vocabulary: expected token and id".into()))?;
    let text = String::from_utf8(read(merges_path)?)
        .map_err(|e| invalid(merges_path, format!("not UTF-8: {e}")))?;
    let merges: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .collect();
    let added = entries.get(END_OF_TEXT).map(|id| {
        json!({
            "id": id, "content": END_OF_TEXT, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
        })
    });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.into_iter().collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": post_processor(settings).unwrap_or_else(|| byte_level(false)),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// What `add_bos_token` and `add_eos_token` ask for. They are about the old files alone:
/// `tokenizer.json` has a post-processor of its own, and transformers 5 keeps to it.
fn post_processor(settings: &Settings) -> Option<Value> {
    let wanted = |flag: &str, name: &str| {
        let token = settings.special(name, Some(END_OF_TEXT));
        token.filter(|_| settings.flag(flag))
    };
    let bos = wanted("add_bos_token", "bos_token");
    let eos = wanted("add_eos_token", "eos_token");
    if bos.is_none() && eos.is_none() {
        return None;
    }
    let special = |token: &String| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let single: Vec<Value> = bos
        .iter()
        .map(special)
        .chain([text])
        .chain(eos.iter().map(special))
        .collect();
    // Ids are filled in when the tokens have theirs.
    let tokens: serde_json::Map<_, _> = bos
        .iter()
        .chain(&eos)
        .map(|token| {
            (
                token.clone(),
                json!({ "id": token, "ids": [], "tokens": [token] }),
            )
        })
        .collect();
    Some(
        json!({ "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens }),
    )
}

/// Fills in the ids that [`post_processor`] did not know yet; whether there were any.
fn fill_in_ids(json: &mut Value, tokens: &[AddedToken]) -> bool {
    let specials = json.pointer_mut("/post_processor/special_tokens");
    let mut filled = false;
    for (text, entry) in specials
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        let token = tokens.iter().find(|token| token.content() == text);
        let missing = entry["ids"].as_array().is_some_and(Vec::is_empty);
        if let Some(token) = token.filter(|_| missing) {
            entry["ids"] = json!([token.id()]);
            filled = true;
        }
    }
    filled
}

/// Why a folder that has tokenizer files, but none that is read, is refused; none where it has
/// no tokenizer file.
fn foreign(dir: &Path) -> Option<Error> {
    let names = || {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    };
    let names = names();
    let has = |name: &str| names.iter().any(|other| other == name);
    let lacks = |there: &str, missing: &str| {
        let message = format!("missing, and {there} alone is no tokenizer");
        let error = Error::invalid(dir.join(missing).display(), message);
        Some(error.with_hint("copy it from where the checkpoint is from"))
    };
    if has("vocab.json") {
        return lacks("vocab.json", "merges.txt");
    }
    if has("merges.txt") {
        return lacks("merges.txt", "vocab.json");
    }
    if has("encoder.json") || has("vocab.bpe") {
        let message = "a tokenizer under OpenAI's names, which are not looked for";
        return Some(
            Error::invalid(dir.display(), message)
                .with_hint("copy encoder.json to vocab.json and vocab.bpe to merges.txt"),
        );
    }
    if let Some((name, kind)) = names.iter().find_map(|name| Some((name, kind_of(name)?))) {
        let path = dir.join(name);
        let message =
            format!("{kind}, which is not read; GPT-2's own tokenizer would give other ids");
        return Some(Error::invalid(path.display(), message).with_hint(convert(&path)));
    }
    let name = WITHOUT_VOCABULARY.into_iter().find(|name| has(name))?;
    lacks(name, "tokenizer.json")
}

/// What kind of tokenizer a file of this name is.
fn kind_of(name: &str) -> Option<&'static str> {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    Some(match (name, extension) {
        ("tekken.json", _) => "a tokenizer of Mistral's Tekken",
        ("vocab.txt", _) => "a WordPiece vocabulary",
        ("tiktoken.model", _) | (_, Some("tiktoken")) => "a tokenizer of tiktoken",
        (_, Some("model")) => "a SentencePiece model",
        _ => return None,
    })
}

/// How to get a file that is read.
fn convert(path: &Path) -> String {
    let dir = crate::durable::parent_of(path);
    let dir = dir.display();
    format!(
        "let transformers write tokenizer.json once: python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{dir}').save_pretrained('{dir}')\""
    )
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("read", path))
}
