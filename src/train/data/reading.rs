//! Files to rows: text and JSONL, alone or in folders, tokenised a batch at a time.

use super::cutting::{Cutter, Cutting};
use super::store::{Key, RowStore, RowWriter};
use crate::diffusion::TokenId;
use crate::files;
use crate::text::{Special, Tokenizer};
use crate::train::error::TrainError;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Where the rows of some data are kept, to be used again.
#[derive(Clone, Copy, Debug)]
pub struct RowCache<'a> {
    /// The file. One that holds other rows is replaced.
    pub file: &'a Path,
    /// What identifies the tokenizer.
    pub tokenizer: &'a str,
}

/// Bytes of text that are tokenised at once.
pub(super) const PIECE: usize = 1 << 20;
/// Examples or pieces of text that are tokenised by all threads before they are written.
const BATCH: usize = 4096;
/// Bytes of a batch.
const BATCH_BYTES: usize = 16 * PIECE;

/// A piece of the data, to be tokenised.
enum Piece {
    Example { number: usize, prompt: String, response: String },
    Text(String),
}

/// The same as tokens.
enum Encoded {
    Example { number: usize, prompt: Vec<TokenId>, response: Vec<TokenId> },
    Text(Vec<TokenId>),
}

#[derive(Deserialize)]
struct Dialogue {
    prompt: String,
    response: String,
}

/// The rows of a file, or of all files of a folder in the order of their paths. A `.jsonl` file has
/// `prompt` and `response` on each line. Other files are text, which is cut into rows; in a folder,
/// each is closed by the end of text.
pub(super) fn read(path: &Path, cutting: Cutting<'_>, cache: Option<RowCache<'_>>) -> Result<RowStore, TrainError> {
    let files = files_of(path).map_err(|cause| wrong(path, format!("cannot be read: {cause}")))?;
    let key = key(path, &files, cutting, cache)?;
    let file = cache.map(|cache| cache.file);
    let unkept = |cause: io::Error| {
        let place = file.map_or_else(|| "the directory for temporary files".into(), Path::to_string_lossy);
        TrainError::Settings(format!("cannot keep the tokenised rows in {place}: {cause}"))
    };
    if let Some(store) = file.map(|file| RowStore::open(file, &key)).transpose().map_err(unkept)?.flatten() {
        return Ok(store);
    }
    let mut cutter = Cutter::new(cutting, RowWriter::new(file, &key, cutting.length).map_err(unkept)?);
    for one in &files {
        let in_one = |problem: String| wrong(one, problem);
        let mut pieces = Pieces::open(one).map_err(|cause| in_one(format!("cannot be read: {cause}")))?;
        loop {
            let batch = pieces.batch().map_err(in_one)?;
            if batch.is_empty() {
                break;
            }
            let encoded: Vec<Result<Encoded, String>> =
                batch.par_iter().map(|piece| piece.encode(cutting.tokenizer)).collect();
            for piece in encoded {
                let taken = match piece.map_err(in_one)? {
                    Encoded::Text(tokens) => cutter.text(&tokens),
                    Encoded::Example { number, prompt, response } => {
                        cutter.example(&prompt, &response).map_err(|problem| format!("line {number} {problem}"))
                    }
                };
                taken.map_err(in_one)?;
            }
        }
        if files.len() > 1 && !pieces.is_jsonl {
            cutter.end_text().map_err(in_one)?;
        }
    }
    let (writer, rows) = cutter.finish().map_err(|problem| wrong(path, problem))?;
    if rows == 0 {
        let length = cutting.length;
        return Err(wrong(path, format!("holds no row of {length} tokens; give more data or a smaller --length")));
    }
    writer.finish().map_err(unkept)
}

fn wrong(file: &Path, problem: String) -> TrainError {
    TrainError::Data { file: file.display().to_string(), problem }
}

/// The file, or all files of the folder, without those whose names begin with a dot.
fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        files::metadata(path)?;
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    let mut found = Vec::new();
    let is_hidden = |entry: &Path| entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    for entry in entries.into_iter().filter(|entry| !is_hidden(entry)) {
        found.extend(files_of(&entry)?);
    }
    Ok(found)
}

/// The digest of all that the rows follow from: the files, the tokenizer and the cutting.
fn key(path: &Path, files: &[PathBuf], cutting: Cutting<'_>, cache: Option<RowCache<'_>>) -> Result<Key, TrainError> {
    let mut hash = Sha256::new();
    let Some(RowCache { tokenizer, .. }) = cache else { return Ok(Key::default()) };
    let Cutting { length, end, filling, .. } = cutting;
    hash.update(format!("{tokenizer} {length} {end:?} {filling:?} "));
    for file in files {
        let name = file.strip_prefix(path).unwrap_or(file); // a folder may be moved
        hash.update(format!("{} {} ", name.display(), is_jsonl(file)));
        let read = File::open(file).and_then(|mut file| io::copy(&mut file, &mut hash));
        read.map_err(|cause| wrong(file, format!("cannot be read: {cause}")))?;
    }
    Ok(hash.finalize().into())
}

fn is_jsonl(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "jsonl")
}

/// The pieces of a file, in order.
struct Pieces {
    lines: BufReader<File>,
    is_jsonl: bool,
    /// Lines read until now.
    number: usize,
}

impl Pieces {
    fn open(file: &Path) -> io::Result<Self> {
        Ok(Self { lines: BufReader::new(files::open(file)?), is_jsonl: is_jsonl(file), number: 0 })
    }

    /// The next pieces; none at the end of the file.
    fn batch(&mut self) -> Result<Vec<Piece>, String> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some((piece, size)) = self.piece()? else { break };
            bytes += size;
            batch.extend(piece);
        }
        Ok(batch)
    }

    /// The next piece, if its lines have one, and its bytes; `None` at the end of the file.
    fn piece(&mut self) -> Result<Option<(Option<Piece>, usize)>, String> {
        let mut text = String::new();
        loop {
            let read = self.lines.by_ref().read_line(&mut text);
            if read.map_err(|cause| format!("cannot be read: {cause}"))? == 0 {
                break;
            }
            self.number += 1;
            if self.is_jsonl || text.len() >= PIECE {
                break;
            }
        }
        let size = text.len();
        if size == 0 {
            return Ok(None);
        }
        if !self.is_jsonl {
            return Ok(Some((Some(Piece::Text(text)), size)));
        }
        if text.trim().is_empty() {
            return Ok(Some((None, size)));
        }
        let number = self.number;
        let Dialogue { prompt, response } = serde_json::from_str(&text)
            .map_err(|cause| format!("line {number} is no object with prompt and response: {cause}"))?;
        Ok(Some((Some(Piece::Example { number, prompt, response }), size)))
    }
}

impl Piece {
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded, String> {
        let encode = |text: &str| tokenizer.encode(text, Special::AsText).map_err(|cause| cause.to_string());
        match self {
            Self::Text(text) => Ok(Encoded::Text(encode(text).map_err(|cause| format!("the text: {cause}"))?)),
            Self::Example { number, prompt, response } => {
                let encoded = encode(prompt).and_then(|prompt| Ok((prompt, encode(response)?)));
                let (prompt, response) = encoded.map_err(|cause| format!("line {number}: {cause}"))?;
                Ok(Encoded::Example { number: *number, prompt, response })
            }
        }
    }
}
