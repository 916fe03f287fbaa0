//! The header of a numpy `.npy` file: what the numbers are and where they begin.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::shard::Width;
use crate::error::{Error, Result, printable};

/// What every `.npy` file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// No header of a plain array is longer.
const MAX_HEADER: usize = 1 << 16;

/// A one-dimensional array of integers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Npy {
    /// First byte of the numbers.
    pub offset: u64,
    /// Their type.
    pub width: Width,
    /// How many there are.
    pub count: u64,
}

/// Whether a file that begins with `head` says that it is one.
pub(super) fn is_npy(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Reads the header.
///
/// # Errors
/// It is not a header, or the array is not a one-dimensional one of little-endian integers.
pub(super) fn parse(file: &File, path: &Path) -> Result<Npy> {
    let invalid = |message: String| Error::invalid(path.display(), message);
    let cut = || invalid("the header of the .npy file is cut off".into());
    let mut start = [0; 12];
    file.read_exact_at(&mut start[..10], 0).map_err(|_| cut())?;
    if !start.starts_with(MAGIC) {
        return Err(invalid(
            "not a .npy file: it does not begin with \\x93NUMPY".into(),
        ));
    }
    let (at, length) = match start[6] {
        1 => (10, usize::from(u16::from_le_bytes([start[8], start[9]]))),
        2 | 3 => {
            file.read_exact_at(&mut start[10..], 10)
                .map_err(|_| cut())?;
            let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
            (12, length as usize)
        }
        version => {
            return Err(invalid(format!(
                ".npy version {version}, expected 1, 2 or 3"
            )));
        }
    };
    if length > MAX_HEADER {
        return Err(invalid(format!(
            "the .npy header claims {length} bytes, at most {MAX_HEADER} are read"
        )));
    }
    let mut header = vec![0; length];
    file.read_exact_at(&mut header, at).map_err(|_| cut())?;
    let header = String::from_utf8_lossy(&header).into_owned();
    let unclear = |key: &str| {
        let header = printable(header.trim());
        invalid(format!("the .npy header has no sound `{key}`: {header}"))
    };
    let kind = value(&header, "descr").ok_or_else(|| unclear("descr"))?;
    let kind = kind.trim_matches(['\'', '"']);
    let width = Width::of_numpy(kind).ok_or_else(|| {
        invalid(format!(
            "numbers of type `{}`; expected little-endian integers, best '<u2'",
            printable(kind)
        ))
        .with_hint("convert them with numpy: np.save(path, tokens.astype(np.uint16))")
    })?;
    let shape = value(&header, "shape").ok_or_else(|| unclear("shape"))?;
    let count = shape
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(",)"))
        .ok_or_else(|| {
            invalid(format!(
                "an array of shape {}, expected one dimension",
                printable(shape)
            ))
            .with_hint("flatten it with numpy: np.save(path, tokens.reshape(-1))")
        })?;
    let count = count.trim().parse().map_err(|_| unclear("shape"))?;
    Ok(Npy {
        offset: at + length as u64,
        width,
        count,
    })
}

/// The text of a value in the header's Python dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let rest = header.split_once(&format!("'{key}':"))?.1.trim_start();
    let end = match rest.chars().next()? {
        '(' => rest.find(')')? + 1,
        quote @ ('\'' | '"') => rest[1..].find(quote)? + 2,
        _ => rest.find([',', '}'])?,
    };
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_bytes(bytes: &[u8]) -> Result<Npy> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        parse(&File::open(&path).unwrap(), &path)
    }

    fn with_header(dict: &str) -> Vec<u8> {
        let length = (dict.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes()].concat()
    }

    #[test]
    fn headers_as_numpy_writes_them_are_understood() {
        let dict = "{'descr': '<u2', 'fortran_order': False, 'shape': (100,), }  \n";
        let npy = parse_bytes(&with_header(dict)).unwrap();
        assert_eq!(
            (npy.offset, npy.width, npy.count),
            (10 + dict.len() as u64, Width::U16, 100)
        );
    }

    #[test]
    fn other_arrays_are_refused_by_name() {
        let refused = |dict: &str, word: &str| {
            let error = parse_bytes(&with_header(dict)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused("{'descr': '>u2', 'shape': (100,), }", "`>u2`");
        refused("{'descr': '<f4', 'shape': (100,), }", "`<f4`");
        refused("{'descr': '<u2', 'shape': (10, 10), }", "(10, 10)");
        refused("{'descr': '<u2', 'shape': (), }", "one dimension");
        refused("{'shape': (100,), }", "`descr`");
        assert!(parse_bytes(b"\x93NUMPY\x01\x00\xff\x00").is_err());
        assert!(parse_bytes(b"hello, world").is_err());
        assert!(parse_bytes(b"").is_err());
    }
}
