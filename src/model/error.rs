//! Errors of loading a model and of a forward pass: what was given, what is allowed.

use std::fmt::Display;

/// Why a model could not be loaded. `file` is a path, or the name of an embedded file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or the system denies access.
    #[error("cannot read {file}: {cause}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        cause: String,
    },
    /// The content of a file is wrong: truncated, not JSON, contradicting itself.
    #[error("{file} {problem}")]
    Malformed {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration needs something that is not implemented.
    #[error("{file}: `{key}` is {given}, supported is {supported}")]
    Unsupported {
        /// Which file.
        file: String,
        /// The key.
        key: String,
        /// Its value there, as JSON.
        given: String,
        /// The values that are supported.
        supported: String,
    },
    /// A tensor that the configuration requires is in none of the files.
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
    /// A quality head was made for other weights than those it is loaded with.
    #[error(
        "the quality head in {file} was made for the model {made_for}, this one is {found}; \
         its judgements would mean nothing. Give the head that was trained with this model, and the adapter that it was \
         trained with; or train one; --allow-foreign-head takes it all the same"
    )]
    WrongBase {
        /// The head's file.
        file: String,
        /// Fingerprint of the weights it was made for.
        made_for: String,
        /// Fingerprint of the weights it is loaded with.
        found: String,
    },
    /// A tensor is stored in a number format that is not supported.
    #[error("{file}: tensor `{tensor}` is stored as {found}, supported are F32, F16 and BF16")]
    WrongDtype {
        /// Which file.
        file: String,
        /// Its name there.
        tensor: String,
        /// How it is stored.
        found: String,
    },
    /// A tensor that has no place in the model. Ignoring it would give another model.
    #[error("{file}: tensor `{tensor}` {problem}")]
    StrayTensor {
        /// Which file.
        file: String,
        /// Its name there.
        tensor: String,
        /// Why it has no place.
        problem: String,
    },
    /// The device does not exist, or this binary cannot use it.
    #[error("device `{device}`: {problem}")]
    Device {
        /// The device that was given.
        device: String,
        /// What is wrong and how to fix it.
        problem: String,
    },
    /// The tensor library failed while the weights were loaded, usually for lack of memory.
    #[error("the weights could not be put in place: {0}")]
    Failed(String),
}

impl LoadError {
    pub(crate) fn malformed(file: &(impl Display + ?Sized), problem: impl Into<String>) -> Self {
        Self::Malformed { file: file.to_string(), problem: problem.into() }
    }

    pub(crate) fn device(device: impl Display, problem: impl Into<String>) -> Self {
        Self::Device { device: device.to_string(), problem: problem.into() }
    }

    pub(crate) fn stray(file: &str, tensor: &str, problem: &str) -> Self {
        Self::StrayTensor { file: file.to_owned(), tensor: tensor.to_owned(), problem: problem.to_owned() }
    }

    pub(crate) fn unsupported(file: &str, key: &str, given: String, supported: &str) -> Self {
        Self::Unsupported { file: file.to_owned(), key: key.to_owned(), given, supported: supported.to_owned() }
    }

    pub(crate) fn unreadable(file: &(impl Display + ?Sized), cause: &std::io::Error) -> Self {
        Self::Unreadable { file: file.to_string(), cause: cause.to_string() }
    }
}

/// What the tensor library says, without the backtrace that it adds where `RUST_BACKTRACE` is set,
/// and without the file's path, which our own errors name.
pub(crate) fn words(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => words(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", words(inner)),
        error => error.to_string(),
    }
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(words(&error))
    }
}

/// Why a forward pass gave no reading of one row. The other rows of the pass have theirs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The forward pass produced a NaN or an infinity.
    #[error(
        "the model returned no finite probabilities for this request ({what} in {dtype} is not finite). Ask with \
         other tokens, a lower cfg_scale or no logit_bias; if that does not help, the model's weights are damaged \
         or overflow in {dtype}"
    )]
    NotFinite {
        /// What was not finite.
        what: &'static str,
        /// Number format of the forward pass.
        dtype: String,
    },
    /// The row needs something that this model does not have.
    #[error("{0}")]
    Unsupported(String),
}

/// Why a forward pass gave no readings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The pass cannot be made of this row.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The device has no room for a pass of this size.
    #[error("the device ran out of memory: {0}")]
    OutOfMemory(String),
    /// The tensor library or the device failed.
    #[error("the forward pass failed: {0}")]
    Failed(String),
    /// A bug in the model; its state can no longer be trusted.
    #[error("the model panicked; the server's log says more")]
    Panicked,
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        let message = words(&error);
        let words = message.to_lowercase().replace('_', " ");
        // the second and third are cuBLAS's (CUBLAS_STATUS_ALLOC_FAILED) and cuRAND's
        let is_memory = ["out of memory", "alloc failed", "allocation failed"].iter().any(|it| words.contains(it));
        if is_memory { Self::OutOfMemory(message) } else { Self::Failed(message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_tensor_library_is_told_without_backtrace_and_path() {
        let error = || candle_core::Error::Msg("the magic is wrong".to_owned());
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let traced = candle_core::Error::WithBacktrace { inner: Box::new(error().with_path("a/file")), backtrace };
        assert!(traced.to_string().lines().count() > 1, "{traced}");
        assert_eq!(words(&traced), "the magic is wrong");
        assert_eq!(words(&traced.context("tensor 3")), "tensor 3: the magic is wrong");
    }

    #[test]
    fn every_library_of_a_device_says_in_its_own_words_that_memory_is_full() {
        for message in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_ALLOC_FAILED)",
            "CurandError(CURAND_STATUS_ALLOCATION_FAILED)",
            "Metal error: Out of memory",
        ] {
            let error = ModelError::from(candle_core::Error::Msg(message.to_owned()));
            assert_eq!(error, ModelError::OutOfMemory(message.to_owned()));
        }
        for message in ["CublasError(CUBLAS_STATUS_EXECUTION_FAILED)", "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)"] {
            let error = ModelError::from(candle_core::Error::Msg(message.to_owned()));
            assert_eq!(error, ModelError::Failed(message.to_owned()));
        }
    }
}
