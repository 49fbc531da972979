//! Reading files: only regular ones, and up to a size. Out of scope: their contents.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Limit on the bytes of a configuration, an index of shards, or a list of keys.
pub(crate) const CONFIG_MAX: u64 = 16 << 20;
/// Limit on the bytes of a tokenizer.
pub(crate) const TOKENIZER_MAX: u64 = 512 << 20;

/// Whether there is something at the path, even a link that leads nowhere: reading that is an
/// error, and not the same as no file.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What the system knows of a regular file. Opening a pipe would wait for a writer, and reading a
/// device may never end.
///
/// # Errors
/// Also when the path, after following links, is no regular file.
pub(crate) fn metadata(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(metadata);
    }
    let what = if kind.is_dir() { "a directory" } else { "a pipe, socket or device" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; give a regular file")))
}

/// Opens a regular file.
///
/// # Errors
/// As [`metadata`].
pub(crate) fn open(path: &Path) -> io::Result<File> {
    metadata(path)?;
    File::open(path)
}

/// The bytes of a regular file, at most `max`.
///
/// # Errors
/// As [`metadata`], and when the file is larger.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let length = metadata(path)?.len();
    if length > max {
        let problem = format!("it has {length} bytes, at most {max} are allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    File::open(path)?.take(max).read_to_end(&mut bytes)?; // it may have grown meanwhile
    Ok(bytes)
}

/// The text of a regular file of any size.
///
/// # Errors
/// As [`metadata`], and when the file is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    metadata(path)?;
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_through_links_and_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "12345").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link, 5).unwrap(), b"12345");
        let error = read(&link, 4).unwrap_err().to_string();
        assert_eq!(error, "it has 5 bytes, at most 4 are allowed");
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (pipe.as_path(), "a pipe, socket or device"),
            (socket.as_path(), "a pipe, socket or device"),
            (Path::new("/dev/zero"), "a pipe, socket or device"),
            (dir.path(), "a directory"),
        ] {
            let errors = [open(path).unwrap_err(), read(path, 9).unwrap_err(), read_text(path).unwrap_err()];
            for error in errors {
                assert_eq!(error.to_string(), format!("it is {what}; give a regular file"), "{}", path.display());
            }
        }
    }
}
