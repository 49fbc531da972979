//! Rows of training data in a file: tokenised once, then read one by one, so that data may be
//! larger than memory. Out of scope: where the rows come from.

use super::example::Example;
use crate::diffusion::u32_of;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, process};

/// The SHA-256 of all that determines the rows.
pub(super) type Key = [u8; 32];

/// What a file begins with. The last character is the version of the format: after the key and the
/// length of the longest rows (8 bytes), each row is the position of its first free token, the
/// number of its tokens, these, and zeros up to that length: all of 4 bytes, the lowest first.
const MAGIC: &[u8; 8] = b"REMASKR2";
const HEADER: u64 = (MAGIC.len() + size_of::<Key>() + 8) as u64;

/// Rows, read one by one.
#[derive(Debug)]
pub(super) enum RowStore {
    /// In memory.
    Memory(Vec<Example>),
    /// In a file.
    File {
        file: File,
        /// Tokens of a row at most.
        length: usize,
        count: u64,
    },
}

impl RowStore {
    /// The file of rows at `path`, if it has those of `key`.
    pub(super) fn open(path: &Path, key: &Key) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause),
        };
        let mut header = [0; HEADER as usize];
        if file.metadata()?.len() < HEADER {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let (start, length) = header.split_at(MAGIC.len() + key.len());
        if start != [MAGIC.as_slice(), key].concat() {
            return Ok(None);
        }
        let length = length.try_into().map_or(0, u64::from_le_bytes) as usize;
        Self::whole(file, length).map(Some)
    }

    fn whole(file: File, length: usize) -> io::Result<Self> {
        let count = (file.metadata()?.len() - HEADER) / bytes_of(length);
        Ok(Self::File { file, length, count })
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Memory(rows) => rows.len() as u64,
            Self::File { count, .. } => *count,
        }
    }

    /// Tokens of a row at most.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.iter().map(|row| row.tokens.len()).max().unwrap_or_default(),
            Self::File { length, .. } => *length,
        }
    }

    /// Row number `index`, below [`Self::count`].
    pub(super) fn row(&self, index: u64) -> io::Result<Example> {
        match self {
            Self::Memory(rows) => Ok(rows[index as usize].clone()),
            Self::File { file, length, .. } => {
                let size = bytes_of(*length);
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, HEADER + index * size)?;
                let mut numbers = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                let [first_free, count] = [numbers.next(), numbers.next()].map(Option::unwrap_or_default);
                let tokens: Vec<u32> = numbers.take(count as usize).collect();
                Ok(Example { free: (first_free..u32_of(tokens.len())).collect(), tokens })
            }
        }
    }
}

/// Bytes of a row of `length` tokens at most.
const fn bytes_of(length: usize) -> u64 {
    4 * (2 + length as u64)
}

/// A file that rows are written to. One that is not finished leaves nothing behind.
pub(super) struct RowWriter {
    file: BufWriter<File>,
    length: usize,
    /// Where the file is until it is finished, and then.
    names: Option<(PathBuf, PathBuf)>,
}

impl RowWriter {
    /// A file at `path` for the rows of `key`; without a path, one without a name.
    pub(super) fn new(path: Option<&Path>, key: &Key, length: usize) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unnamed = || env::temp_dir().join(format!("remask-rows-{}-{number}", process::id()));
        let begun = path.map_or_else(unnamed, |path| path.with_extension(format!("part{}", process::id())));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&begun)?;
        let names = match path {
            Some(path) => Some((begun, path.to_owned())),
            None => {
                fs::remove_file(&begun)?; // it lasts as long as it is open
                None
            }
        };
        let mut writer = Self { file: BufWriter::new(file), length, names };
        writer.file.write_all(MAGIC)?;
        writer.file.write_all(key)?;
        writer.file.write_all(&(length as u64).to_le_bytes())?;
        Ok(writer)
    }

    /// Adds a row whose tokens are free from `first_free` on.
    pub(super) fn add(&mut self, tokens: &[u32], first_free: u32) -> io::Result<()> {
        let zeros = self.length.checked_sub(tokens.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let start = [first_free, u32_of(tokens.len())];
        let row = start.into_iter().chain(tokens.iter().copied()).chain(std::iter::repeat_n(0, zeros));
        row.map(u32::to_le_bytes).try_for_each(|number| self.file.write_all(&number))
    }

    /// The rows, once all are added.
    pub(super) fn finish(mut self) -> io::Result<RowStore> {
        self.file.flush()?;
        if let Some((begun, name)) = self.names.take() {
            fs::rename(begun, name)?;
        }
        RowStore::whole(self.file.get_ref().try_clone()?, self.length)
    }
}

impl Drop for RowWriter {
    fn drop(&mut self) {
        if let Some((begun, _)) = self.names.take() {
            let _ = fs::remove_file(begun); // it may be gone with its directory
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: Option<&Path>, key: Key) -> RowStore {
        let mut writer = RowWriter::new(path, &key, 3).unwrap();
        for first in 0..4 {
            writer.add(&[first, first + 1, u32::MAX], first.min(2)).unwrap();
        }
        writer.add(&[7, 8], 1).unwrap();
        assert!(writer.add(&[0; 4], 0).is_err(), "longer than the longest");
        writer.finish().unwrap()
    }

    #[test]
    fn rows_are_read_as_they_were_written_with_a_name_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.bin");
        let named = written(Some(&path), [7; 32]);
        let opened = RowStore::open(&path, &[7; 32]).unwrap().unwrap();
        for store in [named, opened, written(None, [0; 32])] {
            assert_eq!((store.count(), store.length()), (5, 3));
            assert_eq!(store.row(3).unwrap(), Example { tokens: vec![3, 4, u32::MAX], free: vec![2] });
            assert_eq!(store.row(4).unwrap(), Example { tokens: vec![7, 8], free: vec![1] });
            assert_eq!(store.row(1).unwrap(), Example { tokens: vec![1, 2, u32::MAX], free: vec![1, 2] });
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_other_rows_or_none_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.bin");
        assert!(RowStore::open(&path, &[7; 32]).unwrap().is_none());
        for bytes in [&b""[..], b"REMASKR2 and little else", &[0; 100]] {
            fs::write(&path, bytes).unwrap();
            assert!(RowStore::open(&path, &[7; 32]).unwrap().is_none(), "{bytes:?}");
        }
        written(Some(&path), [7; 32]);
        assert!(RowStore::open(&path, &[8; 32]).unwrap().is_none());
        drop(RowWriter::new(Some(&dir.path().join("other")), &[0; 32], 3).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what is not finished is gone");
    }
}
