//! `scale-ckpt logits`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use scale_ckpt::Result;
use scale_ckpt::certify::{self, PROBE_TEXT};
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::grower::probe_ids;
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use serde_json::Value;

use super::output::{Output, files_of};
use super::shared::{open, print};

/// Write the logits of a text, for comparison with other programs.
///
/// The file is a safetensors file with `input_ids` `[T]` (I64) and `logits` `[T, V]` (F32).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint.
    checkpoint: String,
    /// A text file; a built-in paragraph unless given. The first 128 tokens are used.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N; in f32.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that is there, unless it is read here; one of logits is replaced in any case.
    #[arg(long)]
    force: bool,
}

/// What the metadata of the file say.
const MARK: (&str, &str) = ("written_by", "scale-ckpt logits");

impl Args {
    pub fn execute(self) -> Result<()> {
        let device = self.device.open()?;
        let checkpoint = open(&self.checkpoint)?;
        let text = match &self.text {
            Some(path) => scale_ckpt::error::read_text(path)?,
            None => PROBE_TEXT.to_owned(),
        };
        let output = self.output(&checkpoint)?;
        output.check()?;
        let (ids, note) = probe_ids(&checkpoint, &text)?;
        if let Some(note) = note {
            eprint_line(&format!("warning: {note}"));
        }
        let meter = Meter::new("forward", checkpoint.config.n_layer as u64, Unit::Count);
        let logits = certify::logits(&checkpoint, &ids, &device, &meter)?;
        let id_bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| i64::from(id).to_le_bytes())
            .collect();
        let logit_bytes: Vec<u8> = logits
            .as_slice()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let view = |dtype, shape: Vec<usize>, bytes| {
            TensorView::new(dtype, shape, bytes)
                .map_err(|e| Error::invalid("logits", e.to_string()))
        };
        let tensors = HashMap::from([
            ("input_ids", view(Dtype::I64, vec![ids.len()], &id_bytes)?),
            (
                "logits",
                view(Dtype::F32, logits.shape().to_vec(), &logit_bytes)?,
            ),
        ]);
        let metadata = HashMap::from([(MARK.0.to_owned(), MARK.1.to_owned())]);
        let file = safetensors::serialize(tensors, Some(metadata))
            .map_err(|e| Error::invalid("logits", e.to_string()))?;
        output.write(&file)?;
        print(&self.out.display().to_string())
    }

    fn output(&self, checkpoint: &Checkpoint) -> Result<Output<'_>> {
        let mut inputs = files_of(checkpoint, is_ours)?;
        inputs.extend(self.text.clone());
        Ok(Output {
            path: &self.out,
            kind: "a file of logits",
            is_ours,
            force: self.force,
            inputs,
        })
    }
}

/// Whether a file is of those that are written here.
fn is_ours(_: &Path, beginning: &[u8]) -> bool {
    let header = || {
        let (length, rest) = beginning.split_first_chunk()?;
        let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        serde_json::from_slice::<Value>(header).ok()
    };
    header().is_some_and(|header| header["__metadata__"][MARK.0] == MARK.1)
}
