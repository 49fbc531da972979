//! Faults in the header of a GGUF file that candle's reader does not look for: keys and tensors
//! that are there twice, an alignment that is none, and more of anything than a model has, which
//! would take memory. Out of scope: what the entries mean.

use std::collections::BTreeSet;
use std::io::{self, BufReader, ErrorKind, Read, Seek};

/// Largest number of keys, and of tensors. A LLaDA model of 1024 blocks has 9 thousand tensors.
const ENTRIES_MAX: u64 = 1 << 16;
/// Largest number of elements of all lists. A vocabulary of 250 thousand tokens has a million; in
/// memory each takes 32 bytes.
const ELEMENTS_MAX: u64 = 1 << 22;
/// The deepest list in a list.
const DEPTH_MAX: u32 = 4;
const ALIGNMENT: &str = "general.alignment";

/// Types of values by their numbers, see
/// <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
const STRING: u32 = 8;
const LIST: u32 = 9;
/// Bytes of a value of the other types.
const SIZES: [i64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/// Why a header is not read further.
enum Stop {
    /// What is wrong with it.
    Fault(String),
    /// The file ends, or is no GGUF file. candle's reader says more.
    Other,
}

impl From<io::Error> for Stop {
    fn from(cause: io::Error) -> Self {
        match cause.kind() {
            ErrorKind::UnexpectedEof => Self::Other,
            _ => Self::Fault(cause.to_string()),
        }
    }
}

type Found<T> = Result<T, Stop>;

/// Looks for these faults; the error says what is wrong.
pub(super) fn check<R: Read + Seek>(file: &mut BufReader<R>) -> Result<(), String> {
    let mut header = Header { file, is_first_version: false, elements: 0 };
    match header.walk() {
        Ok(()) | Err(Stop::Other) => Ok(()),
        Err(Stop::Fault(problem)) => Err(problem),
    }
}

struct Header<'a, R> {
    file: &'a mut BufReader<R>,
    /// Lengths have four bytes in version 1, else eight.
    is_first_version: bool,
    /// Elements of lists so far.
    elements: u64,
}

impl<R: Read + Seek> Header<'_, R> {
    fn walk(&mut self) -> Found<()> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(Stop::Other);
        }
        self.is_first_version = self.four()? == 1;
        let tensors = self.count("tensors")?;
        let keys = self.count("keys")?;
        let mut names = BTreeSet::new();
        for _ in 0..keys {
            let key = self.string()?;
            let kind = self.four()?;
            if key == ALIGNMENT {
                self.check_alignment(kind)?;
            } else {
                self.skip(kind, 0)?;
            }
            Self::add(&mut names, "key", key)?;
        }
        names.clear();
        for _ in 0..tensors {
            let name = self.string()?;
            let dimensions = i64::from(self.four()?.min(1 << 8)); // candle's reader refuses more than 4
            let dimension = if self.is_first_version { 4 } else { 8 };
            self.file.seek_relative(dimensions * dimension + 4 + 8)?; // sizes, format, place
            Self::add(&mut names, "tensor", name)?;
        }
        Ok(())
    }

    fn add(names: &mut BTreeSet<String>, what: &str, name: String) -> Found<()> {
        if names.contains(&name) {
            return Err(Stop::Fault(format!("has the {what} `{name}` twice")));
        }
        names.insert(name);
        Ok(())
    }

    fn check_alignment(&mut self, kind: u32) -> Found<()> {
        let size = usize::try_from(self.size(kind)?).unwrap_or(0);
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes[..size])?;
        match u64::from_le_bytes(bytes) {
            alignment if alignment.is_power_of_two() => Ok(()),
            alignment => Err(Stop::Fault(format!("says `{ALIGNMENT}` is {alignment}, it must be a power of two"))),
        }
    }

    /// Skips a value.
    fn skip(&mut self, kind: u32, depth: u32) -> Found<()> {
        match kind {
            STRING => self.string().map(drop),
            LIST if depth >= DEPTH_MAX => Err(Stop::Fault(format!("has lists in lists, more than {DEPTH_MAX} deep"))),
            LIST => {
                let (kind, length) = (self.four()?, self.length()?);
                self.elements = self.elements.saturating_add(length);
                if self.elements > ELEMENTS_MAX {
                    return Err(Stop::Fault(format!("has lists of more than {ELEMENTS_MAX} elements in its header")));
                }
                (0..length).try_for_each(|_| self.skip(kind, depth + 1))
            }
            kind => {
                let size = self.size(kind)?;
                Ok(self.file.seek_relative(size)?)
            }
        }
    }

    fn size(&self, kind: u32) -> Found<i64> {
        let size = usize::try_from(kind).ok().and_then(|kind| SIZES.get(kind).copied());
        size.filter(|size| *size > 0).ok_or(Stop::Other)
    }

    fn count(&mut self, what: &str) -> Found<u64> {
        match self.length()? {
            count if count <= ENTRIES_MAX => Ok(count),
            count => Err(Stop::Fault(format!("says it has {count} {what}, at most {ENTRIES_MAX} are allowed"))),
        }
    }

    /// Reads a string, of which no more is kept in memory than the file has.
    fn string(&mut self) -> Found<String> {
        let length = self.length()?;
        let mut bytes = Vec::new();
        self.file.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Stop::Other);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn length(&mut self) -> Found<u64> {
        if self.is_first_version { Ok(self.four()?.into()) } else { Ok(u64::from_le_bytes(self.bytes()?)) }
    }

    fn four(&mut self) -> Found<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Found<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
