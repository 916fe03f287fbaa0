//! Options that other programs have, and what is meant by them here.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Commands, options of other programs without `--` and with `-` for `_`, and what to use here. Of
/// rows that apply, the first counts.
pub const FLAGS: &[(&str, &str, &str)] = &[
    (
        "train",
        "dry-run",
        "`scale-ckpt plan RECIPE` shows what a run would do and cost",
    ),
    (
        "plan",
        "dry-run",
        "leave it out: `plan` writes nothing, and --no-probe times nothing",
    ),
    (
        "train",
        "resume resume-from-checkpoint",
        "leave it out: the same command goes on where it was stopped",
    ),
    (
        "train plan",
        "config",
        "the recipe is given without an option, as in `scale-ckpt train recipe.toml`",
    ),
    (
        "train plan",
        "output output-dir output-path out",
        "use --set out=DIR, or `out` in the recipe",
    ),
    (
        "train plan",
        "lr learning-rate",
        "use --set train.lr=1e-4, or train.lr in the recipe",
    ),
    (
        "train plan",
        "batch-size per-device-train-batch-size gradient-accumulation-steps micro-batch",
        "use --set train.batch_tokens=N for all of a step, and --set train.micro_batch=B for the sequences of one pass",
    ),
    (
        "train plan",
        "epochs num-train-epochs max-steps steps tokens",
        "use --set train.tokens=N, the tokens to train on",
    ),
    (
        "train plan",
        "seed",
        "use --set seed=N, or `seed` in the recipe",
    ),
    (
        "train plan",
        "precision dtype bf16",
        "use --set 'train.precision=\"bf16\"', or train.precision in the recipe",
    ),
    (
        "eval generate inspect analyze logits grow",
        "model pretrained model-name-or-path checkpoint",
        "checkpoints are given without an option: a hub id, as in gpt2, a folder or a file",
    ),
    (
        "eval",
        "model-args",
        "checkpoints are given without an option, as in `scale-ckpt eval gpt2`; see also --device and --precision",
    ),
    (
        "eval",
        "batch-size max-batch-size",
        "leave it out: items are packed into passes without it, and no score depends on how",
    ),
    (
        "eval",
        "output output-path output-dir log-samples",
        "use --out DIR, a folder for results and every item's score",
    ),
    (
        "eval",
        "use-cache",
        "use --out DIR: the same command goes on where it was stopped",
    ),
    ("eval", "num-fewshot", "use --num-fewshot K"),
    (
        "eval",
        "seed",
        "use --fewshot-seed for the examples, and --sample-seed for the items of --limit",
    ),
    (
        "generate",
        "max-new-tokens max-tokens max-length num-tokens length n-predict",
        "use --tokens N",
    ),
    (
        "generate",
        "do-sample greedy",
        "use --temperature: 0 always takes the likeliest token, above 0 draws",
    ),
    (
        "generate",
        "num-return-sequences num-samples",
        "run the command again with another --seed",
    ),
    ("generate", "text input", "use --prompt TEXT"),
    (
        "grow",
        "layers n-layer n-layers num-layers num-hidden-layers target-layers depth blocks",
        "use --to N, the blocks of the grown model",
    ),
    (
        "grow",
        "strategy operator",
        "use --method, or --placement and --init; `scale-ckpt methods` lists them",
    ),
    (
        "data prepare",
        "input inputs files",
        "inputs are given without an option",
    ),
    (
        "data prepare",
        "val-split val-ratio val-size test-size",
        "use --val-fraction SHARE, or --val-docs N",
    ),
    (
        "data prepare",
        "text-key text-field text-column json-keys column",
        "use --field NAME",
    ),
    (
        "grow data prepare merge compare man",
        "output output-dir output-path out-dir save-dir",
        "use --out DIR",
    ),
    (
        "eval bench",
        "dtype bf16 fp16 amp",
        "use --precision bf16 or --precision f32",
    ),
    (
        "train plan eval generate analyze logits compare search bench",
        "gpu gpus cuda",
        "use --device cuda",
    ),
];

/// The error with what to use here, for an option of another program. That an unknown option could
/// be passed as a value is never said: it is no name of a checkpoint or a recipe.
pub fn advised(mut error: Error, words: &[String]) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    if let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) {
        let is_as_value = |tip: &StyledStr| tip.to_string().contains("as a value");
        let kept: Vec<StyledStr> = tips.into_iter().filter(|tip| !is_as_value(tip)).collect();
        if !kept.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(kept));
        }
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    if let Some(tip) = tip(words, flag) {
        error.remove(ContextKind::SuggestedArg);
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

fn tip(words: &[String], flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-').replace('_', "-");
    let name = name.split('=').next().unwrap_or_default();
    let command = words.get(1)?;
    let has = |list: &str, word: &str| list.split(' ').any(|one| one == word);
    let row = FLAGS
        .iter()
        .find(|(commands, flags, _)| has(commands, command) && has(flags, name));
    row.map(|row| row.2)
}
