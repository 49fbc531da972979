//! Work on callers' texts that takes time and memory in proportion to their length: reading bodies,
//! encoding, decoding, writing answers. It runs on blocking threads, a bounded amount at a time.

use crate::api::error::{ApiError, ApiResult, Code};
use crate::diffusion::u32_of;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Most bytes of text that are worked on at the same time. Encoding takes up to 400 bytes of memory
/// for each of them (measured with a vocabulary of single characters).
pub(crate) const BYTES_MAX: usize = 512 << 10;

/// Work on so few bytes is done at once. Most requests have fewer.
const BYTES_AT_ONCE: usize = 4 << 10;

/// The bytes of text that may still be worked on now.
#[derive(Clone, Debug)]
pub(crate) struct TextWork(Arc<Semaphore>);

impl Default for TextWork {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX)))
    }
}

impl TextWork {
    /// Runs `work` on `bytes` bytes of text, or so many tokens, as soon as there is room for them.
    /// More than [`BYTES_MAX`] wait until nothing else is worked on, up to [`BYTES_AT_ONCE`] never.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> ApiResult<T> {
        if bytes <= BYTES_AT_ONCE {
            return Ok(work());
        }
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "a text could not be worked on");
            ApiError::new(Code::Internal, "the server made a mistake in reading this request; its log says more")
        };
        let permits = u32_of(bytes.min(BYTES_MAX));
        let room = Arc::clone(&self.0).acquire_many_owned(permits).await.map_err(|error| failed(&error))?;
        let span = tracing::Span::current();
        let worked = tokio::task::spawn_blocking(move || {
            let _room = room; // held until the work is done, even if nobody waits for it any more
            span.in_scope(work)
        });
        worked.await.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn the_bytes_worked_on_at_once_are_bounded_and_the_runtime_is_free() {
        let work = TextWork::default();
        let (release, released) = mpsc::channel::<()>();
        let half = tokio::spawn({
            let work = work.clone();
            async move { work.run(BYTES_MAX / 2, move || released.recv().is_ok()).await }
        });
        while work.0.available_permits() == BYTES_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(work.run(BYTES_MAX / 2, || 1).await.unwrap(), 1, "the other half fits");
        let whole = work.run(10 * BYTES_MAX, || 2);
        tokio::pin!(whole);
        assert!(futures_util::poll!(&mut whole).is_pending(), "a long text waits until all is free");
        assert_eq!(work.run(BYTES_AT_ONCE, || 3).await.unwrap(), 3, "a short one never waits");
        release.send(()).unwrap();
        assert!(half.await.unwrap().unwrap());
        assert_eq!(whole.await.unwrap(), 2);
    }
}
