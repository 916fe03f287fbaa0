//! Byte-level BPE in the one arrangement that GPT-2 and its kin use, made for long texts.
//!
//! The tokenizers crate tracks offsets, normalized forms and word ids that nobody here looks at.
//! This gives the same ids without them: words by hand (see [`super::words`]), each looked up in
//! a cache, and merged only where it is not there. Tokenizers of any other arrangement are left
//! to the crate.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::words::Words;

/// A merge table.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Ids of single bytes.
    bytes: Box<[u32; 256]>,
    /// Rank and result of merging two ids.
    merges: FxHashMap<(u32, u32), (u32, u32)>,
    /// Caches that no thread uses right now.
    caches: Mutex<Vec<Cache>>,
}

impl Bpe {
    /// The merge table of a `tokenizer.json`; none if it asks for anything else than GPT-2 does.
    pub fn from_json(json: &Value) -> Option<Self> {
        let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value == "";
        let (words, model) = (&json["pre_tokenizer"], &json["model"]);
        let plain = off(&json["normalizer"])
            && words["type"] == "ByteLevel"
            && words["add_prefix_space"] == false
            && !off(words.get("use_regex").unwrap_or(&Value::Bool(true)))
            && model["type"] == "BPE"
            && [
                "dropout",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "byte_fallback",
                "ignore_merges",
            ]
            .iter()
            .all(|key| off(&model[*key]));
        let added = json["added_tokens"].as_array().map_or(&[][..], |a| a);
        if !plain || added.iter().any(|token| token["special"] != true) {
            return None;
        }
        let vocab = model["vocab"].as_object()?;
        let id = |token: &str| u32::try_from(vocab.get(token)?.as_u64()?).ok();
        let mut bytes = Box::new([0; 256]);
        for (byte, name) in byte_names().into_iter().enumerate() {
            bytes[byte] = id(name.encode_utf8(&mut [0; 4]))?;
        }
        let mut merges = FxHashMap::default();
        for (rank, merge) in model["merges"].as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(text) => text.split_once(' ')?,
                pair => (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?),
            };
            let result = id(&format!("{left}{right}"))?;
            merges.insert((id(left)?, id(right)?), (u32::try_from(rank).ok()?, result));
        }
        Some(Self {
            bytes,
            merges,
            caches: Mutex::default(),
        })
    }

    /// Ids of `text`, in which no special token is seen.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let spare = self.caches.lock().ok().and_then(|mut spare| spare.pop());
        let mut cache = spare.unwrap_or_default();
        let mut ids = Vec::with_capacity(text.len() / 3);
        for word in Words::new(text) {
            match cache.find(word) {
                Ok(known) => ids.extend_from_slice(known),
                Err(free) => {
                    let start = ids.len();
                    self.merge(word.as_bytes(), &mut ids);
                    cache.keep(free, &ids[start..]);
                }
            }
        }
        if let Ok(mut spare) = self.caches.lock() {
            spare.push(cache);
        }
        ids
    }

    /// Appends the ids of a word: of all adjacent pairs the one of lowest rank is merged, the
    /// leftmost of equals, until there is none.
    fn merge(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut parts: Vec<Part> = word
            .iter()
            .enumerate()
            .map(|(at, &byte)| Part {
                id: self.bytes[usize::from(byte)],
                before: at.wrapping_sub(1),
                after: at + 1,
                alive: true,
            })
            .collect();
        let mut queue: BinaryHeap<_> = (0..parts.len())
            .filter_map(|at| self.candidate(&parts, at))
            .collect();
        while let Some(Reverse((rank, at, left, right))) = queue.pop() {
            let after = parts[at].after;
            let Some(next) = parts.get(after).copied() else {
                continue;
            };
            // A pair that was queued may have lost a half since.
            if !parts[at].alive || parts[at].id != left || next.id != right {
                continue;
            }
            let Some(&(current, id)) = self.merges.get(&(left, right)) else {
                continue;
            };
            debug_assert_eq!(rank, current);
            parts[at].id = id;
            parts[at].after = next.after;
            parts[after].alive = false;
            if let Some(beyond) = parts.get_mut(next.after) {
                beyond.before = at;
            }
            queue.extend(self.candidate(&parts, at));
            let before = parts[at].before;
            if before < parts.len() {
                queue.extend(self.candidate(&parts, before));
            }
        }
        ids.extend(parts.iter().filter(|part| part.alive).map(|part| part.id));
    }

    /// The merge of the part at `at` with the one after it.
    fn candidate(&self, parts: &[Part], at: usize) -> Option<Reverse<(u32, usize, u32, u32)>> {
        let (left, right) = (parts[at].id, parts.get(parts[at].after)?.id);
        let (rank, _) = self.merges.get(&(left, right))?;
        Some(Reverse((*rank, at, left, right)))
    }
}

/// A piece of a word while it is merged, in a doubly linked list.
#[derive(Clone, Copy)]
struct Part {
    id: u32,
    before: usize,
    after: usize,
    alive: bool,
}

/// Slots of a cache, two megabytes in all: with fewer, merging again costs more than memory that is
/// near the processor saves.
const SLOTS: usize = 1 << 16;
/// Longest word that is kept, so that its bytes and length fill one number.
const WORD: usize = 15;
/// Most ids that are kept of a word.
const IDS: usize = 3;

/// Ids of words seen before. Each word has one slot, and the last one that came stays.
#[derive(Debug)]
struct Cache {
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The bytes of the word and its length, at least 1; 0 for a free slot.
    key: u128,
    ids: [u32; IDS],
    count: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS].into_boxed_slice(),
        }
    }
}

impl Cache {
    /// The ids of the word, or the slot and key to keep them under, if it is short enough.
    fn find(&self, word: &str) -> Result<&[u32], Option<(usize, u128)>> {
        let length = word.len();
        if length > WORD {
            return Err(None);
        }
        let mut bytes = [0; 16];
        bytes[..length].copy_from_slice(word.as_bytes());
        bytes[WORD] = length as u8;
        let key = u128::from_le_bytes(bytes);
        let (low, high) = (key as u64, (key >> 64) as u64);
        let product =
            u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xc2b2_ae3d_27d4_eb4f);
        let at = (product >> 64) as usize ^ product as usize;
        let at = at % SLOTS;
        let slot = &self.slots[at];
        if slot.key == key {
            Ok(&slot.ids[..slot.count as usize])
        } else {
            Err(Some((at, key)))
        }
    }

    fn keep(&mut self, free: Option<(usize, u128)>, ids: &[u32]) {
        let Some((at, key)) = free.filter(|_| ids.len() <= IDS) else {
            return;
        };
        let mut slot = Slot {
            key,
            count: ids.len() as u32,
            ..Slot::default()
        };
        slot.ids[..ids.len()].copy_from_slice(ids);
        self.slots[at] = slot;
    }
}

/// The character that stands for each byte in a vocabulary: itself where it is printable, the
/// next free one from U+0100 elsewhere.
fn byte_names() -> [char; 256] {
    let mut free = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => free.next().expect("there are enough characters"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use crate::data::Tokenizer;

    static GPT2: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::gpt2);

    /// What the tokenizers crate makes of a text.
    fn same_as_the_crate(tokenizer: &Tokenizer, text: &str) {
        let expected = tokenizer.encode(text).unwrap();
        assert_eq!(
            tokenizer.encode_ordinary(text).unwrap(),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn long_runs_are_merged_as_the_crate_merges_them() {
        for part in ["a", " ", "ab", "\n", "=-", "0", "é", "\u{3000}", "the", "'"] {
            for count in [1, 2, 3, 15, 16, 17, 100, 1001] {
                same_as_the_crate(&GPT2, &part.repeat(count));
                same_as_the_crate(&GPT2, &format!("x{}y", part.repeat(count)));
            }
        }
    }

    #[test]
    fn special_tokens_are_text_like_any_other() {
        let ids = Tokenizer::gpt2().encode_ordinary("<|endoftext|>").unwrap();
        assert_eq!(ids, [27, 91, 437, 1659, 5239, 91, 29]);
    }

    #[test]
    fn every_character_is_of_the_crates_kind() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(4096) {
            // After a letter and before a digit, so that its kind decides where words end.
            let text: String = some
                .iter()
                .flat_map(|c| ['a', *c, '1', *c, ' ', *c])
                .collect();
            assert!(GPT2.encode_ordinary(&text).unwrap() == GPT2.encode(&text).unwrap());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_encoded_as_by_the_crate(text in "\\PC{0,200}|[a-c '\\n\\t.0-9éßあ\u{a0}\u{1f600}]{0,200}|(?s:.){0,100}") {
            same_as_the_crate(&GPT2, &text);
        }
    }
}
