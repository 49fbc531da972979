//! A model that fails for good: which sessions fail, which continue on a reloaded model, and when
//! the engine gives up.

mod common;

use common::{Hand, Verdict, ask, failure, finished, puppet, toy_tokenizer};
use remask::engine::{Clock, Failure, Handle, Limits, Readiness, Rejected, Restart, Session, World, start_by};
use remask::model::{Denoiser, ModelError, Toy};
use remask::telemetry::Metrics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// An engine that takes its reloaded models and its clock from the test.
struct Stage {
    handle: Handle,
    metrics: Arc<Metrics>,
    fresh: mpsc::Sender<Result<Box<dyn Denoiser>, String>>,
    seconds: Arc<AtomicU64>,
    /// Number of the engine's next reads of the clock that panic.
    traps: Arc<AtomicU64>,
}

impl Stage {
    /// One row of a few tokens fits into a pass.
    fn new() -> (Self, Hand) {
        let (model, hand) = puppet(Box::new(Toy::new()));
        let (fresh, loaded) = mpsc::channel();
        let loaded = Mutex::new(loaded);
        let load = move || loaded.lock().unwrap().recv().unwrap();
        let (seconds, traps) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let clock = Clock::of({
            let (begun, seconds, traps) = (Instant::now(), Arc::clone(&seconds), Arc::clone(&traps));
            move || {
                let is_engine = std::thread::current().name() == Some("remask-model");
                let is_trapped =
                    || traps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                assert!(!(is_engine && is_trapped()), "told to");
                begun + Duration::from_secs(seconds.load(Ordering::SeqCst))
            }
        });
        let world = World { clock, restart: Restart::by(Box::new(load), Duration::ZERO) };
        let metrics = Arc::new(Metrics::new().unwrap());
        let limits = Limits { batch_tokens_max: 1, ..Limits::default() };
        let handle = start_by(world, model, Some(toy_tokenizer()), limits, metrics.model("toy").unwrap()).unwrap();
        (Self { handle, metrics, fresh, seconds, traps }, hand)
    }

    fn ask(&self, prompt: &str) -> Session {
        self.handle.submit(&ask(prompt, 3)).unwrap()
    }

    /// Two sessions that have been in a pass, the first of them in a pass that is still running.
    fn amid(&self, hand: &Hand) -> (Session, Session) {
        let a = self.ask("a");
        assert_eq!(hand.begun(), ["a"]);
        let b = self.ask("b"); // it arrives before the next pass is chosen
        hand.end(Verdict::Read);
        assert_eq!([hand.pass(), hand.pass(), hand.begun()].concat(), ["a", "b", "a"]);
        (a, b)
    }

    /// The model that the engine waits for.
    fn give_fresh(&self) -> Hand {
        let (model, hand) = puppet(Box::new(Toy::new()));
        self.fresh.send(Ok(model)).unwrap();
        hand
    }

    fn has_restarted_once(&self) -> bool {
        self.metrics.render().contains("remask_model_restarts_total{device=\"cpu\",model=\"toy\"} 1")
    }
}

#[tokio::test]
async fn who_shared_no_pass_with_a_panic_goes_on_with_a_fresh_model() {
    let (stage, hand) = Stage::new();
    let (a, b) = stage.amid(&hand);
    hand.end(Verdict::Panic);
    assert_eq!(failure(a).await, Failure::Model(ModelError::Panicked));
    assert_eq!(stage.handle.readiness(), Readiness::Restarting);
    let c = stage.ask("c"); // it may wait as well
    let hand = stage.give_fresh();
    assert_eq!(hand.begun(), ["b"], "where it was: its canvas is not the model's");
    assert_eq!(stage.handle.readiness(), Readiness::Ready);
    drop(hand);
    assert_eq!((finished(b).await.steps, finished(c).await.steps), (3, 3));
    assert!(stage.has_restarted_once());
}

#[tokio::test]
async fn a_second_breakdown_soon_after_is_the_last_and_later_it_is_a_first() {
    for (seconds, is_forgiven) in [(599, false), (601, true)] {
        let (stage, hand) = Stage::new();
        let a = stage.ask("a");
        hand.begun();
        hand.end(Verdict::Panic);
        failure(a).await;
        let hand = stage.give_fresh();
        let [b, c] = ["b", "c"].map(|prompt| stage.ask(prompt));
        assert_eq!(hand.begun(), ["b"], "the model was loaded anew");
        stage.seconds.store(seconds, Ordering::SeqCst);
        hand.end(Verdict::Panic);
        assert_eq!(failure(b).await, Failure::Model(ModelError::Panicked));
        if is_forgiven {
            drop(stage.give_fresh());
            assert_eq!(finished(c).await.steps, 3);
        } else {
            assert_eq!(failure(c).await, Failure::BrokeDown);
            stage.handle.given_up().await;
            assert_eq!(stage.handle.readiness(), Readiness::GivenUp);
            assert_eq!(stage.handle.drain(Duration::from_secs(60)).await, 0);
        }
    }
}

#[tokio::test]
async fn three_failures_in_a_row_are_a_breakdown_and_a_canvas_without_room_is_none() {
    let (stage, hand) = Stage::new();
    for verdict in [Verdict::Fail, Verdict::Fail, Verdict::NoRoom, Verdict::NoRoom, Verdict::Fail] {
        assert_eq!(stage.handle.readiness(), Readiness::Ready);
        let a = stage.ask("a");
        hand.begun();
        hand.end(verdict);
        failure(a).await;
    }
    assert_eq!(stage.handle.readiness(), Readiness::Restarting);
    let b = stage.ask("b");
    drop(stage.give_fresh());
    assert_eq!(finished(b).await.steps, 3);
}

#[tokio::test]
async fn a_panic_of_the_engine_itself_is_told_to_everybody() {
    let (stage, hand) = Stage::new();
    let (a, b) = stage.amid(&hand);
    stage.traps.store(1, Ordering::SeqCst);
    hand.end(Verdict::Read);
    assert_eq!([failure(a).await, failure(b).await], [Failure::BrokeDown, Failure::BrokeDown]);
    let c = stage.ask("c");
    drop(stage.give_fresh());
    assert_eq!(finished(c).await.steps, 3);
}

#[tokio::test]
async fn an_engine_that_panics_while_it_speaks_of_a_panic_is_given_up() {
    let (stage, hand) = Stage::new();
    let (a, b) = stage.amid(&hand);
    stage.traps.store(2, Ordering::SeqCst);
    hand.end(Verdict::Read);
    assert_eq!([failure(a).await, failure(b).await], [Failure::BrokeDown, Failure::BrokeDown]);
    let is_told = tokio::time::timeout(Duration::from_secs(60), stage.handle.given_up()).await;
    assert!(is_told.is_ok(), "it is waited for without end");
    assert_eq!(stage.handle.readiness(), Readiness::GivenUp);
    assert_eq!(stage.handle.submit(&ask("c", 2)).unwrap_err(), Rejected::GivenUp);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_anew_is_given_up() {
    for _ in 0..20 {
        let (stage, hand) = Stage::new();
        let [a, b] = ["a", "b"].map(|prompt| stage.ask(prompt));
        hand.begun();
        hand.end(Verdict::Panic);
        failure(a).await;
        stage.fresh.send(Err("the disk is gone".to_owned())).unwrap();
        assert_eq!(failure(b).await, Failure::BrokeDown);
        stage.handle.given_up().await;
        assert_eq!(stage.handle.submit(&ask("c", 2)).unwrap_err(), Rejected::GivenUp);
    }
}
