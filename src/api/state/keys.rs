//! Who may ask: API keys, given or from a file that may change, and how much each key may ask at the same time. Refuses to
//! know what is asked.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::grpc;
use crate::api::request::context::Ticket;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// How often a file of keys is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where the key may be told; the second for those who cannot send the first.
pub(crate) const OTHER_HEADER: &str = "x-api-key";

/// What a key is remembered as, so that no key lies in memory longer than its request.
pub(crate) type Fingerprint = [u8; 32];

/// The keys that open the door.
#[derive(Debug)]
pub struct Guard {
    /// Those given on the command line.
    given: Vec<Fingerprint>,
    file: Option<Mutex<KeyFile>>,
    /// Requests of one key at the same time.
    per_key_max: Option<usize>,
    places: Mutex<BTreeMap<Fingerprint, Arc<Semaphore>>>,
}

/// When a file was changed last, and its length.
type Stamp = (SystemTime, u64);

/// A file with a key a line; what follows a `#` at the start of a line is a remark.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    keys: Vec<Fingerprint>,
    state: Option<Stamp>,
    looked: Instant,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The file of keys cannot be read.
    #[error("cannot read the keys in {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is not one key.
    #[error("there is no API key in {}; write one a line, or leave the file out", path.display())]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// A key on the command line is empty.
    #[error("an API key is empty; an empty key would let everybody in")]
    EmptyKey,
}

impl Guard {
    /// A guard with these keys and those in `file`; `None` where there are neither, and everybody may ask.
    ///
    /// # Errors
    /// When the file cannot be read or has no key, or a key is empty.
    pub fn new(keys: &[String], file: Option<&Path>, per_key_max: Option<usize>) -> Result<Option<Self>, GuardError> {
        if keys.iter().any(|key| key.trim().is_empty()) {
            return Err(GuardError::EmptyKey);
        }
        if keys.is_empty() && file.is_none() {
            return Ok(None);
        }
        let file = file.map(KeyFile::open).transpose()?.map(Mutex::new);
        let given = keys.iter().map(|key| fingerprint(key.trim())).collect();
        Ok(Some(Self { given, file, per_key_max, places: Mutex::default() }))
    }

    /// The key's fingerprint, if it is one of ours. Takes the same time whichever it is.
    fn admit(&self, key: &str) -> Option<Fingerprint> {
        let asked = fingerprint(key);
        let is_one_of =
            |keys: &[Fingerprint]| keys.iter().fold(subtle::Choice::from(0), |found, key| found | key.ct_eq(&asked));
        let mut found = is_one_of(&self.given);
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.refresh();
            found |= is_one_of(&file.keys);
        }
        bool::from(found).then_some(asked)
    }

    /// The key's own places.
    fn places(&self, key: Fingerprint) -> Option<Arc<Semaphore>> {
        let max = self.per_key_max?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(places.entry(key).or_insert_with(|| Arc::new(Semaphore::new(max)))))
    }
}

impl KeyFile {
    fn open(path: &Path) -> Result<Self, GuardError> {
        let (keys, state) = read(path).map_err(|cause| GuardError::Unreadable { path: path.to_owned(), cause })?;
        if keys.is_empty() {
            return Err(GuardError::NoKeys { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), keys, state, looked: Instant::now() })
    }

    /// Reads the file again if it has changed. One that cannot be read, or has no key, leaves the old keys in force.
    fn refresh(&mut self) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        if fs::metadata(&self.path).ok().and_then(|data| state(&data)) == self.state {
            return;
        }
        match read(&self.path) {
            Ok((keys, state)) if !keys.is_empty() => {
                tracing::info!(keys = keys.len(), "API keys were read again");
                (self.keys, self.state) = (keys, state);
            }
            Ok(_) => tracing::error!("the file of API keys has none any more; the old ones stay in force"),
            Err(cause) => tracing::error!(%cause, "the file of API keys cannot be read; the old ones stay in force"),
        }
    }
}

fn read(path: &Path) -> io::Result<(Vec<Fingerprint>, Option<Stamp>)> {
    let state = state(&fs::metadata(path)?);
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok((lines.map(fingerprint).collect(), state))
}

fn state(data: &fs::Metadata) -> Option<Stamp> {
    Some((data.modified().ok()?, data.len()))
}

fn fingerprint(key: &str) -> Fingerprint {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether a path asks for a key where there are any; those that probes and scrapers ask do not.
pub(crate) fn is_guarded(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with(grpc::OURS) || path.ends_with("tokenize")
}

/// The layer before every endpoint but those that probes and scrapers ask.
pub(crate) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(guard) = state.guard() else { return next.run(request).await };
    if !is_guarded(request.uri().path()) {
        return next.run(request).await;
    }
    let Some(key) = told(&request).and_then(|key| guard.admit(key)) else {
        let message = "this server asks for an API key: send one of its own as \"Authorization: Bearer KEY\"";
        return ApiError::new(Code::NoKey, message).into_response();
    };
    let ticket = request.extensions().get::<Ticket>().cloned();
    if let Some(ticket) = &ticket {
        ticket.belongs_to(key);
    }
    if let Some(places) = guard.places(key) {
        let Ok(place) = places.try_acquire_owned() else {
            let message = "this API key has as many requests under way as it may; wait for one to end";
            return ApiError::new(Code::KeyFull, message).into_response();
        };
        if let Some(ticket) = ticket {
            ticket.keep(place);
        }
    }
    next.run(request).await
}

/// The key a request tells.
fn told(request: &Request) -> Option<&str> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| header(OTHER_HEADER)).filter(|key| !key.is_empty())
}
