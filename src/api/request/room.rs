//! A limit on the bytes of all bodies that are being received or read: many clients that send long
//! bodies at once, or half of one, do not fill the memory. Short bodies need no room.

use crate::api::error::{ApiError, Code};
use crate::api::state::{AppState, BODIES_MAX};
use crate::diffusion::u32_of;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt, stream};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of a body that needs no room. Most requests have fewer.
const SHORT: usize = 64 << 10;
/// How long a body waits for room.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A body that found no room.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the server is receiving as many long bodies as it has memory for, and none of them ended within {} s; send \
     this one again later, or one of at most {} KiB now",
    WAIT_MAX.as_secs(), SHORT >> 10
)]
pub(crate) struct NoRoom;

impl NoRoom {
    /// This error, if that is what another one comes from.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<ApiError> {
        if error.is::<Self>() {
            return Some(ApiError::new(Code::BodiesFull, Self.to_string()));
        }
        Self::of(error.source()?)
    }
}

/// The room that a body has, until its answer begins.
type Place = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// Makes a long body wait for room once it is more than short.
pub(crate) async fn bound(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let declared = declared.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if declared.is_some_and(|length| length <= SHORT) {
        return next.run(request).await;
    }
    let most = declared.unwrap_or(usize::MAX).min(state.shared.body_max);
    let (place, room) = (Place::default(), Arc::clone(&state.shared.body_room));
    let received = |body: Body| Body::from_stream(waiting(body.into_data_stream(), room, most, Arc::clone(&place)));
    next.run(request.map(received)).await
}

/// The body, which waits for room for `most` bytes before it goes on to be long.
fn waiting(
    body: impl Stream<Item = Result<Bytes, axum::Error>> + Send + Unpin + 'static,
    room: Arc<Semaphore>,
    most: usize,
    place: Place,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    stream::unfold((body, 0_usize), move |(mut body, mut received)| {
        let (room, place) = (Arc::clone(&room), Arc::clone(&place));
        async move {
            let chunk = body.next().await?;
            received = received.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
            let has_place = || place.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if received > SHORT && !has_place() {
                let share = u32_of(most.clamp(1, BODIES_MAX));
                let Ok(Ok(permit)) = timeout(WAIT_MAX, room.acquire_many_owned(share)).await else {
                    return Some((Err(axum::Error::new(NoRoom)), (body, received)));
                };
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
            }
            Some((chunk, (body, received)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    fn chunks(count: usize) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + Unpin + 'static {
        stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[b' '; 1 << 10]))))
    }

    fn long(room: &Arc<Semaphore>, place: &Place) -> impl Stream<Item = Result<Bytes, axum::Error>> + use<> {
        Box::pin(waiting(chunks(100), Arc::clone(room), BODIES_MAX / 2 + 1, Arc::clone(place)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_body_has_room_until_its_place_is_given_up_and_another_waits() {
        let room = Arc::new(Semaphore::new(BODIES_MAX));
        let (first, second) = (Place::default(), Place::default());
        let bytes: Vec<Bytes> = long(&room, &first).try_collect().await.unwrap();
        assert_eq!(bytes.iter().map(Bytes::len).sum::<usize>(), 100 << 10);
        assert_eq!(room.available_permits(), BODIES_MAX / 2 - 1, "also once it has arrived");

        let refused = long(&room, &second).try_collect::<Vec<_>>().await.unwrap_err();
        let error = NoRoom::of(&refused).unwrap();
        assert_eq!((error.code, error.retry_after), (Code::BodiesFull, Some(5)));

        let waits = tokio::spawn(long(&room, &second).try_collect::<Vec<_>>());
        tokio::time::sleep(WAIT_MAX / 2).await;
        drop(first);
        assert_eq!(waits.await.unwrap().unwrap().len(), 100);
        drop(second);
        assert_eq!(room.available_permits(), BODIES_MAX);
    }

    #[tokio::test]
    async fn a_short_body_needs_none() {
        let (room, place) = (Arc::new(Semaphore::new(0)), Place::default());
        let body = Box::pin(waiting(chunks(64), room, 1 << 20, place));
        assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().len(), 64);
    }
}
