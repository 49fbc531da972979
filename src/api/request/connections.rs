//! Connections: a limit on their number, and timeouts for those that are silent.

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf, join};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};

/// Limit on the time for a request's head, and on silence before it, as in nginx.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Interval of HTTP/2 pings, and the time for an answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP keep-alive: silence before the first probe, time between probes, and their number.
const PROBE_IDLE: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// Limit on the time for which sent bytes stay unacknowledged. Slower readers resume streams.
const UNREAD_MAX: Duration = Duration::from_secs(300);
/// Files that are not available to connections: weights, keys, listening sockets.
const OTHER_FILES: u64 = 64;
/// Limit on connections where the system sets no limit on open files.
const CONNECTIONS_MAX: u64 = 1 << 20;
/// Shortest time between two warnings that the limit is reached.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The first bytes of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The limit on connections: the limit on open files, less [`OTHER_FILES`].
pub(crate) fn permits() -> Arc<Semaphore> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(CONNECTIONS_MAX);
    let connections = files.saturating_sub(OTHER_FILES).max(files / 2).clamp(1, CONNECTIONS_MAX);
    Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(1)))
}

/// Serves `app` on `listener` until `stop` completes. Then it closes idle connections, and returns
/// when the others have ended. Connections beyond `permits` wait in the listener's backlog.
pub(crate) async fn serve(
    mut listener: TcpListener,
    app: Router,
    permits: Arc<Semaphore>,
    stop: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let mut warned: Option<Instant> = None;
    let mut stop = std::pin::pin!(stop);
    loop {
        if permits.available_permits() == 0 && warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
            tracing::warn!("there are as many connections as the limit on open files allows; further ones wait");
            warned = Some(Instant::now());
        }
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let (connection, _) = Listener::accept(&mut listener).await; // retries where the system has no room
            (connection, permit)
        };
        let (connection, permit) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        // a connection that is closed already fails when it is read
        let _ = set_options(&connection);
        let (reader, writer) = connection.into_split();
        let io = TokioIo::new(join(FirstBytes::new(reader), writer));
        let served = builder.serve_connection(io, TowerToHyperService::new(app.clone()));
        let served = graceful.watch(served.into_owned());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Sends small frames at once, and detects peers that have vanished.
fn set_options(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?; // Nagle's algorithm would delay small frames
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, PROBE_IDLE)?;
    sockopt::set_tcp_keepintvl(connection, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(connection, PROBES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(connection, u32::try_from(UNREAD_MAX.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Reads with a timeout for the first bytes. hyper tells HTTP/1 from HTTP/2 by them without one.
struct FirstBytes {
    reader: OwnedReadHalf,
    /// Until the protocol is known.
    timeout: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface received.
    matched: usize,
}

impl FirstBytes {
    fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, timeout: Some(Box::pin(sleep(IDLE_MAX))), matched: 0 }
    }

    /// Whether the protocol is known, after `bytes` were received.
    fn is_decided(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.matched..];
        let matched = bytes.iter().zip(expected).take_while(|(byte, expected)| byte == expected).count();
        self.matched += matched;
        matched < bytes.len() || self.matched == PREFACE.len()
    }
}

impl AsyncRead for FirstBytes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.reader).poll_read(cx, buffer);
        let Some(timeout) = &mut self.timeout else { return read };
        if read.is_pending() {
            ready!(timeout.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.is_decided(&buffer.filled()[before..]) {
            self.timeout = None;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, FirstBytes) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), FirstBytes::new(far.unwrap().0.into_split().0))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_after_silence_or_half_a_preface_but_not_after_a_request_line() {
        for (sent, is_closed) in
            [("", true), ("PRI * HT", true), ("POST", false), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false)]
        {
            let (mut near, mut far) = pair().await;
            near.write_all(sent.as_bytes()).await.unwrap();
            near.set_nodelay(true).unwrap();
            let mut received = vec![0; sent.len()];
            far.read_exact(&mut received).await.unwrap();
            let silence = tokio::time::timeout(2 * IDLE_MAX, far.read(&mut [0; 8])).await;
            match silence {
                Ok(read) => assert!(is_closed && read.unwrap_err().kind() == io::ErrorKind::TimedOut, "{sent:?}"),
                Err(_) => assert!(!is_closed, "{sent:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_and_an_idle_connection_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(async || ());
        tokio::spawn(serve(listener, app, Arc::new(Semaphore::new(1)), std::future::pending()));
        for (sent, received) in
            [("GET / HTTP/1.1\r\nHost: here\r\n", ""), ("GET / HTTP/1.1\r\nHost: here\r\n\r\n", "HTTP/1.1 200")]
        {
            let mut near = TcpStream::connect(address).await.unwrap(); // the one permit is handed on
            near.write_all(sent.as_bytes()).await.unwrap();
            let mut all = String::new();
            let closed = tokio::time::timeout(2 * IDLE_MAX, near.read_to_string(&mut all)).await;
            assert!(closed.is_ok(), "after {sent:?} the connection stays open");
            assert!(all.starts_with(received), "{sent:?} is answered {all:?}");
        }
    }

    #[tokio::test]
    async fn sockets_have_keep_alive_and_a_limit_on_unread_bytes() {
        let (stream, _far) = pair().await;
        set_options(&stream).unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), UNREAD_MAX.as_millis());
    }

    #[tokio::test]
    async fn a_closed_connection_is_no_error() {
        let (near, mut far) = pair().await;
        drop(near);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
