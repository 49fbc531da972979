//! Connections: limits on their number, and on the time for which they wait for their clients.

mod activity;
mod exchange;
mod places;
mod socket;

use crate::api::error::{ApiError, Code};
use activity::{Activity, IDLE_MAX, UNREAD_MAX};
use axum::Router;
use axum::serve::Listener;
use exchange::Exchanges;
pub(crate) use exchange::{SlowBody, is_slow_body};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
pub(crate) use places::Places;
use places::{Place, TooMany};
use rustix::net::sockopt;
use socket::Socket;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Interval of HTTP/2 pings, and the time for an answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP keep-alive: silence before the first probe, time between probes, and their number.
const PROBE_IDLE: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// Time for a connection that has waited for its client for too long to say that it ends.
const CLOSE_MAX: Duration = Duration::from_millis(100);
/// Longest time for which a connection waits for a place when its address has its share of them.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest time for which a listener waits for one such connection before it accepts the next one.
const LISTENER_WAIT_MAX: Duration = Duration::from_secs(1);

/// Serves `app` on `listener` until `stop` completes. Then it closes idle connections, and returns
/// when the others have ended. Connections beyond `places` wait in the listener's backlog, or take
/// the place of one that waits for its client.
pub(crate) async fn serve(mut listener: TcpListener, app: Router, places: Arc<Places>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let server = Server { builder: builder(), app, stopped };
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let (stream, address) = Listener::accept(&mut listener).await; // retries where the system has no room
            let activity = Activity::new();
            let place = places.try_take(address.ip(), &activity);
            let waiter = match place {
                Err(TooMany::OfAll) => places.waiters().acquire_owned().await.ok(),
                Err(TooMany::OfAddress) => {
                    // others wait behind this one meanwhile, so it does not wait for long
                    let waiter = timeout(LISTENER_WAIT_MAX, places.waiters().acquire_owned()).await;
                    waiter.ok().and_then(Result::ok)
                }
                Ok(_) => None,
            };
            (stream, address.ip(), activity, place, waiter)
        };
        let (stream, address, activity, place, waiter) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        match (place, waiter) {
            (Ok(place), _) => drop(tokio::spawn(server.clone().connection(stream, activity, place))),
            (Err(_), None) => refuse(&stream),
            (Err(_), Some(waiter)) => {
                let (mut server, places) = (server.clone(), Arc::clone(&places));
                tokio::spawn(async move {
                    let place = tokio::select! {
                        place = timeout(WAIT_MAX, places.take(address, &activity)) => place,
                        () = stop_of(&mut server.stopped) => return,
                    };
                    drop(waiter);
                    match place {
                        Ok(place) => server.connection(stream, activity, place).await,
                        Err(_) => refuse(&stream),
                    }
                });
            }
        }
    }
    drop((listener, server));
    stopping.send_replace(true);
    stopping.closed().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Answers a connection for which there is no place, as far as its socket takes the answer at once.
fn refuse(stream: &TcpStream) {
    let error = ApiError::new(Code::NoPlace, "the server has as many connections as it may, in all or of your address");
    let body = error.to_json();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len(),
        error.retry_after.unwrap_or_default()
    );
    let _ = stream.try_write(answer.as_bytes()); // the client may be gone
}

/// What all connections of a listener share.
#[derive(Clone)]
struct Server {
    builder: Builder<TokioExecutor>,
    app: Router,
    /// Every connection holds one until it ends.
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn connection(mut self, stream: TcpStream, activity: Arc<Activity>, place: Place) {
        let _ = set_options(&stream); // a connection that is closed already fails when it is read
        let socket = TokioIo::new(Socket::new(stream, Arc::clone(&activity)));
        let exchanges = Exchanges { app: self.app, activity: Arc::clone(&activity) };
        let connection = self.builder.serve_connection(socket, TowerToHyperService::new(exchanges));
        let mut connection = std::pin::pin!(connection);
        let expired = activity.expired();
        let mut expired = std::pin::pin!(expired);
        let mut is_stopping = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = stop_of(&mut self.stopped), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = expired.as_mut() => {
                    tracing::debug!("a connection that waits for its client is closed");
                    connection.as_mut().graceful_shutdown();
                    break timeout(CLOSE_MAX, connection.as_mut()).await.unwrap_or(Ok(()));
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended");
        }
        drop(place);
    }
}

async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await); // an error says that the listener is gone
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

#[cfg(test)]
mod tests;
