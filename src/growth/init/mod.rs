//! Initializers: how the values of a new block come about.
//!
//! One file each. A new one is a struct with its parameters, an `impl LayerInit`, a variant of
//! [`Initializer`] and a row in [`CATALOGUE`]; the matches below show what is missing.

mod blend;
mod copy;
mod identity;
mod interpolate;
mod noisy;
mod random;
mod scaled;
mod zero_residual;

use std::collections::BTreeMap;
use std::fmt;

use rand_chacha::ChaCha8Rng;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use blend::Blend;
pub use copy::Copy;
pub use identity::Identity;
pub use interpolate::Interpolate;
pub use noisy::Noisy;
pub use random::Random;
pub use scaled::Scaled;
pub use zero_residual::ZeroResidual;

use super::plan::Place;
use crate::checkpoint::layout::BlockParam;
use crate::checkpoint::{Checkpoint, Gpt2Config, HostTensor, TensorRef};
use crate::error::{Error, Result, did_you_mean, printable};
use crate::settings;

/// What an initializer promises about the model's function right after growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// Nothing is promised.
    None,
    /// The function stays near: the loss moves by less than
    /// [`APPROXIMATE_LOSS`](crate::certify::APPROXIMATE_LOSS).
    Approximate,
    /// Logits are unchanged up to float noise.
    Exact,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Approximate => "approximate",
            Self::Exact => "exact",
        })
    }
}

/// A source block that a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// The source block.
    pub layer: usize,
    /// Its share, before what an initializer does to the sum: scaling, zeros, noise. Never 0.
    pub weight: f32,
}

/// What a new block is made from. Initializers get at the source through it alone, and it gives
/// out no block but those they named beforehand, so that what is recorded is what was read.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    source: &'a Checkpoint,
    /// Architecture of the grown model.
    pub target: &'a Gpt2Config,
    /// What the block is made of, as [`LayerInit::sources`] has said.
    pub sources: &'a [Term],
}

impl<'a> Site<'a> {
    /// The site of a block that is made of `sources`.
    pub fn new(source: &'a Checkpoint, target: &'a Gpt2Config, sources: &'a [Term]) -> Self {
        Self {
            source,
            target,
            sources,
        }
    }

    /// The stored `param` of the one block that the new one is made of.
    ///
    /// # Errors
    /// The source lacks it.
    ///
    /// # Panics
    /// The new block is not made of one block.
    pub fn parent(&self, param: &BlockParam) -> Result<&'a TensorRef> {
        let [parent] = self.sources else {
            panic!("an initializer reads a parent that it has not named");
        };
        self.source.block(parent.layer, param)
    }

    /// Values of `param` in every block that the new one is made of, with their weights.
    ///
    /// # Errors
    /// A source tensor cannot be read.
    pub fn values(&self, param: &BlockParam) -> Result<Vec<(f32, HostTensor)>> {
        let read = |term: &Term| Ok((term.weight, self.source.block(term.layer, param)?.read()?));
        self.sources.iter().map(read).collect()
    }
}

/// Values of a new parameter.
#[derive(Clone, Debug)]
pub enum Values {
    /// The bytes of a source tensor, unchanged.
    Stored(TensorRef),
    /// Fresh values, rounded to the parent's element type when written.
    Computed(HostTensor),
}

impl Values {
    /// The values in f32.
    pub fn into_host(self) -> Result<HostTensor> {
        match self {
            Self::Stored(tensor) => tensor.read(),
            Self::Computed(tensor) => Ok(tensor),
        }
    }
}

/// The seam for new initializers.
pub trait LayerInit {
    /// What is promised of the grown model's function.
    fn claim(&self) -> Claim {
        Claim::None
    }

    /// The source blocks that a new block at `place` is made of; none where all is drawn.
    ///
    /// # Errors
    /// It cannot be made there.
    fn sources(&self, place: &Place) -> Result<Vec<Term>> {
        Ok(vec![Term {
            layer: place.parent,
            weight: 1.0,
        }])
    }

    /// Values of one parameter of the new block at `site`. `rng` is of this block and
    /// parameter alone, so results do not depend on the order of calls.
    fn init(&self, site: &Site<'_>, param: &BlockParam, rng: &mut ChaCha8Rng) -> Result<Values>;
}

/// One line per initializer: name, summary. A parent is the block that the layer map names.
pub const CATALOGUE: [(&str, &str); 8] = [
    ("copy", "the parent's values, bit for bit"),
    (
        "zero-residual",
        "copy with both c_proj weights and biases zero: the identity at first (LLaMA-Pro)",
    ),
    (
        "identity",
        "random with both c_proj weights and biases zero: the identity at first, no source block",
    ),
    (
        "interpolate",
        "(1-coefficient) * kept block below + coefficient * kept block above, spread evenly unless given; needs both",
    ),
    (
        "random",
        "GPT-2's own initialization, no source block; std = initializer_range, residual_depth = the new depth",
    ),
    (
        "scaled",
        "another initializer `of` (copy) with the tensors named by `only` (c_proj) multiplied by `scale` = 0.5",
    ),
    (
        "noisy",
        "copy plus normal noise of `noise` = 0.01 times each tensor's own standard deviation",
    ),
    (
        "blend",
        "a linear combination of source blocks: weights = {\"0\" = 0.5, \"3\" = 0.5} (LiGO's depth part)",
    ),
];

/// An initializer by name, with its parameters.
///
/// `remote = "Self"` makes serde derive plain functions instead of the traits, so that the
/// impl below can accept a bare name as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", remote = "Self")]
pub enum Initializer {
    /// See [`struct@Copy`].
    Copy(Copy),
    /// See [`ZeroResidual`].
    ZeroResidual(ZeroResidual),
    /// See [`Identity`].
    Identity(Identity),
    /// See [`Interpolate`].
    Interpolate(Interpolate),
    /// See [`Random`].
    Random(Random),
    /// See [`Scaled`].
    Scaled(Scaled),
    /// See [`Noisy`].
    Noisy(Noisy),
    /// See [`Blend`].
    Blend(Blend),
}

impl Initializer {
    /// Plain copy.
    pub const COPY: Self = Self::Copy(Copy {});
    /// Copy with zero output projections.
    pub const ZERO_RESIDUAL: Self = Self::ZeroResidual(ZeroResidual {});

    /// The trait object behind the name.
    pub fn as_init(&self) -> &dyn LayerInit {
        match self {
            Self::Copy(init) => init,
            Self::ZeroResidual(init) => init,
            Self::Identity(init) => init,
            Self::Interpolate(init) => init,
            Self::Random(init) => init,
            Self::Scaled(init) => init,
            Self::Noisy(init) => init,
            Self::Blend(init) => init,
        }
    }

    /// The name on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Copy(_) => "copy",
            Self::ZeroResidual(_) => "zero-residual",
            Self::Identity(_) => "identity",
            Self::Interpolate(_) => "interpolate",
            Self::Random(_) => "random",
            Self::Scaled(_) => "scaled",
            Self::Noisy(_) => "noisy",
            Self::Blend(_) => "blend",
        }
    }

    /// Parses `name` or `name:key=value,key=value`, values as in TOML.
    ///
    /// # Errors
    /// There is no such initializer, or it has no such parameter, or of another type.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wrapper {
            init: Initializer,
        }
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let Some((name, _)) = CATALOGUE.iter().find(|row| row.0 == name) else {
            return Err(unknown(name));
        };
        let bad = |why: String, hint: Option<&str>| {
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            Error::usage(format!("--init {}: {why}", printable(text)))
                .with_hint(format!("write --init {}{hint}", example(name)))
        };
        let parameters = settings::inline_table(parameters).map_err(|why| bad(why, None))?;
        let init = toml::Table::from_iter([((*name).to_owned(), parameters.into())]);
        let table = toml::Table::from_iter([("init".to_owned(), init.into())]);
        settings::of_tables::<Wrapper>(&table)
            .map(|wrapper| wrapper.init)
            .map_err(|mistake| {
                let mistake = mistake.below(&format!("init.{name}"));
                bad(mistake.to_string(), mistake.hint())
            })
    }

    /// Checks the parameters, for a source of `n_layer` blocks.
    ///
    /// # Errors
    /// A number is not finite, a spread negative, a coefficient not from 0 to 1, or a term of a
    /// blend names no block.
    pub fn check(&self, n_layer: usize) -> Result<()> {
        let is_spread = |std: f64| std.is_finite() && std >= 0.0;
        let ok = match self {
            Self::Copy(_) | Self::ZeroResidual(_) => true,
            Self::Identity(Identity { std }) => std.is_none_or(is_spread),
            Self::Random(random) => {
                random.std.is_none_or(is_spread) && random.residual_depth != Some(0)
            }
            Self::Interpolate(interpolate) => interpolate.check().map(|()| true)?,
            Self::Scaled(scaled) => {
                scaled.of.check(n_layer)?;
                scaled.names()?.scale.is_finite()
            }
            Self::Noisy(Noisy { noise }) => noise.is_finite() && *noise >= 0.0,
            Self::Blend(blend) => blend
                .terms(n_layer)?
                .iter()
                .all(|term| term.weight.is_finite()),
        };
        if ok {
            Ok(())
        } else {
            Err(Error::usage(format!(
                "initializer `{self}`: its numbers must be finite, and spreads not negative"
            )))
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "copy" => Self::COPY,
            "zero-residual" => Self::ZERO_RESIDUAL,
            "identity" => Self::Identity(Identity::default()),
            "interpolate" => Self::Interpolate(Interpolate::default()),
            "random" => Self::Random(Random::default()),
            "scaled" => Self::Scaled(Scaled::default()),
            "noisy" => Self::Noisy(Noisy::default()),
            "blend" => Self::Blend(Blend {
                weights: BTreeMap::new(),
            }),
            _ => return None,
        })
    }
}

impl fmt::Display for Initializer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Copy(_) | Self::ZeroResidual(_) => Ok(()),
            Self::Identity(Identity { std }) => std.map_or(Ok(()), |std| write!(f, " std={std}")),
            Self::Random(Random {
                std,
                residual_depth,
            }) => {
                std.map_or(Ok(()), |std| write!(f, " std={std}"))?;
                residual_depth.map_or(Ok(()), |depth| write!(f, " residual_depth={depth}"))
            }
            Self::Interpolate(Interpolate { coefficient }) => {
                coefficient.map_or(Ok(()), |coefficient| write!(f, " {coefficient}"))
            }
            Self::Scaled(Scaled { scale, only, of }) => {
                write!(f, " {}*{scale} of {of}", only.join(","))
            }
            Self::Noisy(Noisy { noise }) => write!(f, " {noise}"),
            Self::Blend(Blend { weights }) => {
                let terms: Vec<String> = weights
                    .iter()
                    .map(|(layer, weight)| format!("{weight}*{layer}"))
                    .collect();
                write!(f, " {}", terms.join("+"))
            }
        }
    }
}

/// How it is written on the command line.
fn example(name: &str) -> &str {
    match name {
        "identity" => "identity:std=0.02",
        "interpolate" => "interpolate:coefficient=0.3",
        "random" => "random:std=0.02",
        "scaled" => "'scaled:scale=0.5,only=[\"c_proj\"]'",
        "noisy" => "noisy:noise=0.02",
        "blend" => "'blend:weights={\"0\"=0.5, \"3\"=0.5}'",
        plain => plain,
    }
}

fn unknown(name: &str) -> Error {
    let names = CATALOGUE.map(|row| row.0);
    let hint = did_you_mean(name, names).map_or_else(
        || "`scale-ckpt methods` lists what there is".to_owned(),
        |best| format!("did you mean `{best}`?"),
    );
    Error::usage(format!(
        "there is no initializer `{}`; known are {}",
        printable(name),
        names.join(", ")
    ))
    .with_hint(hint)
}

impl Serialize for Initializer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// Accepts `init = "copy"` and `[init.noisy] noise = 0.02`, keeping the position of errors.
impl<'de> Deserialize<'de> for Initializer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Initializer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an initializer, or a table of one")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Initializer, E> {
                Initializer::from_name(name).ok_or_else(|| {
                    let error = unknown(name);
                    E::custom(format!(
                        "{error}{}",
                        error.hint().map(|h| format!("; {h}")).unwrap_or_default()
                    ))
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Initializer, A::Error> {
                let init = Initializer::deserialize(MapAccessDeserializer::new(&mut map))?;
                match map.next_key::<String>()? {
                    None => Ok(init),
                    Some(second) => Err(de::Error::custom(format!(
                        "expected one initializer, found {} and {}",
                        init.name(),
                        printable(&second)
                    ))),
                }
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_names_every_initializer() {
        for (name, _) in CATALOGUE {
            assert_eq!(
                Initializer::from_name(name).map(|init| init.name()),
                Some(name)
            );
        }
    }

    #[test]
    fn parameters_are_read_from_the_command_line() {
        assert_eq!(
            Initializer::parse("noisy:noise=0.5").unwrap(),
            Initializer::Noisy(Noisy { noise: 0.5 })
        );
        assert_eq!(
            Initializer::parse("interpolate").unwrap(),
            Initializer::Interpolate(Interpolate::default())
        );
        let error = Initializer::parse("noisy:nose=0.5")
            .unwrap_err()
            .to_string();
        assert!(error.contains("nose"), "{error}");
        let error = Initializer::parse("zero-residul").unwrap_err();
        assert!(error.hint().unwrap().contains("zero-residual"));
        assert!(
            Initializer::parse("scaled:scale=nan")
                .unwrap()
                .check(1)
                .is_err()
        );
        assert!(
            Initializer::parse("random:std=-1")
                .unwrap()
                .check(1)
                .is_err()
        );
    }

    #[test]
    fn mistakes_on_the_command_line_are_told_in_plain_words() {
        for (text, told, hint) in [
            (
                "blend",
                "`weights` is missing",
                "write --init 'blend:weights=",
            ),
            ("noisy:nois=1", "no key `nois`", "did you mean `noise`?"),
            (
                "noisy:noise=loud",
                "noise: expected a number, found \"loud\"",
                "write --init noisy:",
            ),
            (
                "noisy:noise=\"0.5\"",
                "noise: expected a number",
                "write noise = 0.5",
            ),
            ("noisy:0.5", "`0.5` is not key=value", "write --init noisy:"),
            ("copy:noise=1", "no key `noise`", "write --init copy"),
            (
                "random:residual_depth=1.5",
                "expected a whole number from 0, found 1.5",
                "random:",
            ),
            (
                "random:residual_depth=-2",
                "expected a whole number from 0, found -2",
                "random:",
            ),
            (
                "scaled:only=c_proj",
                "only: expected a list",
                "only = [\"c_proj\"]",
            ),
            (
                "scaled:of=copi",
                "no initializer `copi`",
                "write --init 'scaled:",
            ),
            (
                "blend:weights=0.5",
                "weights: expected a table, found 0.5",
                "blend:weights=",
            ),
            (
                "blend:weights={\"0\"=\"half\"}",
                "weights.0: expected a number",
                "blend:",
            ),
        ] {
            let error = Initializer::parse(text).unwrap_err();
            let (message, next) = (error.to_string(), error.hint().unwrap());
            assert!(message.contains(told), "{text}: {message}");
            assert!(next.contains(hint), "{text}: {next}");
            assert_eq!(error.exit_code(), 2, "{text}");
        }
        let scaled = Initializer::parse("scaled:of=interpolate, scale=0").unwrap();
        assert_eq!(scaled.to_string(), "scaled c_proj*0 of interpolate");
        let depth = Initializer::parse("random:residual_depth=1e1").unwrap();
        assert_eq!(depth.to_string(), "random residual_depth=10");
    }

    #[test]
    fn a_table_has_one_initializer() {
        #[derive(Debug, Deserialize)]
        struct Wrapper {
            #[expect(dead_code)]
            init: Initializer,
        }
        for two in ["{ noisy = {}, copy = {} }", "{}"] {
            let read = settings::read::<Wrapper>(&format!("init = {two}"));
            assert!(read.unwrap_err().to_string().starts_with("init: expected"));
        }
    }
}
