//! API keys, given or from a file that may change, and how many requests each may have under way.

use super::lock::lock;
use crate::files;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Shortest time between two checks of the key file.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// A SHA-256 digest. API keys are stored as their digests only.
pub(crate) type Fingerprint = [u8; 32];

/// The owner of a request: the digest of its API key; `None` on a server without keys.
pub(crate) type Owner = Option<Fingerprint>;

/// The API keys of a server.
#[derive(Debug)]
pub struct Guard {
    /// Keys of the command line.
    given: Vec<Fingerprint>,
    file: Option<Mutex<KeyFile>>,
    /// Requests that one key may have under way.
    per_key_max: Option<usize>,
    permits: Mutex<BTreeMap<Fingerprint, Arc<Semaphore>>>,
}

/// When a file was last modified, and its length in bytes.
type Version = (SystemTime, u64);

/// A file with one key per line. Lines that start with `#` are comments.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    keys: Vec<Fingerprint>,
    version: Option<Version>,
    checked: Instant,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The key file cannot be read.
    #[error("cannot read the keys in {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The key file is empty.
    #[error("there is no API key in {}; write one a line, or leave the file out", path.display())]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// A key on the command line is empty.
    #[error("an API key is empty; an empty key would let everybody in")]
    EmptyKey,
    /// No client can send a key.
    #[error(
        "the API key {place} has {character:?}, which no client can send in a header; give visible ASCII characters and spaces"
    )]
    Unsendable {
        /// Which key, without the key itself.
        place: String,
        /// The first character at fault.
        character: char,
    },
}

impl Guard {
    /// A guard with these keys and those in `file`; `None` without both, which admits everybody.
    /// `per_key_max` is the number of requests that one key may have under way.
    ///
    /// # Errors
    /// When the file cannot be read or has no key, or a key is empty.
    pub fn new(keys: &[String], file: Option<&Path>, per_key_max: Option<usize>) -> Result<Option<Self>, GuardError> {
        if keys.iter().any(|key| key.trim().is_empty()) {
            return Err(GuardError::EmptyKey);
        }
        for (number, key) in (1..).zip(keys) {
            check_sendable(key.trim(), || format!("number {number} of --api-key"))?;
        }
        if keys.is_empty() && file.is_none() {
            return Ok(None);
        }
        let file = file.map(KeyFile::open).transpose()?.map(Mutex::new);
        let given = keys.iter().map(|key| fingerprint(key.trim())).collect();
        Ok(Some(Self { given, file, per_key_max, permits: Mutex::default() }))
    }

    /// The digest of `key`, if it is one of the server's keys. Takes the same time for every key.
    pub(crate) fn verify(&self, key: &str) -> Option<Fingerprint> {
        let asked = fingerprint(key);
        let is_one_of =
            |keys: &[Fingerprint]| keys.iter().fold(subtle::Choice::from(0), |found, key| found | key.ct_eq(&asked));
        let mut found = is_one_of(&self.given);
        if let Some(file) = &self.file {
            let mut file = lock(file);
            file.refresh();
            found |= is_one_of(&file.keys);
        }
        bool::from(found).then_some(asked)
    }

    /// Whether no other key than one is in force now.
    pub(crate) fn has_one_key(&self) -> bool {
        let file = self.file.as_ref().map(lock);
        let mut keys = self.given.iter().chain(file.iter().flat_map(|file| &file.keys));
        keys.next().is_some_and(|first| keys.all(|key| key == first))
    }

    /// The semaphore that limits the requests of one key; `None` without a limit.
    pub(crate) fn permits(&self, key: Fingerprint) -> Option<Arc<Semaphore>> {
        let max = self.per_key_max?;
        let mut permits = lock(&self.permits);
        Some(Arc::clone(permits.entry(key).or_insert_with(|| Arc::new(Semaphore::new(max)))))
    }
}

impl KeyFile {
    fn open(path: &Path) -> Result<Self, GuardError> {
        let (keys, version) = read(path).map_err(|cause| GuardError::Unreadable { path: path.to_owned(), cause })?;
        if keys.is_empty() {
            return Err(GuardError::NoKeys { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), keys, version, checked: Instant::now() })
    }

    /// Reads the file again if it has changed. If it has no keys, the old ones stay in force.
    fn refresh(&mut self) {
        if self.checked.elapsed() < CHECK_EVERY {
            return;
        }
        self.checked = Instant::now();
        if fs::metadata(&self.path).ok().and_then(|data| version(&data)) == self.version {
            return;
        }
        match read(&self.path) {
            Ok((keys, version)) if !keys.is_empty() => {
                tracing::info!(keys = keys.len(), "API keys were read again");
                (self.keys, self.version) = (keys, version);
            }
            Ok(_) => tracing::error!("the file of API keys has none any more; the old ones stay in force"),
            Err(cause) => tracing::error!(%cause, "the file of API keys cannot be read; the old ones stay in force"),
        }
    }
}

/// Refuses a key that no header can hold, so that nobody could ever use it.
fn check_sendable(key: &str, place: impl FnOnce() -> String) -> Result<(), GuardError> {
    match key.chars().find(|character| !matches!(character, ' '..='~')) {
        Some(character) => Err(GuardError::Unsendable { place: place(), character }),
        None => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<(Vec<Fingerprint>, Option<Version>)> {
    let version = version(&files::metadata(path)?);
    let text = files::read_text(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text); // a byte order mark is no part of the first key
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let key = |(number, line): (usize, &str)| {
        check_sendable(line, || format!("in line {number}")).map_err(io::Error::other)?;
        Ok(fingerprint(line))
    };
    Ok((lines.map(key).collect::<io::Result<_>>()?, version))
}

fn version(data: &fs::Metadata) -> Option<Version> {
    Some((data.modified().ok()?, data.len()))
}

fn fingerprint(key: &str) -> Fingerprint {
    Sha256::digest(key.as_bytes()).into()
}
