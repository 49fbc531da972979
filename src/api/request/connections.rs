//! Connections from their first byte to their last: as many as the system has files for, none that is silent for ever.
//! Refuses to know what is asked on them.

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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection may say nothing before a request, and a request's head may take: nginx's time for idle connections.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How often whoever speaks HTTP/2 is asked whether they are still there, and how long they have to say so.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30));
/// Silence after which the system asks a peer whether it is still there, how often it asks again, and how many times.
const PROBE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);
/// How long what was sent may go unread by the peer's system before the connection is given up. A reader that is slower than that
/// can read on by `Last-Event-ID`.
const UNREAD_MAX: Duration = Duration::from_secs(300);
/// Files that connections leave for all else: weights, keys, the ports.
const OTHER_FILES: u64 = 64;
/// Connections where the system sets no limit.
const CONNECTIONS_MAX: u64 = 1 << 20;
/// How often the log says that all places are taken.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What HTTP/2 begins with; whoever says less has not said anything yet.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Places for connections: as many as there are files, but for some.
pub(crate) fn places() -> Arc<Semaphore> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(CONNECTIONS_MAX);
    let places = files.saturating_sub(OTHER_FILES).max(files / 2).clamp(1, CONNECTIONS_MAX);
    Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(1)))
}

/// Serves `app` on `listener` until `stop` completes; then idle connections are closed, and it returns when the others have ended.
/// Who finds no place waits at the door, in the system's queue.
pub(crate) async fn serve(
    mut listener: TcpListener,
    app: Router,
    places: Arc<Semaphore>,
    stop: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING.0).keep_alive_timeout(PING.1);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let mut said: Option<Instant> = None;
    let mut stop = std::pin::pin!(stop);
    loop {
        if places.available_permits() == 0 && said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
            tracing::warn!("there are as many connections as the limit on open files allows; further ones wait");
            said = Some(Instant::now());
        }
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            let (connection, _) = Listener::accept(&mut listener).await; // tries again where the system has no room
            (connection, place)
        };
        let (connection, place) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        // a connection that is gone already shows when it is read
        let _ = settle(&connection);
        let served =
            builder.serve_connection(TokioIo::new(Mute::new(connection)), TowerToHyperService::new(app.clone()));
        let served = graceful.watch(served.into_owned());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Has small frames sent at once, and peers that have vanished noticed.
fn settle(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?; // without it small frames only come later
    let (after, every, times) = PROBE;
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, after)?;
    sockopt::set_tcp_keepintvl(connection, every)?;
    sockopt::set_tcp_keepcnt(connection, times)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(connection, u32::try_from(UNREAD_MAX.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// A connection that is given up when its first bytes do not come: what tells HTTP/1 from HTTP/2 waits for them without end.
struct Mute {
    stream: TcpStream,
    /// While nothing has been said.
    patience: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that came.
    matched: usize,
}

impl Mute {
    fn new(stream: TcpStream) -> Self {
        Self { stream, patience: Some(Box::pin(sleep(IDLE_MAX))), matched: 0 }
    }

    /// Whether it is known what is spoken, now that `bytes` have come.
    fn has_spoken(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.matched..];
        let matched = bytes.iter().zip(expected).take_while(|(byte, expected)| byte == expected).count();
        self.matched += matched;
        matched < bytes.len() || self.matched == PREFACE.len()
    }
}

impl AsyncRead for Mute {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(patience) = &mut self.patience else { return read };
        if read.is_pending() {
            ready!(patience.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.has_spoken(&buffer.filled()[before..]) {
            self.patience = None;
        }
        read
    }
}

impl AsyncWrite for Mute {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, Mute) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), Mute::new(far.unwrap().0))
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_half_a_preface_is_given_up_and_who_spoke_may_be_silent() {
        for (said, is_given_up) in
            [("", true), ("PRI * HT", true), ("POST", false), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false)]
        {
            let (mut near, mut far) = pair().await;
            near.write_all(said.as_bytes()).await.unwrap();
            near.set_nodelay(true).unwrap();
            let mut heard = vec![0; said.len()];
            far.read_exact(&mut heard).await.unwrap();
            let silence = tokio::time::timeout(2 * IDLE_MAX, far.read(&mut [0; 8])).await;
            match silence {
                Ok(read) => assert!(is_given_up && read.unwrap_err().kind() == io::ErrorKind::TimedOut, "{said:?}"),
                Err(_) => assert!(!is_given_up, "{said:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_end_and_a_connection_without_a_further_request_are_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(async || ());
        tokio::spawn(serve(listener, app, Arc::new(Semaphore::new(1)), std::future::pending()));
        for (said, heard) in
            [("GET / HTTP/1.1\r\nHost: here\r\n", ""), ("GET / HTTP/1.1\r\nHost: here\r\n\r\n", "HTTP/1.1 200")]
        {
            let mut near = TcpStream::connect(address).await.unwrap(); // there is one place, which is given on
            near.write_all(said.as_bytes()).await.unwrap();
            let mut all = String::new();
            let closed = tokio::time::timeout(2 * IDLE_MAX, near.read_to_string(&mut all)).await;
            assert!(closed.is_ok(), "{said:?} is waited for without end");
            assert!(all.starts_with(heard), "{said:?} is answered {all:?}");
        }
    }

    #[tokio::test]
    async fn the_system_is_told_to_look_after_peers_that_vanish() {
        let (_near, Mute { stream, .. }) = pair().await;
        settle(&stream).unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE.0);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE.1);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBE.2);
        #[cfg(target_os = "linux")]
        assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), UNREAD_MAX.as_millis());
    }

    #[tokio::test]
    async fn who_goes_away_is_no_error() {
        let (near, mut far) = pair().await;
        drop(near);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
