//! The owner of a request: the API key that it came with.

/// A SHA-256 digest. API keys are stored as their digests only.
pub(crate) type Fingerprint = [u8; 32];

/// The digest of a request's API key; `None` on a server without keys.
pub(crate) type Owner = Option<Fingerprint>;
