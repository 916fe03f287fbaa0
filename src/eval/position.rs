//! Where in a training a checkpoint stands.

use std::path::Path;

use serde_json::Value;

/// What trainers leave beside a model: this program's, and that of `transformers`.
const STATE_FILE: &str = "trainer_state.json";
/// Words that steps stand behind in names of checkpoints.
const WORDS: [&str; 6] = ["step", "steps", "checkpoint", "ckpt", "iter", "update"];

/// Steps and tokens behind a checkpoint, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Steps.
    pub step: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

impl Position {
    /// Of the checkpoint in a folder; `name` is what it is called. What the trainer's own record
    /// does not say, the name may.
    pub fn of(dir: &Path, name: &str) -> Self {
        let text = std::fs::read(dir.join(STATE_FILE)).unwrap_or_default();
        let state: Value = serde_json::from_slice(&text).unwrap_or_default();
        let figure = |keys: [&str; 2]| keys.iter().find_map(|key| state[*key].as_u64());
        Self {
            step: figure(["step", "global_step"]).or_else(|| step_in(name)),
            // The trainer of transformers writes 0 where it does not count tokens.
            tokens: figure(["tokens", "num_input_tokens_seen"]).filter(|&tokens| tokens > 0),
        }
    }
}

/// The number behind the last `step`, or a word like it, in the last part of a path or in a
/// revision; or that part, where it is a number.
fn step_in(name: &str) -> Option<u64> {
    let last = name.trim_end_matches('/').rsplit(['/', '@']).next()?;
    if let Ok(step) = last.parse() {
        return Some(step);
    }
    let lower = last.to_ascii_lowercase();
    let mut found = None;
    for (at, word) in WORDS.iter().flat_map(|word| lower.match_indices(word)) {
        let rest = lower[at + word.len()..].trim_start_matches(['-', '_', '=', '.']);
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let after = rest[digits..].chars().next();
        // `step-10k` and `step-1.5` are not that many steps.
        if after.is_none_or(|c| !c.is_alphanumeric() && c != '.')
            && let Ok(step) = rest[..digits].parse()
        {
            found = found.max(Some((at, step)));
        }
    }
    found.map(|(_, step)| step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_names() {
        for (name, step) in [
            ("./runs/a/step-00000500", Some(500)),
            ("runs/checkpoint-20000/", Some(20_000)),
            ("EleutherAI/pythia-160m@step1000", Some(1000)),
            ("out/epoch=2-step=1500", Some(1500)),
            ("out/ckpt_7", Some(7)),
            ("out/global_step300_hf", Some(300)),
            ("ckpts/1500", Some(1500)),
            ("gpt2", None),
            ("./model-124m", None),
            ("./step-10k", None),
            ("./steps", None),
        ] {
            assert_eq!(step_in(name), step, "{name}");
        }
    }

    #[test]
    fn a_trainers_record_says_more_than_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join(STATE_FILE), text).unwrap();
        let of = || Position::of(dir.path(), "./step-9");
        let position = |step, tokens| Position {
            step: Some(step),
            tokens,
        };
        assert_eq!(of(), position(9, None));
        write(r#"{"step": 8, "tokens": 4096}"#);
        assert_eq!(of(), position(8, Some(4096)));
        write(r#"{"global_step": 7, "num_input_tokens_seen": 0}"#);
        assert_eq!(of(), position(7, None));
        write("[1, \"");
        assert_eq!(of(), position(9, None));
    }
}
