//! Requests and answers of a connection: a time limit on bodies, notes on who waits for whom, and
//! reading on where a request is answered before its body is read.

use super::activity::{Activity, OpenRequest};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::EXPECT;
use axum::http::{Request, Response, Version};
use futures_util::future::{BoxFuture, FutureExt};
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tower::Service;

/// Longest silence in a request's body.
pub(super) const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Limit on the time for a whole body. It grows by a second with every [`BYTES_PER_SECOND`] bytes
/// received, so a body may take long only if it is long.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(75);
const BYTES_PER_SECOND: u64 = 16 << 10;

/// How long a body is read on whose request is answered already, in all and without a byte: nginx's
/// `lingering_time` and `lingering_timeout`.
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(30);
const UNWANTED_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How much of it is read, many times what a body may have.
const UNWANTED_BYTES_MAX: usize = 64 << 20;

/// A body that did not arrive in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the body did not arrive in time: nothing came for {} s, or less than {} KiB/s after {} s; send the whole body",
    BODY_SILENCE_MAX.as_secs(), BYTES_PER_SECOND >> 10, BODY_TIME_MAX.as_secs()
)]
pub(crate) struct SlowBody;

/// Whether an error comes from a [`SlowBody`].
pub(crate) fn is_slow_body(error: &(dyn Error + 'static)) -> bool {
    error.is::<SlowBody>() || error.source().is_some_and(is_slow_body)
}

/// The app, for the requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Exchanges {
    pub(super) app: Router,
    pub(super) activity: Arc<Activity>,
}

impl<B> Service<Request<B>> for Exchanges
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as a router always is
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let open = OpenRequest::new(&self.activity);
        open.is_at_work(request.body().is_end_stream());
        // HTTP/2 ends a stream whose body is not read, and a client that expects 100 waits for it
        let is_read_on = request.version() < Version::HTTP_2 && !request.headers().contains_key(EXPECT);
        let request = request.map(|body| {
            let (body, open) = (Some(body).filter(|body| !body.is_end_stream()), Arc::clone(&open));
            Received { body, open, limit: None, is_read_on }
        });
        let answered = self.app.call(request.map(Body::new));
        let watched = async move {
            let response = answered.await?;
            open.is_at_work(true);
            Ok(response.map(|body| Body::new(Sent { body, open })))
        };
        watched.boxed()
    }
}

/// The body of a request.
struct Received<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    /// `None` once it has ended.
    body: Option<B>,
    open: Arc<OpenRequest>,
    /// Set while more is to come.
    limit: Option<Limit>,
    /// Whether the rest is read, and thrown away, if it was answered before.
    is_read_on: bool,
}

impl<B> Drop for Received<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    /// Many clients read an answer only once they have sent the whole body. hyper closes a
    /// connection with an unread body, and then the system throws away the answer, too.
    fn drop(&mut self) {
        let body = self.body.take().filter(|_| self.is_read_on);
        if let (Some(body), Ok(runtime)) = (body, tokio::runtime::Handle::try_current()) {
            runtime.spawn(timeout(UNWANTED_TIME_MAX, read_on(body, Arc::clone(&self.open))));
        }
    }
}

/// Reads the rest of a body whose request was answered early, up to a limit, and throws it away.
/// While this runs, the connection stays open, and counts as one that waits for its client.
async fn read_on<B: HttpBody<Data = Bytes> + Unpin>(mut body: B, open: Arc<OpenRequest>) {
    let mut left = UNWANTED_BYTES_MAX;
    loop {
        open.is_at_work(false);
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Ok(Some(Ok(frame))) = timeout(UNWANTED_SILENCE_MAX, frame).await else { return };
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

struct Limit {
    timer: Pin<Box<Sleep>>,
    /// When the whole body has to be there.
    end: Instant,
}

impl Limit {
    fn new() -> Self {
        let now = Instant::now();
        Self { timer: Box::pin(sleep_until(now + BODY_SILENCE_MAX)), end: now + BODY_TIME_MAX }
    }

    fn received(&mut self, bytes: u64) {
        self.end += Duration::from_micros(bytes * 1_000_000 / BYTES_PER_SECOND);
        let next = (Instant::now() + BODY_SILENCE_MAX).min(self.end);
        self.timer.as_mut().reset(next);
    }
}

impl<B> HttpBody for Received<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let is_whole = body.is_end_stream();
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.limit.get_or_insert_with(Limit::new).received(bytes as u64);
                self.open.is_at_work(is_whole);
                if is_whole {
                    self.body = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                self.body = None;
                self.open.is_at_work(true);
                Poll::Ready(end.map(|error| error.map_err(Into::into)))
            }
            Poll::Pending => {
                let is_late = self.limit.get_or_insert_with(Limit::new).timer.as_mut().poll(cx).is_ready();
                if !is_late {
                    return Poll::Pending;
                }
                self.body = None; // its client had its time
                Poll::Ready(Some(Err(SlowBody.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// The body of an answer.
struct Sent {
    body: Body,
    open: Arc<OpenRequest>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // until it asks for more, the connection waits for its client to take this frame
        self.open.is_at_work(!matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::ApiError;
    use crate::api::request::body::collect;
    use futures_util::stream::BoxStream;
    use futures_util::{Stream, StreamExt, stream};
    use tokio::time::sleep;

    async fn read(request: axum::extract::Request) -> Result<String, ApiError> {
        Ok(collect(request.into_body(), 1 << 20).await?.len().to_string())
    }

    /// The status and body of the answer to a request whose body comes in these pieces.
    async fn answer(pieces: impl Stream<Item = Bytes> + Send + Unpin + 'static) -> (u16, String, Duration) {
        let begun = Instant::now();
        let mut exchanges = Exchanges { app: Router::new().fallback(read), activity: Activity::new() };
        let request = Request::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)));
        let response = exchanges.call(request).await.unwrap();
        let (status, took) = (response.status().as_u16(), begun.elapsed());
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(exchanges.activity.is_idle(), "the request is over");
        (status, String::from_utf8(body.to_vec()).unwrap(), took)
    }

    /// A piece of so many bytes after each pause.
    fn trickle(bytes: usize, pause: Duration) -> impl Stream<Item = Bytes> + Send + Unpin {
        Box::pin(stream::repeat(bytes).then(move |bytes| async move {
            sleep(pause).await;
            Bytes::from(vec![b' '; bytes])
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_answered_early_is_read_within_limits() {
        let early = |request: Request<Body>| async move {
            let mut exchanges = Exchanges { app: Router::new().fallback(async || "early"), activity: Activity::new() };
            drop(exchanges.call(request).await.unwrap()); // answered, and sent
            let begun = Instant::now();
            while !exchanges.activity.is_idle() {
                sleep(Duration::from_millis(100)).await;
            }
            (begun.elapsed().as_secs(), exchanges.activity.waits_since().is_some())
        };
        let body = |pieces: BoxStream<'static, Bytes>| Body::from_stream(pieces.map(Ok::<_, Infallible>));
        let second = Duration::from_secs(1);
        assert_eq!(early(Request::new(body(trickle(1 << 20, second).take(8).boxed()))).await, (8, true));
        assert_eq!(early(Request::new(body(trickle(1, second).boxed()))).await, (UNWANTED_TIME_MAX.as_secs(), true));
        let silent = early(Request::new(body(stream::pending().boxed()))).await;
        assert_eq!(silent, (UNWANTED_SILENCE_MAX.as_secs(), true));
        let endless = trickle(8 << 20, second).boxed();
        assert_eq!(early(Request::new(body(endless))).await, (9, true), "{UNWANTED_BYTES_MAX} bytes and no more");
        let mut waits = Request::new(body(stream::pending().boxed()));
        waits.headers_mut().insert(EXPECT, "100-continue".parse().unwrap());
        assert_eq!(early(waits).await, (0, true), "it sends no body");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_or_trickles_is_answered_with_408_and_a_slow_one_is_read() {
        let (status, body, took) =
            answer(stream::once(async { Bytes::from("{") }).boxed().chain(stream::pending())).await;
        assert_eq!((status, took.as_secs()), (408, BODY_SILENCE_MAX.as_secs()), "{body}");
        assert!(body.contains("\"code\":\"body_timeout\"") && body.contains("nothing came for 30 s"), "{body}");
        let (status, body, took) = answer(trickle(1, Duration::from_secs(20))).await;
        assert_eq!((status, took.as_secs()), (408, BODY_TIME_MAX.as_secs()), "{body}");
        // 10 KiB a second for 100 s, as a slow uplink has
        let slow = trickle(10 << 10, Duration::from_secs(1)).take(100);
        assert_eq!(answer(slow).await.1, (1000 << 10).to_string());
        let late = trickle(400 << 10, Duration::from_secs(29)).take(2);
        assert_eq!(answer(late).await.1, (800 << 10).to_string());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_its_client_or_for_the_server() {
        let activity = Activity::new();
        let app = Router::new().fallback(async |request: axum::extract::Request| {
            let read = read(request).await;
            sleep(Duration::from_secs(1000)).await;
            read
        });
        let mut exchanges = Exchanges { app, activity: Arc::clone(&activity) };
        assert!(activity.waits_since().is_some(), "for a request");
        let pieces = trickle(1, Duration::from_secs(10)).take(2).map(Ok::<_, Infallible>);
        let answered = tokio::spawn(exchanges.call(Request::new(Body::from_stream(pieces))));
        sleep(Duration::from_secs(5)).await;
        assert!(activity.waits_since().is_some() && !activity.is_idle(), "for the body");
        sleep(Duration::from_secs(500)).await;
        assert_eq!(activity.waits_since(), None, "the server is at work");
        assert!(tokio::time::timeout(Duration::from_secs(400), activity.expired()).await.is_err());
        let mut body = answered.await.unwrap().unwrap().into_body().into_data_stream();
        body.next().await.unwrap().unwrap();
        assert!(activity.waits_since().is_some(), "for the client to take the answer");
        drop(body);
        let idle = Instant::now();
        activity.expired().await;
        assert!(activity.is_idle());
        assert_eq!(idle.elapsed(), super::super::activity::IDLE_MAX);
    }
}
