//! `scale-ckpt grow`.

use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::certify::{Certificate, PROBE_TEXT, PROBE_TOKENS, certify};
use scale_ckpt::checkpoint::save::{self, planned_files};
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, layout};
use scale_ckpt::data::Tokenizer;
use scale_ckpt::durable::{StagedDir, refuse_existing};
use scale_ckpt::error::Error;
use scale_ckpt::growth::{Claim, Growth, GrowthPlan, Initializer, Placement};
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use scale_ckpt::recipe::GrowConfig;
use serde_json::{Value, json};

use super::shared::{VERSION, bytes, open, print, print_json, thousands};
use super::table;

/// Grow a checkpoint deeper.
///
/// Without --method, --placement, --init or --plan, new blocks are zero-residual copies spread
/// evenly: the function of the model is unchanged at first, which is the safe start for a
/// checkpoint that was trained to the end, as the published GPT-2 ones were.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source checkpoint.
    source: String,
    /// Blocks of the grown model.
    #[arg(long, value_name = "N")]
    to: Option<usize>,
    /// A published method, see `scale-ckpt methods`.
    #[arg(long)]
    method: Option<String>,
    /// Where new blocks stand.
    #[arg(long, value_enum)]
    placement: Option<Placement>,
    /// How new blocks get their values: NAME or NAME:key=value.
    #[arg(long, value_name = "INIT")]
    init: Option<String>,
    /// A plan file.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Seed of random values.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// The folder to write; NAME-Nl unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an existing checkpoint folder.
    #[arg(long)]
    force: bool,
    /// Split the weights into files of at most this size, as in 5GB.
    #[arg(long, value_name = "SIZE", value_parser = save::parse_size, default_value = "50GB")]
    max_shard_size: u64,
    /// Show the plan and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// A text file to certify on; a built-in paragraph unless given.
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// Do not measure what growth did to the function of the model.
    #[arg(long)]
    no_certificate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let source = open(&self.source)?;
        let plan = self.config()?.resolve(source.config.n_layer)?;
        let out = self.out.clone().unwrap_or_else(|| default_out(&source, plan.n_layer()));
        if !plan.dropped().is_empty() {
            eprint_line(&format!("warning: source blocks {:?} stand nowhere in the plan", plan.dropped()));
        }
        if self.dry_run {
            return self.show_plan(&source, &plan, &out);
        }
        refuse_existing(&out, self.force)?;
        let probe = match (&self.probe, self.no_certificate) {
            (_, true) => None,
            (Some(path), _) => Some(std::fs::read_to_string(path).map_err(Error::io("read", path))?),
            (None, _) => Some(PROBE_TEXT.to_owned()),
        };
        let job = Job { source: &source, plan: &plan, seed: self.seed, probe: probe.as_deref(), max_shard_bytes: self.max_shard_size, force: self.force };
        let record = job.run(&out)?;
        self.report(&source, &plan, &out, &record)
    }

    fn config(&self) -> Result<GrowConfig> {
        let init = self.init.as_deref().map(Initializer::parse).transpose()?;
        Ok(GrowConfig { to: self.to, method: self.method.clone(), placement: self.placement, init, plan: self.plan.clone() })
    }

    fn show_plan(&self, source: &Checkpoint, plan: &GrowthPlan, out: &Path) -> Result<()> {
        let target = source.config.with_n_layer(plan.n_layer());
        let files = planned_files(&tensor_sizes(source, plan)?, self.max_shard_size);
        let total: u64 = files.iter().map(|f| f.1).sum();
        if self.json {
            let files: Vec<Value> = files.iter().map(|(name, size)| json!({ "name": name, "bytes": size })).collect();
            return print_json(&json!({
                "schema": 1, "dry_run": true, "source": source.origin, "plan": plan, "claim": plan.claim(), "out": out,
                "parameters": { "before": layout::parameter_count(&source.config), "after": layout::parameter_count(&target) },
                "files": files,
            }));
        }
        let rows: Vec<Vec<String>> = plan
            .slots
            .iter()
            .enumerate()
            .map(|(layer, slot)| vec![layer.to_string(), slot.source.to_string(), slot.init.as_ref().map_or_else(|| "kept".into(), ToString::to_string)])
            .collect();
        let mut text = table::render(&["layer", "source", "values"], &[true, true, false], &rows);
        text.push_str(&format!("\n\n{}", counts(&source.config, &target)));
        text.push_str(&format!("\nclaim: {}", plan.claim()));
        text.push_str(&format!("\nwould write {} to {}:", bytes(total), out.display()));
        for (name, size) in files {
            text.push_str(&format!("\n  {} ({})", name.display(), bytes(size)));
        }
        print(&text)
    }

    fn report(&self, source: &Checkpoint, plan: &GrowthPlan, out: &Path, record: &Value) -> Result<()> {
        if self.json {
            return print_json(record);
        }
        let target = source.config.with_n_layer(plan.n_layer());
        eprint_line(&format!("plan: {plan}   (* new)"));
        if self.config()? == (GrowConfig { to: self.to, ..GrowConfig::default() }) {
            eprint_line("default: interleaved zero-residual blocks, which leave a trained model's function as it is");
        }
        eprint_line(&counts(&source.config, &target));
        print(&out.display().to_string())
    }
}

fn counts(before: &Gpt2Config, after: &Gpt2Config) -> String {
    format!("{} -> {} layers, {} -> {} parameters", before.n_layer, after.n_layer, thousands(layout::parameter_count(before)), thousands(layout::parameter_count(after)))
}

fn tensor_sizes(source: &Checkpoint, plan: &GrowthPlan) -> Result<Vec<u64>> {
    Ok(Growth::new(source, plan, 0)?.tensors()?.iter().map(scale_ckpt::checkpoint::safetensors::TensorOut::byte_len).collect())
}

/// `gpt2-24l` for the hub's gpt2, `name-8l` beside nothing for a folder `./some/name`.
fn default_out(source: &Checkpoint, n_layer: usize) -> PathBuf {
    let given = source.origin.source.trim_start_matches("hf://");
    let name = given.split('@').next().unwrap_or(given).trim_end_matches('/').rsplit('/').next().unwrap_or("model");
    let name = name.trim_end_matches(".safetensors").trim_end_matches(".bin");
    PathBuf::from(format!("{}-{n_layer}l", if name.is_empty() || name == "." || name == ".." { "model" } else { name }))
}

/// One growth, from open source to published folder.
pub struct Job<'a> {
    pub source: &'a Checkpoint,
    pub plan: &'a GrowthPlan,
    pub seed: u64,
    /// The text to certify on; no certificate without.
    pub probe: Option<&'a str>,
    pub max_shard_bytes: u64,
    pub force: bool,
}

impl Job<'_> {
    /// Writes, certifies, records, publishes; returns the record that is in `growth.json`.
    pub fn run(&self, out: &Path) -> Result<Value> {
        let staged = StagedDir::new(out, self.force)?;
        let sha256 = self.write_weights(&staged)?;
        let files = save::copy_companions(&self.source.dir, &staged)?;
        let certificate = self.probe.map(|probe| self.certify(staged.path(), probe)).transpose()?;
        let record = json!({
            "schema": 1,
            "tool": "scale-ckpt",
            "tool_version": VERSION,
            "source": { "name": self.source.origin.source, "commit": self.source.origin.commit, "weights_sha256": sha256, "n_layer": self.source.config.n_layer },
            "n_layer": self.plan.n_layer(),
            "seed": self.seed,
            "layers": self.plan.slots,
            "claim": self.plan.claim(),
            "certificate": certificate,
            "companions": files,
        });
        staged.write("growth.json", (serde_json::to_string_pretty(&record).expect("a record serializes") + "\n").as_bytes())?;
        staged.write("README.md", self.model_card(certificate.as_ref()).as_bytes())?;
        staged.publish()?;
        Ok(record)
    }

    /// Writes the weights while another thread hashes the source; returns the hash.
    fn write_weights(&self, staged: &StagedDir) -> Result<String> {
        let growth = Growth::new(self.source, self.plan, self.seed)?;
        let tensors = growth.tensors()?;
        let total = tensors.iter().map(scale_ckpt::checkpoint::safetensors::TensorOut::byte_len).sum();
        let meter = Meter::new("writing", total, Unit::Bytes);
        std::thread::scope(|scope| {
            let hash = scope.spawn(|| self.source.weights_sha256());
            let written = save::save(staged, &growth.config(), tensors, self.max_shard_bytes, &|bytes| meter.advance(bytes));
            let hash = hash.join().expect("hashing does not panic");
            written.and(hash)
        })
    }

    /// Measures what was written, from the files themselves.
    fn certify(&self, written: &Path, probe: &str) -> Result<Certificate> {
        let mut ids = probe_ids(self.source, probe)?;
        ids.truncate(PROBE_TOKENS.min(self.source.config.n_positions));
        let grown = Checkpoint::open_dir(written)?;
        let certificate = certify(self.source, &grown, self.plan.claim(), &ids)?;
        for line in certificate_lines(&certificate) {
            eprint_line(&line);
        }
        certificate.enforce()?;
        Ok(certificate)
    }

    fn model_card(&self, certificate: Option<&Certificate>) -> String {
        let source = &self.source.origin.source;
        let commit = self.source.origin.commit.as_ref().map(|c| format!(" at commit `{c}`")).unwrap_or_default();
        let inits: std::collections::BTreeSet<String> = self.plan.slots.iter().filter_map(|s| s.init.as_ref()).map(ToString::to_string).collect();
        let measured = certificate.map_or_else(|| "Not measured.".to_owned(), |c| certificate_lines(c).join("\n"));
        let base = if source.starts_with(['.', '/', '~']) { String::new() } else { format!("base_model: {}\n", source.split('@').next().unwrap_or(source)) };
        format!(
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\n{base}tags:\n- gpt2\n- scale-ckpt\n---\n\n\
             # {source}, grown from {} to {} layers\n\n\
             Made from `{source}`{commit} by scale-ckpt {VERSION}. Blocks of the source, in order, new ones starred:\n\n    {}\n\n\
             New blocks: {}. Seed {}. The other blocks, embeddings and final LayerNorm are those of the source, bit for bit.\n\n\
             ## Right after growth\n\n```text\n{measured}\n```\n\nThe full plan and certificate are in `growth.json`.\n",
            self.source.config.n_layer,
            self.plan.n_layer(),
            self.plan,
            inits.into_iter().collect::<Vec<_>>().join(", "),
            self.seed,
        )
    }
}

/// Token ids of a probe; a fixed pseudo-random sequence where the checkpoint has no tokenizer.
pub fn probe_ids(checkpoint: &Checkpoint, text: &str) -> Result<Vec<u32>> {
    let vocab = checkpoint.config.vocab_size;
    let has_files = ["tokenizer.json", "vocab.json"].iter().any(|name| checkpoint.dir.join(name).is_file());
    if !has_files && vocab < 50257 {
        eprint_line("note: the checkpoint has no tokenizer; the probe is a fixed sequence of token ids");
        return Ok((0..PROBE_TOKENS as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab as u64).map(|id| id as u32).collect());
    }
    let ids = Tokenizer::for_checkpoint(&checkpoint.dir, vocab)?.encode(text)?;
    if ids.len() < 2 {
        return Err(Error::usage("the probe text has fewer than 2 tokens"));
    }
    Ok(ids)
}

/// A certificate in words.
pub fn certificate_lines(c: &Certificate) -> Vec<String> {
    let verdict = match (c.claim, c.holds) {
        (_, None) => "not measurable: the weights are not finite".to_owned(),
        (Claim::None, _) => "nothing claimed".to_owned(),
        (claim, Some(true)) => format!("{claim}, as claimed"),
        (claim, Some(false)) => format!("NOT {claim}, as was claimed"),
    };
    vec![
        format!("certificate: {verdict} ({} probe tokens)", c.probe_tokens),
        format!("  max |dlogit|  {:.3e} (logits reach {:.1})", c.max_abs_logit_diff, c.max_abs_logit),
        format!("  mean KL       {:.3e} nats", c.mean_kl),
        format!("  loss          {:.4} -> {:.4} ({:+.4})", c.source_loss, c.grown_loss, c.grown_loss - c.source_loss),
        format!("  top-1 agrees  {:.1} %", 100.0 * c.top1_agreement),
    ]
}
