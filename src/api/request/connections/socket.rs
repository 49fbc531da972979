//! The socket of a connection: notes whether it takes bytes, and adds error objects to hyper's own
//! answers to requests that it cannot read.

use super::activity::Activity;
use crate::api::error::{ApiError, Code};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct Socket<S> {
    stream: S,
    activity: Arc<Activity>,
    /// What is written instead of hyper's bytes, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, instead: None }
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Writes what stands in place of `bytes`, if anything does.
    fn poll_instead(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.instead.is_none() && self.activity.is_idle() {
            self.instead = with_error_body(bytes).map(|answer| (answer, 0));
        }
        while let Some((answer, written)) = &mut self.instead {
            if *written == answer.len() {
                self.instead = None;
                return Poll::Ready(Some(Ok(bytes.len())));
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &answer[*written..])) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(more) => *written += more,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }

    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.activity.sends(polled.is_ready());
        polled
    }
}

/// An answer with an error object, in place of hyper's own without a body. The endpoints' own
/// answers have a request id.
fn with_error_body(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let message = match status {
        b"400" => "the request is not valid HTTP/1.1; send a method, a path, and headers without control characters",
        b"414" => "the path is too long; send at most 65534 bytes",
        b"431" => "the headers are too long or too many; send at most 100, of 400 KiB together",
        _ => return None,
    };
    let body = ApiError::new(Code::InvalidRequest, message).to_json();
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let is_bare = head.lines().any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    if !is_bare || head.lines().any(|line| line.to_ascii_lowercase().starts_with("x-request-id:")) {
        return None;
    }
    tracing::info!(status = %String::from_utf8_lossy(status), outcome = "invalid", "a request that cannot be read");
    let head = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head = head.collect::<Vec<_>>().join("\r\n");
    let length = body.len();
    let answer = format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    Some(answer.into_bytes())
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_instead(cx, bytes) {
            Poll::Ready(None) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            Poll::Ready(Some(written)) => Poll::Ready(written),
            Poll::Pending => Poll::Pending,
        };
        self.noted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        let polled = match self.poll_instead(cx, first.map_or(&[], |slice| slice)) {
            Poll::Ready(None) => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            Poll::Ready(Some(written)) => Poll::Ready(written),
            Poll::Pending => Poll::Pending,
        };
        self.noted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
