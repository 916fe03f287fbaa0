//! Between checkpoints and the module tree, by name.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Block, Gpt2, LayerNorm};
use crate::checkpoint::safetensors::TensorOut;
use crate::checkpoint::{Checkpoint, Dtype, Gpt2Config, HostTensor};
use crate::checkpoint::{draw, layout};
use crate::device::read;
use crate::error::{Error, Result};

/// Loads a checkpoint. Weights are widened to f32.
///
/// # Errors
/// A tensor cannot be read. Values that are not finite are let through: see
/// [`Checkpoint::non_finite`].
pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Gpt2> {
    fill(Gpt2::zeros(&checkpoint.config, device), |name| {
        checkpoint.tensor(name)?.read()
    })
}

/// Loads one block alone, for passes that hold a single block in memory.
pub fn load_block(checkpoint: &Checkpoint, layer: usize, device: &Device) -> Result<Block> {
    fill(Block::zeros(&checkpoint.config, device), |name| {
        checkpoint.tensor(&format!("h.{layer}.{name}"))?.read()
    })
}

/// Loads the last LayerNorm alone.
pub fn load_ln_f(checkpoint: &Checkpoint, device: &Device) -> Result<LayerNorm> {
    fill(LayerNorm::zeros(&checkpoint.config, device), |name| {
        checkpoint.tensor(&format!("ln_f.{name}"))?.read()
    })
}

/// Draws a model from scratch, as `transformers` does, each parameter from a random stream of
/// its own under `seed`. `residual_depth` is the number of blocks that the spread of output
/// projections is made for, usually `n_layer`.
pub fn init(
    config: &Gpt2Config,
    residual_depth: usize,
    seed: u64,
    device: &Device,
) -> Result<Gpt2> {
    let params = layout::params(config);
    fill(Gpt2::zeros(config, device), |name| {
        let stream = params
            .iter()
            .position(|p| p.name == name)
            .ok_or_else(|| Error::invalid(name, "not in the layout"))?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        let param = &params[stream];
        Ok(draw::fresh(
            param.fresh,
            &param.shape,
            config.initializer_range,
            residual_depth,
            &mut rng,
        ))
    })
}

/// A parameter read back from the module tree.
#[derive(Clone, Debug)]
pub struct Named {
    /// Name in the checkpoint, without prefix.
    pub name: String,
    /// Values.
    pub values: HostTensor,
}

/// Every parameter of a model, in file order.
///
/// # Errors
/// The device failed.
pub fn read_all<M: Module>(module: &M) -> Result<Vec<Named>> {
    let mut reader = Reader {
        path: Path::default(),
        out: Ok(Vec::new()),
    };
    module.visit(&mut reader);
    reader.out
}

/// Tensors ready to be written, with the trunk's prefix as `transformers` writes it, in `dtype`.
///
/// Writing them does not stop at a signal: it is what a signal asks a run for.
pub fn tensors_out(named: &[Named], dtype: Dtype) -> Vec<TensorOut<'_>> {
    use std::io::Write;
    named
        .iter()
        .map(|Named { name, values }| TensorOut {
            name: if name == layout::LM_HEAD {
                name.clone()
            } else {
                format!("{}{name}", layout::PREFIX)
            },
            dtype,
            shape: values.shape().to_vec(),
            append: Box::new(move |out| {
                (&out.file)
                    .write_all(&dtype.encode(values.as_slice()))
                    .map_err(Error::io("write", &out.path))
            }),
        })
        .collect()
}

/// The dotted path of the parameter being visited.
#[derive(Default, Debug)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

struct Reader {
    path: Path,
    out: Result<Vec<Named>>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Ok(out) = &mut self.out {
            match to_host(param.val()) {
                Ok(values) => out.push(Named {
                    name: self.path.name(),
                    values,
                }),
                Err(error) => self.out = Err(error),
            }
        }
    }
}

/// Values of a tensor on the host.
///
/// # Errors
/// What made them failed on the device.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor> {
    let shape: [usize; D] = tensor.dims();
    let values = read(tensor)?
        .convert::<f32>()
        .try_into_vec::<f32>()
        .expect("converted to f32");
    Ok(HostTensor::new(&shape, values))
}

/// A tensor from values on the host.
pub fn from_host<const D: usize>(values: HostTensor, device: &Device) -> Tensor<D> {
    let shape = values.shape().to_vec();
    let (values, _) = values.values.into_raw_vec_and_offset();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Replaces every parameter of `module` by what `values` gives for its name. Identities stay.
fn fill<M: Module>(module: M, values: impl FnMut(&str) -> Result<HostTensor>) -> Result<M> {
    let mut filler = Filler {
        path: Path::default(),
        values,
        failed: None,
    };
    let module = module.map(&mut filler);
    filler.failed.map_or(Ok(module), Err)
}

struct Filler<F> {
    path: Path,
    values: F,
    failed: Option<Error>,
}

impl<F: FnMut(&str) -> Result<HostTensor>> ModuleMapper for Filler<F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        let name = self.path.name();
        match (self.values)(&name) {
            Ok(values) => param.map(|old| {
                let device = old.device();
                from_host::<D>(values, &device).set_require_grad(old.is_require_grad())
            }),
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}
