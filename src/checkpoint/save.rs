//! Writing a checkpoint folder that `transformers` opens unchanged.

use std::collections::HashMap;

use serde_json::json;

use super::config::Gpt2Config;
use super::safetensors::{self, TensorOut};
use super::tensor::OpenFile;
use crate::durable::StagedDir;
use crate::error::Result;

/// Largest shard unless `--max-shard-size` says otherwise: that of `transformers` 5.
pub const DEFAULT_SHARD_BYTES: u64 = 50_000_000_000;

/// Writes config and weights into a staged folder. `written` is called with byte counts.
pub fn save(
    staged: &StagedDir,
    config: &Gpt2Config,
    tensors: Vec<TensorOut<'_>>,
    max_shard_bytes: u64,
    written: &dyn Fn(u64),
) -> Result<()> {
    staged.write("config.json", config.to_json().as_bytes())?;
    let shards = split(tensors, max_shard_bytes);
    let metadata = || HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let count = shards.len();
    let file_name = |i| shard_name(i, count);
    for (i, shard) in shards.iter().enumerate() {
        let name = file_name(i);
        let out = OpenFile {
            path: staged.path().join(&name),
            file: staged.create(&name)?,
        };
        safetensors::write(&out, shard, metadata(), written)?;
    }
    if count > 1 {
        staged.write(
            "model.safetensors.index.json",
            index(&shards, file_name).as_bytes(),
        )?;
    }
    Ok(())
}

/// How many tensors go into each shard of at most `max` bytes, in order; a larger tensor has a
/// shard of its own.
fn shard_lengths(sizes: impl IntoIterator<Item = u64>, max: u64) -> Vec<usize> {
    let (mut lengths, mut filled) = (vec![0], 0);
    for size in sizes {
        if filled > 0 && filled + size > max {
            lengths.push(0);
            filled = 0;
        }
        filled += size;
        *lengths.last_mut().expect("never empty") += 1;
    }
    lengths
}

/// Splits into shards, each ordered by descending element size.
fn split(mut tensors: Vec<TensorOut<'_>>, max: u64) -> Vec<Vec<TensorOut<'_>>> {
    let lengths = shard_lengths(tensors.iter().map(TensorOut::byte_len), max);
    let take = |length| {
        let mut shard: Vec<_> = tensors.drain(..length).collect();
        shard.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.size()));
        shard
    };
    lengths.into_iter().map(take).collect()
}

fn shard_name(i: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    }
}

fn index(shards: &[Vec<TensorOut<'_>>], file_name: impl Fn(usize) -> String) -> String {
    let total: u64 = shards.iter().flatten().map(TensorOut::byte_len).sum();
    let map: serde_json::Map<_, _> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, shard)| shard.iter().map(move |tensor| (tensor.name.clone(), i)))
        .map(|(name, i)| (name, file_name(i).into()))
        .collect();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    serde_json::to_string_pretty(&index).expect("an index serializes") + "\n"
}

/// Reads sizes such as `500MB`, `2GiB` or plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => {
            return Err(format!(
                "`{unit}` is not a unit of size; write 500MB or 2GiB"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number, as in 500MB".to_owned())?;
    number
        .checked_mul(scale)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "expected a size from 1 byte to 16 EiB".to_owned())
}

/// The weight files of a checkpoint with tensors of these sizes, and the bytes of each.
pub fn planned_files(sizes: &[u64], max_shard_bytes: u64) -> Vec<(String, u64)> {
    let lengths = shard_lengths(sizes.iter().copied(), max_shard_bytes);
    let count = lengths.len();
    let mut rest = sizes;
    let file = |(i, length): (usize, usize)| {
        let (shard, later) = rest.split_at(length);
        rest = later;
        (shard_name(i, count), shard.iter().sum())
    };
    lengths.into_iter().enumerate().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_unit_systems() {
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("17"), Ok(17));
        assert!(
            parse_size("0").is_err()
                && parse_size("5 parsecs").is_err()
                && parse_size("99999999999GB").is_err()
        );
    }

    #[test]
    fn shards_fill_up_in_order() {
        let sizes: Vec<u64> = planned_files(&[4, 4, 4, 10, 1], 8)
            .into_iter()
            .map(|f| f.1)
            .collect();
        assert_eq!(sizes, [8, 4, 10, 1]);
    }
}
