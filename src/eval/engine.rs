//! Log-likelihoods of sequences, packed.
//!
//! What the sequences of a document have in common at their beginning is computed once; all
//! tokens of a pack go through the model as one matrix, without padding; and logits are made of
//! scored tokens alone. On a CPU, a score is the same bits whatever it is packed with, and whether
//! its beginning is shared or not.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::encode::{Request, Sequence};
use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::kernels::{Piece, target_nll};
use crate::model::Gpt2;

/// Tokens in a pack, unless a single document has more: enough to fill a CPU's cores, few enough
/// for its caches.
const CPU_PACK_TOKENS: usize = 2048;
/// The same on a GPU: enough to fill it.
const GPU_PACK_TOKENS: usize = 16_384;
/// With fewer rows, a matrix product takes another way, with other rounding.
const MIN_ROWS: usize = 32;

/// The score of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogLik {
    /// Σ log p of its scored tokens, in nats.
    pub sum: f64,
    /// Whether each of them is the likeliest.
    pub greedy: bool,
}

/// A model that scores.
pub struct Engine<'a> {
    /// The model.
    pub model: &'a Gpt2,
    /// Where it is.
    pub device: &'a Device,
    /// Whether common beginnings are computed once. Without, every sequence is computed alone:
    /// slower, to check against.
    pub share: bool,
}

impl Engine<'_> {
    /// How many of `requests` make the next pack: at least one.
    pub fn pack_len(&self, requests: &[&Request]) -> usize {
        let mut tokens = 0;
        let fits = requests.iter().take_while(|request| {
            tokens += self.tokens_of(request);
            tokens <= pack_tokens(self.device)
        });
        fits.count().max(1)
    }

    /// Tokens that a request adds to a pack.
    pub fn tokens_of(&self, request: &Request) -> usize {
        let shared = self.shared(request);
        let own = request.sequences.iter().map(|s| input(s).len() - shared);
        shared + own.sum::<usize>()
    }

    /// Tokens at the beginning that all sequences share.
    fn shared(&self, request: &Request) -> usize {
        let [first, others @ ..] = request.sequences.as_slice() else {
            return 0;
        };
        if !self.share {
            return 0;
        }
        let first = input(first);
        let common = |other: &Sequence| {
            let pairs = first.iter().zip(input(other));
            pairs.take_while(|(a, b)| a == b).count()
        };
        others.iter().map(common).min().unwrap_or(first.len())
    }

    /// Scores all sequences of `requests` in one pass, or half of them at a time where the
    /// device's memory does not hold it.
    ///
    /// # Errors
    /// The device fails, or has not the memory for one request.
    pub fn score(&self, requests: &[&Request]) -> Result<Vec<Vec<LogLik>>> {
        match self.score_pack(requests) {
            Err(Error::OutOfMemory { .. }) if requests.len() > 1 => {
                self.device.memory_cleanup();
                let (first, rest) = requests.split_at(requests.len() / 2);
                let mut found = self.score(first)?;
                found.extend(self.score(rest)?);
                Ok(found)
            }
            found => found,
        }
    }

    fn score_pack(&self, requests: &[&Request]) -> Result<Vec<Vec<LogLik>>> {
        let mut pack = Pack::default();
        for request in requests {
            pack.add(request, self.shared(request));
        }
        pack.fill_up();
        let (rows, picks) = pack.rows();
        let states = self.model.hidden_packed(
            ints(&pack.ids, self.device),
            ints(&pack.positions, self.device),
            &pack.pieces.into(),
            ints(&rows, self.device),
        ); // [R, D]
        let mut found = target_nll(states, self.model.head(), &picks)?.into_iter();
        let mut of_sequence = |sequence: &Sequence| {
            let scores = found.by_ref().take(sequence.scored);
            let start = LogLik {
                sum: 0.0,
                greedy: true,
            };
            scores.fold(start, |sum, (nll, greedy)| LogLik {
                sum: sum.sum - nll,
                greedy: sum.greedy && greedy,
            })
        };
        let sequences = requests.iter().map(|request| &request.sequences);
        Ok(sequences
            .map(|sequences| sequences.iter().map(&mut of_sequence).collect())
            .collect())
    }
}

/// Tokens in a pack on a device.
pub fn pack_tokens(device: &Device) -> usize {
    if is_cpu(device) {
        CPU_PACK_TOKENS
    } else {
        GPU_PACK_TOKENS
    }
}

/// What the model reads of a sequence: all but its last token.
fn input(sequence: &Sequence) -> &[u32] {
    &sequence.ids[..sequence.ids.len() - 1]
}

fn ints(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Tokens of several documents end to end.
#[derive(Default)]
struct Pack {
    ids: Vec<usize>,
    positions: Vec<usize>,
    pieces: Vec<Piece>,
    /// Scored tokens in turn: the token whose state predicts it, and which it is.
    targets: Vec<(usize, u32)>,
}

impl Pack {
    /// Adds a document whose sequences share their first `shared` tokens.
    fn add(&mut self, request: &Request, shared: usize) {
        let prefix_start = self.ids.len();
        if shared > 0 {
            self.add_piece(&input(&request.sequences[0])[..shared], 0..0);
        }
        let prefix = prefix_start..self.ids.len();
        for sequence in &request.sequences {
            let own_start = self.ids.len();
            let own = &input(sequence)[shared..];
            if !own.is_empty() {
                self.add_piece(own, prefix.clone());
            }
            let last = sequence.ids.len() - 1;
            for position in last - sequence.scored..last {
                let row = match position.checked_sub(shared) {
                    Some(beyond) => own_start + beyond,
                    None => prefix_start + position,
                };
                self.targets.push((row, sequence.ids[position + 1]));
            }
        }
    }

    fn add_piece(&mut self, ids: &[u32], prefix: std::ops::Range<usize>) {
        let start = self.ids.len();
        self.ids.extend(ids.iter().map(|&id| id as usize));
        self.positions
            .extend(prefix.len()..prefix.len() + ids.len());
        let own = start..self.ids.len();
        self.pieces.push(Piece { prefix, own });
    }

    /// Adds tokens that nobody asked for, up to the least number.
    fn fill_up(&mut self) {
        for _ in self.ids.len()..MIN_ROWS {
            self.add_piece(&[0], 0..0);
        }
    }

    /// Tokens whose states are wanted, each once, and for every target its place among them.
    fn rows(&self) -> (Vec<usize>, Vec<(usize, u32)>) {
        let mut rows: Vec<usize> = self.targets.iter().map(|&(row, _)| row).collect();
        rows.sort_unstable();
        rows.dedup();
        let place = |row| rows.binary_search(&row).expect("every row is there");
        let picks = self.targets.iter().map(|&(row, id)| (place(row), id));
        let picks = picks.collect();
        let last = self.ids.len() - 1;
        rows.resize(rows.len().max(MIN_ROWS), last);
        (rows, picks)
    }
}
