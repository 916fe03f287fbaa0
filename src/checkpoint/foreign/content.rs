//! What a file is, by its first bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::{FLAX, GGUF, TENSORFLOW};
use crate::error::{Error, Result};
use crate::settings::Kind;

/// The formats of weight files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Format {
    Safetensors,
    Torch,
}

/// Bytes that are looked at to tell what a file is.
const LOOK: u64 = 512;
/// Bytes at the end of a zip archive, where its list of files is.
const TAIL: u64 = 1 << 20;
/// No settings file is larger.
const LARGEST_TEXT: u64 = 1 << 20;

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
const OTHERS: [Start; 9] = [
    Start {
        is: |bytes| bytes.starts_with(b"\x1f\x8b"),
        what: "packed with gzip",
        hint: "unpack it: gunzip, or tar -xzf where it is a .tar.gz",
    },
    Start {
        is: is_packed,
        what: "packed, with bzip2, xz, zstd, 7z or rar",
        hint: "unpack it, and open what is in it",
    },
    Start {
        is: is_tar,
        what: "a tar archive",
        hint: "unpack it with tar -xf, and open what is in it",
    },
    Start {
        is: |bytes| bytes.starts_with(b"\x93NUMPY"),
        what: "an array of NumPy",
        hint: NUMPY,
    },
    Start {
        is: is_flax,
        what: "weights of Flax",
        hint: FLAX,
    },
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

const NUMPY: &str = "save the arrays as model.safetensors with safetensors.numpy.save_file, under the names that transformers gives the tensors";

const TORCHSCRIPT: (&str, &str) = (
    "a program of TorchScript, not weights alone",
    "take the weights out in Python: torch.save(torch.jit.load(FILE).state_dict(), \"pytorch_model.bin\")",
);

fn is_packed(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 5] = [
        b"BZh",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"7z\xbc\xaf\x27\x1c",
        b"Rar!\x1a\x07",
    ];
    magics.iter().any(|magic| bytes.starts_with(magic))
}

/// A tar archive other than the first form of PyTorch's files, which is read.
fn is_tar(bytes: &[u8]) -> bool {
    let of_torch = ["sys_info", "pickle", "storages", "tensors"];
    let is_torch = of_torch.iter().any(|name| {
        let rest = bytes.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), Some(0 | b'/')))
    });
    bytes.get(257..262) == Some(b"ustar") && !is_torch
}

/// A msgpack map whose first key is a name, as Flax saves parameters.
fn is_flax(bytes: &[u8]) -> bool {
    let [0x81..=0x8f, length @ 0xa1..=0xbf, rest @ ..] = bytes else {
        return false;
    };
    let key = rest.get(..usize::from(length - 0xa0));
    key.is_some_and(|key| key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'))
}

/// What a whole zip archive is that `torch.save` did not write: what it is, and the step that
/// helps.
///
/// # Errors
/// The file cannot be read.
fn other_zip(path: &Path, start: &[u8]) -> Result<Option<(&'static str, &'static str)>> {
    if !start.starts_with(b"PK\x03\x04") {
        return Ok(None);
    }
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut list = start.to_vec();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))
        .and_then(|_| file.read_to_end(&mut list))
        .map_err(Error::io("read", path))?;
    let has = |name: &str| memchr::memmem::find(&list, name.as_bytes()).is_some();
    // Of one that is cut off, the reader says so.
    let is_whole = has("PK\x05\x06");
    if !is_whole {
        return Ok(None);
    }
    if has("/constants.pkl") {
        return Ok(Some(TORCHSCRIPT));
    }
    Ok(match (has("data.pkl"), has(".npy")) {
        (true, _) => None,
        (false, true) => Some(("an archive of NumPy (npz)", NUMPY)),
        (false, false) => Some((
            "a zip archive, not a file of torch.save",
            "unpack it, and open what is in it",
        )),
    })
}

/// What a text is that stands where weights should, and the step that helps.
fn text_in_place(path: &Path) -> (String, String) {
    let mut text = String::new();
    let read = File::open(path).map(|file| file.take(LARGEST_TEXT).read_to_string(&mut text));
    match read.ok().and_then(|_| Kind::of(&text)) {
        Some(kind) => (
            format!("{}, not weights", kind.name()),
            format!("run `{}`", kind.command(path)),
        ),
        None => (
            "a text file, not weights".to_owned(),
            "look into it: a failed download may have left a message there".to_owned(),
        ),
    }
}

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
    if let Some((what, hint)) = other_zip(path, &start)? {
        return refuse(what, hint);
    }
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
            None if ending == "msgpack" => refuse("weights of Flax", FLAX),
            None if is_text(&start) => {
                let (what, hint) = text_in_place(path);
                refuse(&what, &hint)
            }
            None => Ok(Format::Safetensors),
        },
    }
}

/// Whether a file that begins so is a text; a header's length has zeros in it. The last character
/// may be cut.
fn is_text(bytes: &[u8]) -> bool {
    let start = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let readable = |c: char| !c.is_control() || c.is_ascii_whitespace();
    !start.is_empty() && start.chars().take(32).all(readable)
}

/// What to do where a text file was expected and these bytes are.
pub(in crate::checkpoint) fn in_place_of_text(bytes: &[u8]) -> Option<String> {
    let known = PLACEHOLDERS.iter().find(|known| (known.is)(bytes))?;
    Some(format!("this is {}: {}", known.what, known.hint))
}
