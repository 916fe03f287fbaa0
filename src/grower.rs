//! Growth from an open source to a published folder: write, certify, record.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::VERSION;
use crate::certify::{Certificate, PROBE_TEXT, PROBE_TOKENS, certify};
use crate::checkpoint::safetensors::TensorOut;
use crate::checkpoint::{Checkpoint, Origin, save};
use crate::data::Tokenizer;
use crate::durable::StagedDir;
use crate::error::{Error, Result, counted};
use crate::growth::{Claim, Growth, GrowthPlan, Provenance};
use crate::owner;
pub use crate::owner::GROWTH_FILE;
use crate::progress::{Meter, Unit};

/// What [`GROWTH_FILE`] holds.
#[derive(Clone, Debug, Serialize)]
pub struct GrowthRecord {
    /// Version of this format. In the first, `layers` had no `sources`, and its `source` was the
    /// block of the layer map.
    pub schema: u32,
    /// Always `scale-ckpt`.
    pub tool: &'static str,
    /// Version and commit of this program.
    pub tool_version: &'static str,
    /// What was grown.
    pub source: SourceRecord,
    /// Blocks afterwards.
    pub n_layer: usize,
    /// Seed of random values.
    pub seed: u64,
    /// What every block is made of, and how.
    pub layers: Vec<Provenance>,
    /// What the plan claims.
    pub claim: Claim,
    /// What was measured, if it was.
    pub certificate: Option<Certificate>,
    /// Source tensors with values that are not finite.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub non_finite: Vec<String>,
    /// What is odd about the probe, as that no tokenizer could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_note: Option<String>,
    /// Files that were copied along.
    pub companions: Vec<String>,
    /// Files that were not, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
    /// The growths that the source came of, the last one first: what its own record says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Value>,
}

/// What was grown.
#[derive(Clone, Debug, Serialize)]
pub struct SourceRecord {
    /// Name and commit.
    #[serde(flatten)]
    pub origin: Origin,
    /// SHA-256 over the bytes of its weight files.
    pub weights_sha256: String,
    /// Its blocks.
    pub n_layer: usize,
}

/// One growth, from open source to published folder.
#[derive(Clone, Copy, Debug)]
pub struct Grower<'a> {
    /// What is grown.
    pub source: &'a Checkpoint,
    /// How.
    pub plan: &'a GrowthPlan,
    /// Seed of random values.
    pub seed: u64,
    /// The text to certify on; no certificate without.
    pub probe: Option<&'a str>,
    /// Largest weight file.
    pub max_shard_bytes: u64,
    /// Whether an existing checkpoint is replaced.
    pub force: bool,
}

impl Grower<'_> {
    /// Writes, certifies, records, publishes; returns what is in `growth.json`.
    ///
    /// # Errors
    /// Nothing is published if a file cannot be read or written, a signal arrives, or an exact
    /// claim does not hold.
    pub fn run(&self, out: &Path) -> Result<GrowthRecord> {
        let probe = self.probe.map(|text| probe_ids(self.source, text));
        let probe = probe.transpose()?;
        let staged = StagedDir::new(out, self.force)?;
        let (weights_sha256, non_finite) = self.write_weights(&staged)?;
        let companions = self.source.companions();
        let copied = companions.copy(&staged)?;
        let (certificate, probe_note) = match probe {
            Some((ids, note)) => (Some(self.certify(staged.path(), &ids)?), note),
            None => (None, None),
        };
        let record = GrowthRecord {
            schema: 2,
            tool: "scale-ckpt",
            tool_version: VERSION,
            source: SourceRecord {
                origin: self.source.origin.clone(),
                weights_sha256,
                n_layer: self.source.config.n_layer,
            },
            n_layer: self.plan.n_layer(),
            seed: self.seed,
            layers: self.plan.provenance(),
            claim: self.plan.claim(),
            certificate,
            non_finite,
            probe_note,
            companions: copied,
            left_behind: companions.left_behind,
            parents: parents(&self.source.dir),
        };
        let json = serde_json::to_string_pretty(&record).expect("a record serializes") + "\n";
        staged.write(GROWTH_FILE, json.as_bytes())?;
        staged.write("README.md", self.model_card(&record).as_bytes())?;
        staged.publish()?;
        Ok(record)
    }

    /// Writes the weights while another thread reads the source for its hash and for values that
    /// are not finite.
    fn write_weights(&self, staged: &StagedDir) -> Result<(String, Vec<String>)> {
        let growth = Growth::new(self.source, self.plan, self.seed)?;
        let tensors = growth.tensors()?;
        let total = tensors.iter().map(TensorOut::byte_len).sum();
        let meter = Meter::new("writing", total, Unit::Bytes);
        std::thread::scope(|scope| {
            let reading =
                scope.spawn(|| Ok((self.source.weights_sha256()?, self.source.non_finite()?)));
            let written = save::save(
                staged,
                &growth.config(),
                tensors,
                self.max_shard_bytes,
                &|bytes| meter.advance(bytes),
            );
            let read = reading.join().expect("reading does not panic");
            written.and(read)
        })
    }

    /// Measures what was written, from the files themselves.
    fn certify(&self, written: &Path, ids: &[u32]) -> Result<Certificate> {
        let grown = Checkpoint::open_dir(written)?;
        let certificate = certify(self.source, &grown, self.plan.claim(), ids)?;
        certificate.enforce()?;
        Ok(certificate)
    }

    /// What became of the source's blocks, for a title.
    fn changed(&self) -> String {
        let (before, after) = (self.source.config.n_layer, self.plan.n_layer());
        let layers = counted(after, "layer", "layers");
        match after.cmp(&before) {
            Ordering::Greater => format!("grown from {before} to {layers}"),
            Ordering::Less => format!("cut from {before} to {layers}"),
            Ordering::Equal if self.plan.n_new() > 0 => {
                format!("{} of {layers} made anew", self.plan.n_new())
            }
            Ordering::Equal if self.plan.layer_map().is_sorted() => {
                format!("unchanged with {layers}")
            }
            Ordering::Equal => format!("its {layers} in another order"),
        }
    }

    /// How the plan is read.
    fn legend(&self) -> &'static str {
        match self.plan.n_new() {
            0 => "The block of the source that each block is",
            _ => {
                "The blocks of the source that each block is made of, new ones\n\
                 starred (`0+1*` of 0 and 1, a star alone of none)"
            }
        }
    }

    /// Which blocks are new and how they were made, and what is the source's.
    fn new_blocks(&self) -> String {
        let inits = self.plan.slots.iter().filter_map(|slot| slot.init.as_ref());
        let inits: BTreeSet<String> = inits.map(ToString::to_string).collect();
        let inits = inits.into_iter().collect::<Vec<_>>().join(", ");
        let seed = self.seed;
        let rest = "the embeddings and the final LayerNorm are those of the\nsource, bit for bit.";
        match self.plan.n_new() {
            0 => format!("No block is new: the blocks, {rest}"),
            new if new == self.plan.n_layer() => {
                let rest = rest.replacen('t', "T", 1);
                format!("All blocks are new: {inits}. Seed {seed}. {rest}")
            }
            _ => format!("New blocks: {inits}. Seed {seed}. The other blocks, {rest}"),
        }
    }

    fn model_card(&self, record: &GrowthRecord) -> String {
        let Origin {
            source,
            repo,
            commit,
        } = &self.source.origin;
        let at = commit
            .as_ref()
            .map(|commit| format!(" at commit `{commit}`"))
            .unwrap_or_default();
        let measured = record
            .certificate
            .as_ref()
            .map_or_else(|| "not measured".to_owned(), |c| c.lines().join("\n"));
        let base = repo
            .as_ref()
            .map(|repo| format!("base_model: {repo}\n"))
            .unwrap_or_default();
        let earlier = if record.parents.is_empty() {
            ""
        } else {
            ", and in its `parents` those of the growths before"
        };
        let (changed, legend, new) = (self.changed(), self.legend(), self.new_blocks());
        let plan = self.plan;
        format!(
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\n{base}tags:\n- gpt2\n- scale-ckpt\n---\n\n\
             # {source}, {changed}\n\n\
             Made from `{source}`{at} by scale-ckpt {VERSION}. {legend}:\n\n\
             ```text\n{plan}\n```\n\n\
             {new} The full plan and certificate are in `growth.json`{earlier}.\n\n\
             Right after growth:\n\n```text\n{measured}\n```\n"
        )
    }
}

/// The growths that a checkpoint came of, the last one first. They stand side by side: records
/// within records would at some depth be more than a reader of JSON takes.
fn parents(dir: &Path) -> Vec<Value> {
    let Some(mut last) = owner::growth(dir) else {
        return Vec::new();
    };
    let earlier = last
        .as_object_mut()
        .and_then(|record| record.shift_remove("parents"));
    let earlier = earlier.as_ref().and_then(Value::as_array).cloned();
    std::iter::once(last)
        .chain(earlier.unwrap_or_default())
        .collect()
}

/// The blocks of a checkpoint folder that the growth behind it added; none where it was not
/// grown by this program.
pub fn new_layers(dir: &Path) -> BTreeSet<usize> {
    let text = std::fs::read(dir.join(GROWTH_FILE)).unwrap_or_default();
    let record: Value = serde_json::from_slice(&text).unwrap_or_default();
    let layers = record["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate();
    layers
        .filter(|(_, slot)| !slot["init"].is_null())
        .map(|(layer, _)| layer)
        .collect()
}

/// Token ids of a probe, at most [`PROBE_TOKENS`], and what is odd about them. Where the
/// checkpoint has no tokenizer that can read [`PROBE_TEXT`], the ids for that text are a fixed
/// pseudo-random sequence, and the second value says why: growth itself needs no tokenizer.
///
/// # Errors
/// A text of the user's cannot be read with the checkpoint's tokenizer, or has fewer than 2 tokens.
pub fn probe_ids(checkpoint: &Checkpoint, text: &str) -> Result<(Vec<u32>, Option<String>)> {
    let vocab = checkpoint.config.vocab_size;
    let longest = PROBE_TOKENS.min(checkpoint.config.n_positions);
    let encoded = Tokenizer::for_checkpoint(&checkpoint.dir, vocab).and_then(|tokenizer| {
        let notes = tokenizer.notes().join("; ");
        let note = (!notes.is_empty()).then_some(notes);
        Ok((tokenizer.encode_with_added(text)?, note))
    });
    let why = match encoded {
        Ok((mut ids, note)) => {
            ids.truncate(longest);
            if ids.len() >= 2 {
                return Ok((ids, note));
            }
            if text != PROBE_TEXT {
                return Err(Error::usage("the probe text has fewer than 2 tokens"));
            }
            "the tokenizer makes nothing of the probe text".to_owned()
        }
        Err(error) if text != PROBE_TEXT => return Err(error),
        Err(error) => error.to_string(),
    };
    let scrambled = |i: u64| (i.wrapping_mul(2_654_435_761) >> 7) % vocab as u64;
    let ids = (0..longest as u64).map(|i| scrambled(i) as u32).collect();
    let note = format!("the probe is a fixed sequence of token ids, not a text: {why}");
    Ok((ids, Some(note)))
}
