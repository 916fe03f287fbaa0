//! What is in a checkpoint, and how two of them differ.

use serde::Serialize;

use crate::checkpoint::{Checkpoint, Dtype, TensorRef, layout};
use crate::error::Result;
use crate::interrupt;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// Name without prefix.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    /// Euclidean norm of the finite values.
    pub norm: f64,
    /// Root mean square of the finite values.
    pub rms: f64,
    /// Largest absolute finite value.
    pub max_abs: f64,
    /// Values that are NaN or infinite.
    pub non_finite: usize,
}

impl TensorReport {
    fn new(name: &str, tensor: &TensorRef) -> Result<Self> {
        let values = tensor.read()?;
        let finite = values.as_slice().iter().filter(|v| v.is_finite());
        let (mut squares, mut max_abs, mut count) = (0.0, 0.0_f64, 0_usize);
        for &value in finite {
            squares += f64::from(value).powi(2);
            max_abs = max_abs.max(f64::from(value.abs()));
            count += 1;
        }
        let rms = (squares / count.max(1) as f64).sqrt();
        Ok(Self {
            name: name.to_owned(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            norm: squares.sqrt(),
            rms,
            max_abs,
            non_finite: values.as_slice().len() - count,
        })
    }
}

/// Every tensor of a checkpoint, in file order.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Vec<TensorReport>> {
    layout::params(&checkpoint.config)
        .iter()
        .map(|param| {
            interrupt::check("inspection ended")?;
            TensorReport::new(&param.name, checkpoint.tensor(&param.name)?)
        })
        .collect()
}

/// How one tensor differs between two checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Difference {
    /// Equal bytes and type.
    Same,
    /// Equal values in another element type.
    SameValues {
        /// Types in A and B.
        dtypes: [Dtype; 2],
    },
    /// Other values.
    Changed {
        /// Largest |a − b|.
        max_abs: f64,
        /// ‖a − b‖ / ‖a‖.
        relative: f64,
    },
    /// Other shapes.
    Reshaped {
        /// Shapes in A and B.
        shapes: [Vec<usize>; 2],
    },
    /// Only in A.
    OnlyInA,
    /// Only in B.
    OnlyInB,
}

/// One line of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiffLine {
    /// Name without prefix.
    pub name: String,
    /// How it differs.
    #[serde(flatten)]
    pub difference: Difference,
}

/// Compares every tensor of two checkpoints, by name.
pub fn diff(a: &Checkpoint, b: &Checkpoint) -> Result<Vec<DiffLine>> {
    let (in_a, in_b) = (layout::params(&a.config), layout::params(&b.config));
    let only_in_b = in_b
        .iter()
        .filter(|p| a.tensor(&p.name).is_err())
        .map(|p| DiffLine {
            name: p.name.clone(),
            difference: Difference::OnlyInB,
        });
    let mut lines = in_a
        .iter()
        .map(|param| {
            interrupt::check("comparison ended")?;
            let difference = match b.tensor(&param.name) {
                Ok(other) => difference(a.tensor(&param.name)?, other)?,
                Err(_) => Difference::OnlyInA,
            };
            Ok(DiffLine {
                name: param.name.clone(),
                difference,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    lines.extend(only_in_b);
    Ok(lines)
}

fn difference(a: &TensorRef, b: &TensorRef) -> Result<Difference> {
    if a.shape != b.shape {
        return Ok(Difference::Reshaped {
            shapes: [a.shape.clone(), b.shape.clone()],
        });
    }
    if a.dtype == b.dtype && a.read_bytes()? == b.read_bytes()? {
        return Ok(Difference::Same);
    }
    let (va, vb) = (a.read()?, b.read()?);
    let (mut max_abs, mut squares, mut norm) = (0.0_f64, 0.0, 0.0);
    for (&x, &y) in va.as_slice().iter().zip(vb.as_slice()) {
        // Equal infinities and equal NaNs do not differ; a NaN against a number does, for good.
        let same = x == y || x.to_bits() == y.to_bits();
        let distance = if same {
            0.0
        } else {
            (f64::from(x) - f64::from(y)).abs()
        };
        max_abs = if max_abs.is_nan() || distance <= max_abs {
            max_abs
        } else {
            distance
        };
        squares += distance.powi(2);
        norm += f64::from(x).powi(2);
    }
    if max_abs == 0.0 {
        return Ok(Difference::SameValues {
            dtypes: [a.dtype, b.dtype],
        });
    }
    Ok(Difference::Changed {
        max_abs,
        relative: (squares / norm).sqrt(),
    })
}
