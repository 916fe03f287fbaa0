//! `scale-ckpt data`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Subcommand;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::hub::HubConfig;
use scale_ckpt::data::prepare::{Manifest, Options, ValSize, expand, prepare};
use scale_ckpt::data::{Split, Tokenizer};
use scale_ckpt::error::{Error, counted};
use scale_ckpt::home;
use scale_ckpt::progress::{DownloadMeter, eprint_line};

use super::shared::{print, print_json, said, thousands};

/// The format of shards counts their tokens in 31 bits.
const MAX_SHARD_TOKENS: u64 = 2_000_000_000;

/// Text to token shards.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(PrepareArgs),
}

impl Args {
    pub fn execute(self) -> Result<()> {
        match self.command {
            Command::Prepare(args) => args.execute(),
        }
    }
}

/// Tokenize text into shards to train on.
///
/// Reads .txt (documents separated by <|endoftext|>), .jsonl or .ndjson, .json (objects on lines of
/// their own, or one list of them), each also as .gz, .zst or .bz2, and .parquet. Of a folder, licences,
/// read-me files and what is not read are left out and named. Writes shards in llm.c's format, every document preceded by <|endoftext|>, and
/// manifest.json last. The same inputs and options give the same bytes, on any number of threads
/// and after any number of interruptions.
#[derive(Debug, clap::Args)]
struct PrepareArgs {
    /// Files, folders, globs, or hf://datasets/org/name[@revision][/files], where files may be a
    /// glob.
    #[arg(required = true, value_parser = home::expand_text)]
    inputs: Vec<String>,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The key of a JSON object or the column of a table that holds the text; doc.text is the key
    /// doc.text, or the key text in the object doc.
    #[arg(long, default_value = "text", value_name = "NAME")]
    field: String,
    /// A folder with a tokenizer; GPT-2's own unless given.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Share of the documents to put aside for validation.
    #[arg(long, default_value_t = 0.005, value_name = "SHARE")]
    val_fraction: f64,
    /// Put exactly so many documents aside; the inputs are then read twice.
    #[arg(long, value_name = "N", conflicts_with = "val_fraction")]
    val_docs: Option<u64>,
    /// Tokens per shard.
    #[arg(long, default_value = "100000000", value_name = "N")]
    shard_tokens: NonZeroU64,
    /// Seed of the choice of validation documents.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Leave out documents that cannot be read, and say how many.
    #[arg(long)]
    skip_bad: bool,
    /// Make a finished folder anew, whatever it was made from; what it holds is gone at once, also
    /// if the work fails.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl PrepareArgs {
    fn execute(self) -> Result<()> {
        let shard_tokens = self.shard_tokens.get();
        if shard_tokens > MAX_SHARD_TOKENS {
            return Err(Error::usage(format!(
                "--shard-tokens {shard_tokens} is more than {MAX_SHARD_TOKENS}"
            )));
        }
        let tokenizer = match &self.tokenizer {
            None => Tokenizer::gpt2(),
            Some(dir) => said(Tokenizer::in_folder(dir)?),
        };
        let options = Options {
            inputs: expand(&self.inputs, HubConfig::from_env, &DownloadMeter::default())?,
            out: self.out.clone(),
            field: self.field.clone(),
            val: match self.val_docs {
                Some(count) => ValSize::Documents(count),
                None => ValSize::Fraction(self.val_fraction),
            },
            shard_tokens,
            seed: self.seed,
            skip_bad: self.skip_bad,
            force: self.force,
        };
        let prepared = prepare(&options, &tokenizer)?;
        if prepared.found {
            eprint_line(&format!(
                "{} is complete already, nothing to do",
                self.out.display()
            ));
        }
        prepared.notes.iter().for_each(|note| eprint_line(note));
        let manifest = &prepared.manifest;
        let wanted = options.val != ValSize::Fraction(0.0) && options.val != ValSize::Documents(0);
        if wanted && manifest.val_documents == 0 {
            eprint_line("note: no document is put aside for validation; see --val-docs");
        }
        if self.json {
            return print_json(manifest);
        }
        print(&summary(manifest))?;
        print(&self.out.display().to_string())
    }
}

fn summary(manifest: &Manifest) -> String {
    let line = |split: Split, documents: u64| {
        format!(
            "{}: {} of {} in {}",
            split.name(),
            counted(thousands(manifest.tokens(split)), "token", "tokens"),
            counted(thousands(documents), "document", "documents"),
            counted(manifest.shards_of(split).count(), "shard", "shards")
        )
    };
    let mut text = line(Split::Train, manifest.train_documents);
    text.push('\n');
    text.push_str(&line(Split::Val, manifest.val_documents));
    if manifest.skipped_documents > 0 {
        let skipped = thousands(manifest.skipped_documents);
        let skipped = counted(skipped, "bad document", "bad documents");
        text.push_str(&format!("\nleft out: {skipped}"));
    }
    text
}
