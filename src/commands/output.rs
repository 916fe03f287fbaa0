//! Single files that a command writes: what is there already is replaced only where it is of the
//! kind that the command writes, or with --force, and what the command reads is never replaced.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::durable;
use scale_ckpt::error::Error;

/// Bytes at the beginning of a file that its kind is told by.
const BEGINNING: u64 = 64 << 10;

/// A file that is to be written.
#[derive(Debug)]
pub struct Output<'a> {
    /// Where.
    pub path: &'a Path,
    /// What it will be, with its article: `a page of analyze`.
    pub kind: &'static str,
    /// Whether a file that begins so is of that kind and was written by this program.
    pub is_ours: fn(&Path, &[u8]) -> bool,
    /// Whether a file of another kind is replaced.
    pub force: bool,
    /// Files that the command reads.
    pub inputs: Vec<PathBuf>,
}

impl Output<'_> {
    /// Fails where the file cannot be written because of what is there; writes nothing.
    ///
    /// # Errors
    /// A folder, a device, an input, or a file of another kind is there.
    pub fn check(&self) -> Result<()> {
        let at = self.path.display();
        let refuse = |why: String, hint: &str| Err(Error::usage(why).with_hint(hint));
        let another = "name another file";
        if fs::symlink_metadata(self.path).is_err() {
            return Ok(());
        }
        durable::refuse_dangling(self.path)?;
        let found = fs::metadata(self.path).map_err(Error::io("read", self.path))?;
        if !found.is_file() {
            let what = if found.is_dir() {
                "a folder"
            } else {
                "no plain file"
            };
            return refuse(format!("{at} is {what}"), another);
        }
        if self.inputs.iter().any(|input| is_same(input, &found)) {
            return refuse(
                format!("{at} is read by this command, so it cannot be written"),
                another,
            );
        }
        if self.force || (self.is_ours)(self.path, &beginning(self.path)?) {
            return Ok(());
        }
        refuse(
            format!(
                "{at} exists already, and is not {} that scale-ckpt wrote",
                self.kind
            ),
            "name another file, or replace it with --force",
        )
    }

    /// Writes the file, unless something has come there meanwhile.
    ///
    /// # Errors
    /// Those of [`Output::check`], or it cannot be written.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.check()?;
        durable::write_file(self.path, bytes)
    }
}

/// The files of a checkpoint: its weights, and all beside its config but what `is_ours` says was
/// written there by the same command.
pub fn files_of(
    checkpoint: &Checkpoint,
    is_ours: fn(&Path, &[u8]) -> bool,
) -> Result<Vec<PathBuf>> {
    let mut files = checkpoint.weight_files().to_vec();
    let listing = |e| Error::io("list", &checkpoint.dir)(e);
    for entry in fs::read_dir(&checkpoint.dir).map_err(listing)? {
        let path = entry.map_err(listing)?.path();
        if path.is_file() && !beginning(&path).is_ok_and(|bytes| is_ours(&path, &bytes)) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Whether a path leads to that very file, by whatever name.
fn is_same(path: &Path, file: &Metadata) -> bool {
    let place = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    fs::metadata(path).is_ok_and(|metadata| place(&metadata) == place(file))
}

fn beginning(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    let read = file.take(BEGINNING).read_to_end(&mut bytes);
    read.map_err(Error::io("read", path))?;
    Ok(bytes)
}
