//! Whether a file without a header can be token ids of 16 bits at all. Nothing in such a file says
//! what it is, and nearly any bytes would pass for ids of a large vocabulary.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::shard::LLMC_HEADER;
use crate::error::{Error, Result};

/// Bytes that are looked at, from the beginning.
const LOOKED_AT: u64 = 1 << 20;
/// Ids from which on their bytes say something with certainty.
const ENOUGH: usize = 64;
/// So many more are needed where a rule is about the spread of bytes.
const MANY: usize = 1024;

const WIDTH_HINT: &str = "nanoGPT's format has ids of 16 bits: convert with numpy, \
     np.fromfile(FILE, dtype=np.DTYPE).astype(np.uint16).tofile(OTHER)";

/// Refuses bytes that are ids of another width, text, or nothing but zeros.
///
/// # Errors
/// They are, or the file cannot be read.
pub(super) fn check(file: &File, path: &Path, size: u64) -> Result<()> {
    let bytes = begin(file, path, 0, size)?;
    let Some((what, hint)) = wrong(&bytes) else {
        return Ok(());
    };
    Err(Error::invalid(path.display(), what).with_hint(hint))
}

/// Refuses ids of another width after llm.c's header.
///
/// # Errors
/// They are, or the file cannot be read.
pub(super) fn check_width(file: &File, path: &Path, size: u64) -> Result<()> {
    let bytes = begin(file, path, LLMC_HEADER as u64, size)?;
    let Some((what, dtype)) = width(&bytes) else {
        return Ok(());
    };
    let hint = format!(
        "its header says ids of 16 bits: write the ids as such, without a header with numpy, \
         np.fromfile(FILE, dtype=np.{dtype}, offset={LLMC_HEADER}).astype(np.uint16).tofile(OTHER)"
    );
    Err(Error::invalid(path.display(), what).with_hint(hint))
}

/// The first bytes from `offset` on.
fn begin(file: &File, path: &Path, offset: u64, size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size.saturating_sub(offset).min(LOOKED_AT) as usize];
    file.read_exact_at(&mut bytes, offset)
        .map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// What the bytes are, if they cannot be ids of 16 bits; and what to do.
fn wrong(bytes: &[u8]) -> Option<(&'static str, String)> {
    let ids = bytes.as_chunks::<2>().0;
    if ids.len() < ENOUGH {
        return None;
    }
    if is_text(bytes) {
        let hint =
            "give the file the ending .txt, or make shards of it with `scale-ckpt data prepare`";
        return Some(("text, not token ids", hint.to_owned()));
    }
    if bytes.iter().all(|&byte| byte == 0) && ids.len() >= MANY {
        let hint = "the file was never filled, or not to its end: make it again";
        return Some(("nothing but zeros, no token ids", hint.to_owned()));
    }
    let (what, dtype) = width(bytes)?;
    Some((what, WIDTH_HINT.replace("DTYPE", dtype)))
}

/// What the width of the ids is, if it is another than 16 bits, and numpy's name of it.
fn width(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let ids = bytes.as_chunks::<2>().0;
    if ids.len() < ENOUGH {
        return None;
    }
    let zero =
        |place: usize, step: usize| ids.iter().skip(place).step_by(step).all(|id| *id == [0, 0]);
    let some = bytes.iter().any(|&byte| byte != 0);
    if some && zero(1, 4) && zero(2, 4) && zero(3, 4) {
        let what = "ids of 64 bits: read as ids of 16 bits, three of four are 0";
        return Some((what, "int64"));
    }
    if some && zero(1, 2) {
        let what = "ids of 32 bits: read as ids of 16 bits, every second one is 0";
        return Some((what, "uint32"));
    }
    if is_bytes(ids) {
        let what = "ids of 8 bits: read as ids of 16 bits, two would be taken for one";
        return Some((what, "uint8"));
    }
    None
}

/// Whether this is printable text: ids of 16 bits have bytes below 32 everywhere.
fn is_text(bytes: &[u8]) -> bool {
    let printable = |&byte: &u8| byte >= b' ' || byte.is_ascii_whitespace();
    let utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // A character may be cut at the end of what was read.
        Err(e) => e.error_len().is_none(),
    };
    utf8 && bytes.iter().all(printable)
}

/// Whether these are ids of 8 bits below 128, as of characters, of which two make one of 16: both
/// halves never reach 128, where the low half of ids from 1024 on would be anything.
fn is_bytes(ids: &[[u8; 2]]) -> bool {
    let mut high = [false; 256];
    ids.iter().for_each(|id| high[usize::from(id[1])] = true);
    let spread = high.iter().filter(|&&seen| seen).count();
    ids.len() >= MANY && spread >= 8 && ids.as_flattened().iter().all(|&byte| byte < 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids as text has them: small ones often, large ones now and then.
    fn drawn(count: usize, vocab: u32) -> Vec<u32> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        (0..count).map(|_| next() % (next() % vocab + 1)).collect()
    }

    fn stored<const N: usize>(ids: &[u32], of: impl Fn(u32) -> [u8; N]) -> Vec<u8> {
        ids.iter().flat_map(|&id| of(id)).collect()
    }

    #[test]
    fn ids_of_another_width_are_known_by_their_zeros() {
        for vocab in [65, 256, 300, 5000, 50_257] {
            let ids = drawn(5000, vocab);
            let short = stored(&ids, |id| (id as u16).to_le_bytes());
            assert_eq!(wrong(&short), None, "{vocab}");
            let what = |bytes: &[u8]| wrong(bytes).map_or("", |(what, _)| what);
            assert!(
                what(&stored(&ids, u32::to_le_bytes)).contains("32 bits"),
                "{vocab}"
            );
            let wide = stored(&ids, |id| u64::from(id).to_le_bytes());
            assert!(what(&wide).contains("64 bits"), "{vocab}");
        }
        let bytes = stored(&drawn(5000, 65), |id| [id as u8]);
        assert!(wrong(&bytes).unwrap().0.contains("8 bits"));
    }

    #[test]
    fn text_and_zeros_are_no_ids() {
        let text = "It is a truth universally acknowledged, größer und länger,\nthat. ".repeat(20);
        assert!(wrong(text.as_bytes()).unwrap().0.contains("text"));
        assert!(wrong(&text.as_bytes()[..1001]).unwrap().0.contains("text"));
        assert!(wrong(&[0; 4096]).unwrap().0.contains("zeros"));
        // Too little to tell.
        assert_eq!(wrong(b"some words"), None);
        assert_eq!(wrong(&[0; 64]), None);
    }
}
