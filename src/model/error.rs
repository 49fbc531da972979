//! Why a model could not be loaded, one sentence each: which file, what it says, what is allowed. Refuses to
//! know how files are read.

/// Why no model came out of a source. `file` is a path, or the name of an embedded file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or the system does not let it be read.
    #[error("cannot read {file}: {cause}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        cause: String,
    },
    /// A file is not what its name promises: truncated, not JSON, contradicting itself.
    #[error("{file} {problem}")]
    Malformed {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration asks for something that is not implemented.
    #[error("{file}: `{key}` is {given}, supported is {supported}")]
    Unsupported {
        /// Which file.
        file: String,
        /// The key.
        key: String,
        /// Its value there, as JSON.
        given: String,
        /// The values that would do.
        supported: String,
    },
    /// A tensor that the configuration calls for is in none of the files.
    #[error("{files} has no tensor `{tensor}`, which config.json calls for")]
    MissingTensor {
        /// The files that were searched.
        files: String,
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape than the configuration (or the rest of its file) says.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// Which file.
        file: String,
        /// Its name there.
        tensor: String,
        /// Its shape there.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A quality head was made for other weights than those it was given to.
    #[error(
        "the quality head in {file} was made for the model {made_for}, this one is {found}; \
         its judgements would mean nothing. Give the head that was trained with this model, or train one"
    )]
    WrongBase {
        /// The head's file.
        file: String,
        /// Fingerprint of the weights it was made for.
        made_for: String,
        /// Fingerprint of the weights there are.
        found: String,
    },
    /// A tensor is stored in numbers that are not read.
    #[error("{file}: tensor `{tensor}` is stored as {found}, supported are F32, F16 and BF16")]
    WrongDtype {
        /// Which file.
        file: String,
        /// Its name there.
        tensor: String,
        /// How it is stored.
        found: String,
    },
    /// A tensor that must not be there: it would be ignored, and the model would not be what its files say.
    #[error("{file}: tensor `{tensor}` {problem}")]
    StrayTensor {
        /// Which file.
        file: String,
        /// Its name there.
        tensor: String,
        /// Why it has no place.
        problem: String,
    },
    /// The device is not there, or this binary cannot use it.
    #[error("device `{device}`: {problem}")]
    Device {
        /// What was asked for.
        device: String,
        /// What is wrong and what would help.
        problem: String,
    },
    /// The tensor library failed while the weights were put in place, usually for want of memory.
    #[error("the weights could not be put in place: {0}")]
    Failed(String),
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
