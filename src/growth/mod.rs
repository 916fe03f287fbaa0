//! Growing a checkpoint deeper: a plan says where, an initializer says what.
//!
//! Works on host tensors by name; no device is involved. Kept blocks and plain copies are
//! moved byte for byte from file to file, everything else is computed one tensor at a time,
//! so memory use does not depend on the number of blocks.

pub mod config;
pub mod init;
pub mod method;
pub mod plan;
pub mod plan_file;

use std::io::Write;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use config::{Asked, EXCLUDE, GrowConfig};
pub use init::{Claim, Initializer, LayerInit, Term};
pub use method::{METHODS, Method};
pub use plan::{GrowthPlan, Placement, Provenance, Slot};

use self::init::{Site, Values};
use crate::checkpoint::layout::{self, BLOCK, BlockParam};
use crate::checkpoint::safetensors::TensorOut;
use crate::checkpoint::tensor::OpenFile;
use crate::checkpoint::{Checkpoint, Dtype, Gpt2Config, TensorRef};
use crate::error::{Error, Result, counted};
use crate::interrupt;

/// A source, a plan and a seed: everything that determines the grown checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Growth<'a> {
    source: &'a Checkpoint,
    plan: &'a GrowthPlan,
    seed: u64,
}

impl<'a> Growth<'a> {
    /// Pairs a source with a plan made for its depth.
    pub fn new(source: &'a Checkpoint, plan: &'a GrowthPlan, seed: u64) -> Result<Self> {
        if plan.source_n_layer != source.config.n_layer {
            return Err(Error::usage(format!(
                "the plan is for {}, the source has {}",
                counted(plan.source_n_layer, "source block", "source blocks"),
                source.config.n_layer
            )));
        }
        Ok(Self { source, plan, seed })
    }

    /// Architecture of the grown model.
    pub fn config(&self) -> Gpt2Config {
        self.source.config.with_n_layer(self.plan.n_layer())
    }

    /// Every tensor of the grown checkpoint, ready to be written.
    pub fn tensors(self) -> Result<Vec<TensorOut<'a>>> {
        let target = self.config();
        layout::params(&target)
            .into_iter()
            .map(|param| self.tensor(&param.name))
            .collect()
    }

    fn tensor(self, name: &str) -> Result<TensorOut<'a>> {
        match layout::split_block_name(name) {
            None => self.stored(name, self.source.tensor(name)?),
            Some((layer, rest)) => {
                let index = BLOCK
                    .iter()
                    .position(|param| param.name == rest)
                    .expect("the layout made this name");
                self.block_tensor(layer, index, name)
            }
        }
    }

    fn block_tensor(self, layer: usize, index: usize, name: &str) -> Result<TensorOut<'a>> {
        let param = &BLOCK[index];
        let slot = &self.plan.slots[layer];
        let parent = self.source.block(slot.source, param)?;
        let Some(init) = &slot.init else {
            return self.stored(name, parent);
        };
        let append = move |out: &OpenFile| {
            interrupt::check("nothing was published")?;
            match self.values(layer, index, init.as_init())? {
                Values::Stored(tensor) => tensor.append_to(out),
                Values::Computed(values) => {
                    let bytes = parent.dtype.encode(values.as_slice());
                    if !parent.dtype.all_finite(&bytes) {
                        self.refuse_overflow(layer, param, init, parent.dtype)?;
                    }
                    (&out.file)
                        .write_all(&bytes)
                        .map_err(Error::io("write", &out.path))
                }
            }
        };
        Ok(TensorOut {
            name: self.source.stored_name(name),
            dtype: parent.dtype,
            shape: parent.shape.clone(),
            append: Box::new(append),
        })
    }

    /// Refuses computed values that are not finite, unless what they are made of is not either:
    /// such a source can be grown, and is warned of.
    fn refuse_overflow(
        self,
        layer: usize,
        param: &BlockParam,
        init: &Initializer,
        dtype: Dtype,
    ) -> Result<()> {
        for term in self.plan.sources(layer) {
            if !self.source.block(term.layer, param)?.is_finite()? {
                return Ok(());
            }
        }
        Err(Error::usage(format!(
            "block {layer}: `{init}` makes values of {} that are not finite as {}",
            param.full_name(layer),
            dtype.name()
        ))
        .with_hint("choose smaller numbers for the initializer; nothing was published"))
    }

    fn stored(self, name: &str, tensor: &'a TensorRef) -> Result<TensorOut<'a>> {
        Ok(TensorOut {
            name: self.source.stored_name(name),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            append: Box::new(|out| tensor.append_to(out)),
        })
    }

    /// Values of parameter `index` of new block `layer`.
    fn values(self, layer: usize, index: usize, init: &dyn LayerInit) -> Result<Values> {
        let target = self.config();
        let site = Site::new(self.source, &target, self.plan.sources(layer));
        let param: &BlockParam = &BLOCK[index];
        let mut rng = rng(self.seed, layer, index);
        let values = init.init(&site, param, &mut rng)?;
        if let Values::Computed(tensor) = &values {
            let expected = param.shape(&target);
            if tensor.shape() != expected {
                return Err(Error::invalid(
                    format!("initializer for {}", param.full_name(layer)),
                    format!("made {:?}, expected {expected:?}", tensor.shape()),
                ));
            }
        }
        Ok(values)
    }
}

/// The generator of one parameter of one new block: a stream of its own under the seed.
fn rng(seed: u64, layer: usize, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((layer * BLOCK.len() + index) as u64);
    rng
}
