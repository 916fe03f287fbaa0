//! What a file is, by its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{GGUF, TENSORFLOW};
use crate::error::{Error, Result};

/// The formats of weight files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Format {
    Safetensors,
    Torch,
}

/// Bytes that are looked at to tell what a file is.
const LOOK: u64 = 512;

/// What begins a file that is neither safetensors nor PyTorch's.
struct Start {
    is: fn(&[u8]) -> bool,
    what: &'static str,
    hint: &'static str,
}

/// What a download leaves in place of any file.
const PLACEHOLDERS: [Start; 2] = [
    Start {
        is: |bytes| bytes.starts_with(b"version https://git-lfs"),
        what: "a Git LFS pointer, not the file itself",
        hint: "run `git lfs pull` in the folder, or open the model by its hub id",
    },
    Start {
        is: |bytes| bytes.trim_ascii_start().starts_with(b"<"),
        what: "a web page, not the file itself",
        hint: "open the model by its hub id, or download the file from the address with /resolve/ in place of /blob/",
    },
];

/// Other files that are taken for weights.
const OTHERS: [Start; 4] = [
    Start {
        is: |bytes| bytes.starts_with(b"GGUF"),
        what: "a GGUF file",
        hint: GGUF,
    },
    Start {
        is: |bytes| bytes.starts_with(b"\x89HDF\r\n\x1a\n"),
        what: "an HDF5 file, as TensorFlow saves weights",
        hint: TENSORFLOW,
    },
    Start {
        // llm.c's magic number.
        is: |bytes| bytes.starts_with(&20_240_326_u32.to_le_bytes()),
        what: "a checkpoint of llm.c",
        hint: "convert it with llm.c: python dev/eval/export_hf.py --input FILE --output DIR --dtype float32",
    },
    Start {
        is: |bytes| bytes.trim_ascii_start().starts_with(b"{"),
        what: "JSON, not weights",
        hint: "name the folder of the model, or its weight file",
    },
];

fn start_of(path: &Path) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(LOOK)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    Ok(start)
}

/// The format of a weight file: by the ending of its name, or by its content where that says
/// nothing.
///
/// # Errors
/// The file cannot be read, or begins like something else.
pub(in crate::checkpoint) fn format_of(path: &Path) -> Result<Format> {
    let start = start_of(path)?;
    let refuse = |what: &str, hint: &str| {
        let message = format!("this is {what}");
        Err(Error::invalid(path.display(), message).with_hint(hint))
    };
    let is_torch = matches!(start[..], [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..]);
    // A header's length, then the header; the length may look like another format's first bytes.
    let is_safetensors = start.get(8) == Some(&b'{') && start.get(4..8) == Some(&[0; 4]);
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    match ending {
        _ if is_safetensors && matches!(ending, "bin" | "pt" | "pth") => refuse(
            "a safetensors file under a name of PyTorch's",
            "rename it to model.safetensors",
        ),
        _ if is_safetensors => Ok(Format::Safetensors),
        "safetensors" if is_torch => refuse(
            "a PyTorch file under a name of safetensors",
            "rename it to pytorch_model.bin",
        ),
        _ if is_torch => Ok(Format::Torch),
        _ => match PLACEHOLDERS
            .iter()
            .chain(&OTHERS)
            .find(|known| (known.is)(&start))
        {
            Some(known) => refuse(known.what, known.hint),
            None if matches!(ending, "bin" | "pt" | "pth" | "ckpt") => Ok(Format::Torch),
            None if is_text(&start) => refuse(
                "a text file, not weights",
                "look into it: a failed download may have left a message there",
            ),
            None => Ok(Format::Safetensors),
        },
    }
}

/// Whether bytes are those of a text; a header's length has zeros in it.
fn is_text(bytes: &[u8]) -> bool {
    let readable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    !bytes.is_empty() && bytes.iter().take(32).all(readable)
}

/// What to do where a text file was expected and these bytes are.
pub(in crate::checkpoint) fn in_place_of_text(bytes: &[u8]) -> Option<String> {
    let known = PLACEHOLDERS.iter().find(|known| (known.is)(bytes))?;
    Some(format!("this is {}: {}", known.what, known.hint))
}
