//! Several replicas behind one queue: which one takes a sequence, what a breakdown of one does to
//! the others, and that no answer depends on which one computed it.

mod common;

use common::{Hand, Verdict, ask, failure, finished, llada_tiny_model, puppet, toy_tokenizer};
use remask::diffusion::TokenId;
use remask::engine::{
    Clock, Failure, Handle, Length, Limits, Origin, Prompt, Readiness, Rejected, Replica, Request, Restart, Session,
    Shortage, StartError, Task, start_replicas,
};
use remask::model::{Denoiser, ModelError, Toy};
use remask::telemetry::Metrics;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

type Fresh = Result<Box<dyn Denoiser>, String>;

/// Two replicas whose passes begin and end on command of the test.
struct Stage {
    handle: Handle,
    metrics: Arc<Metrics>,
    /// Reloaded models of each replica.
    fresh: [mpsc::Sender<Fresh>; 2],
    /// Whether the next read of the clock by the first replica panics.
    trap: Arc<AtomicBool>,
}

impl Stage {
    fn new(limits: Limits) -> (Self, [Hand; 2]) {
        let replica = |()| {
            let (model, hand) = puppet(Box::new(Toy::new()));
            let (fresh, loaded) = mpsc::channel::<Fresh>();
            let loaded = Mutex::new(loaded);
            let load = move || loaded.lock().unwrap().recv().unwrap();
            (Replica { model, restart: Restart::by(Box::new(load), Duration::ZERO) }, hand, fresh)
        };
        let [(a, hand_a, fresh_a), (b, hand_b, fresh_b)] = [(), ()].map(replica);
        let (metrics, trap) = (Arc::new(Metrics::new().unwrap()), Arc::new(AtomicBool::new(false)));
        let clock = Clock::of({
            let trap = Arc::clone(&trap);
            move || {
                let is_first = std::thread::current().name() == Some("remask-model-0");
                assert!(!(is_first && trap.swap(false, Ordering::SeqCst)), "told to");
                Instant::now()
            }
        });
        let tokenizer = Some(toy_tokenizer());
        let handle = start_replicas(clock, vec![a, b], tokenizer, limits, metrics.model("toy").unwrap()).unwrap();
        (Self { handle, metrics, fresh: [fresh_a, fresh_b], trap }, [hand_a, hand_b])
    }

    /// `new` passes, by an anonymous caller; a row has the prompt's letters and `new` tokens.
    fn ask(&self, prompt: &str, new: usize) -> Session {
        self.handle.submit(&ask(prompt, new)).unwrap()
    }

    fn ask_of(&self, key: u8, prompt: &str, new: usize) -> Session {
        self.handle.submit(&Request { origin: Some(Origin::new(Some([key; 32]))), ..ask(prompt, new) }).unwrap()
    }

    fn has(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|other| other == line)
    }

    /// Waits until the metrics have this line.
    fn until(&self, line: &str) {
        let begun = Instant::now();
        while !self.has(line) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{line} never came:\n{}", self.metrics.render());
            std::thread::yield_now();
        }
    }
}

/// One row of a few tokens fits into a pass.
fn one_row() -> Limits {
    Limits { batch_tokens_max: 1, ..Limits::default() }
}

async fn all(sessions: impl IntoIterator<Item = Session>) {
    for session in sessions {
        finished(session).await;
    }
}

#[tokio::test]
async fn the_replica_with_the_fewest_tokens_takes_what_comes() {
    let (stage, [first, second]) = Stage::new(Limits::default());
    let mut sessions = vec![stage.ask("aaaaaaaaaaaa", 8)]; // 20 tokens
    assert_eq!(first.begun(), ["aaaaaaaaaaaa"], "the first of two without work");
    sessions.push(stage.ask("b", 5)); // 6 tokens
    assert_eq!(second.begun(), ["b"], "the one without work");
    sessions.extend(["c", "d", "e", "f"].map(|prompt| stage.ask(prompt, 5)));
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["aaaaaaaaaaaa"], "the other one has fewer tokens, and takes them next");
    second.end(Verdict::Read);
    assert_eq!(second.begun(), ["b", "c", "d", "e"], "until it has more");
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["aaaaaaaaaaaa", "f"]);
    drop((first, second));
    all(sessions).await;
}

#[tokio::test]
async fn nothing_waits_for_the_second_pass_of_a_busy_replica() {
    let (stage, [first, second]) = Stage::new(Limits::default());
    let mut sessions = vec![stage.ask("aaaaaaaaaaaa", 8)];
    first.begun();
    sessions.push(stage.ask("b", 5));
    second.begun();
    sessions.extend(["c", "d"].map(|prompt| stage.ask(prompt, 5)));
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["aaaaaaaaaaaa"]);
    first.end(Verdict::Read); // and the second replica is still in the same pass
    assert_eq!(first.begun(), ["aaaaaaaaaaaa", "c", "d"]);
    drop((first, second));
    all(sessions).await;
}

#[tokio::test]
async fn a_replica_without_work_takes_over_what_waits_behind_a_pass_of_another() {
    let (stage, [first, second]) = Stage::new(one_row());
    let mut sessions = vec![stage.ask("a", 3)];
    assert_eq!(first.begun(), ["a"]);
    sessions.push(stage.ask("bbb", 1));
    assert_eq!(second.begun(), ["bbb"]);
    sessions.extend([stage.ask("c", 3), stage.ask("ddd", 1)]);
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a"], "c is its own, too, and does not fit beside it");
    second.end(Verdict::Read);
    assert_eq!(second.pass(), ["ddd"], "from the queue");
    assert_eq!(second.begun(), ["c"], "from the other one, while that computes a");
    drop((first, second));
    all(sessions).await;
}

#[tokio::test]
async fn a_replica_gives_half_of_its_work_to_one_without_any() {
    let (stage, [first, second]) = Stage::new(Limits::default());
    let mut sessions = vec![stage.ask("a", 3)];
    first.begun();
    sessions.push(stage.ask("bbb", 1));
    second.begun();
    sessions.push(stage.ask("c", 3));
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a", "c"]);
    second.end(Verdict::Read);
    stage.until("remask_sequences_running{device=\"cpu:1\",model=\"toy\"} 0");
    first.end(Verdict::Read);
    // the second one may take c before the first one's next turn, or be given it then
    let mut passes = [first.begun(), second.begun()].concat();
    passes.sort();
    assert_eq!(passes, ["a", "c"]);
    drop((first, second));
    all(sessions).await;
}

#[tokio::test]
async fn callers_take_turns_over_all_replicas() {
    let (stage, hands) = Stage::new(Limits { running_max: 1, ..Limits::default() });
    let mut sessions: Vec<Session> = (0..9).map(|_| stage.ask_of(1, "a", 1)).collect();
    hands.iter().for_each(|hand| assert_eq!(hand.begun(), ["a"]));
    for (key, prompt) in [(2, "b"), (3, "c"), (2, "b"), (3, "c"), (2, "b"), (3, "c")] {
        sessions.push(stage.ask_of(key, prompt, 1));
    }
    let mut starts = String::new();
    for number in [0, 1, 1, 1, 0, 1, 0, 0] {
        hands[number].end(Verdict::Read);
        starts.push_str(&hands[number].begun().concat());
    }
    // each time the caller whose turn it is, of those without a place on either replica
    assert_eq!(starts, "bcacabca");
    drop(hands);
    all(sessions).await;
}

#[tokio::test]
async fn a_caller_gives_up_a_place_to_one_that_has_none_on_any_replica() {
    let (stage, [first, second]) = Stage::new(Limits { running_max: 1, ..Limits::default() });
    let mut sessions = vec![stage.ask_of(1, "a", 3), stage.ask_of(1, "a", 3)];
    assert_eq!((first.begun(), second.begun()), (vec!["a".to_owned()], vec!["a".to_owned()]));
    sessions.extend((0..2).map(|_| stage.ask_of(2, "b", 3)));
    second.end(Verdict::Read);
    assert_eq!(second.begun(), ["b"], "a had two places");
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a"], "it keeps its last one, since b has a place on the other replica");
    drop((first, second));
    all(sessions).await;
}

#[tokio::test]
async fn while_one_is_broken_the_other_goes_on_with_its_sequences() {
    let (stage, [first, second]) = Stage::new(one_row());
    let a = stage.ask("a", 3);
    first.begun();
    let b = stage.ask("b", 3);
    second.begun();
    let [c, d] = ["c", "d"].map(|prompt| stage.ask(prompt, 3));
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a"], "c comes after it");
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["c"]);
    first.end(Verdict::Panic);
    assert_eq!(failure(c).await, Failure::Model(ModelError::Panicked), "it was in the pass");
    assert_eq!(stage.handle.readiness(), Readiness::Ready, "the other one serves");
    assert!(stage.has("remask_device_ready{device=\"cpu:0\",model=\"toy\"} 0"));
    assert!(stage.has("remask_device_ready{device=\"cpu:1\",model=\"toy\"} 1"));
    drop(second);
    assert_eq!([finished(a).await.steps, finished(b).await.steps, finished(d).await.steps], [3; 3]);
    for line in [
        "remask_model_restarts_total{device=\"cpu:0\",model=\"toy\"} 1",
        "remask_model_restarts_total{device=\"cpu:1\",model=\"toy\"} 0",
    ] {
        assert!(stage.has(line), "{line}");
    }
    let (model, hand) = puppet(Box::new(Toy::new()));
    stage.fresh[0].send(Ok(model)).unwrap();
    stage.until("remask_device_ready{device=\"cpu:0\",model=\"toy\"} 1");
    let e = stage.ask("e", 3);
    assert_eq!(hand.begun(), ["e"], "the reloaded model serves again");
    drop(hand);
    finished(e).await;
}

#[tokio::test]
async fn one_that_is_given_up_leaves_the_other_and_the_last_one_ends_it_all() {
    let (stage, [first, second]) = Stage::new(Limits { running_max: 1, queue_max: 1, ..Limits::default() });
    let a = stage.ask("a", 1);
    first.begun();
    let b = stage.ask("b", 2);
    second.begun();
    let c = stage.ask("c", 2);
    assert!(matches!(
        stage.handle.submit(&ask("d", 1)),
        Err(Rejected::Full { shortage: Shortage::OfAll { taken: 3, limit: 3, .. }, .. })
    ));
    stage.fresh[0].send(Err("the device is gone".to_owned())).unwrap();
    first.end(Verdict::Panic);
    assert_eq!(failure(a).await, Failure::Model(ModelError::Panicked));
    let begun = Instant::now();
    while !matches!(
        stage.handle.admit(&ask("d", 1)),
        Err(Rejected::Full { shortage: Shortage::OfAll { taken: 2, limit: 2, .. }, .. })
    ) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the place of the lost replica is still one");
        std::thread::yield_now();
    }
    assert_eq!(stage.handle.readiness(), Readiness::Ready);
    second.end(Verdict::Read);
    assert_eq!(second.begun(), ["b"]);
    stage.fresh[1].send(Err("this one, too".to_owned())).unwrap();
    second.end(Verdict::Panic);
    assert_eq!(failure(b).await, Failure::Model(ModelError::Panicked));
    assert_eq!(failure(c).await, Failure::BrokeDown, "nothing is left to run it");
    stage.handle.given_up().await;
    assert_eq!(stage.handle.readiness(), Readiness::GivenUp);
    assert_eq!(stage.handle.submit(&ask("e", 1)).unwrap_err(), Rejected::GivenUp);
    assert_eq!(stage.handle.drain(Duration::from_secs(60)).await, 0);
}

#[tokio::test]
async fn a_panic_of_one_worker_is_told_to_those_on_its_replica_only() {
    let (stage, [first, second]) = Stage::new(one_row());
    let a = stage.ask("a", 3);
    first.begun();
    let b = stage.ask("b", 3);
    second.begun();
    let [c, d] = ["c", "d"].map(|prompt| stage.ask(prompt, 3));
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a"], "c is parked there, and d still waits");
    stage.trap.store(true, Ordering::SeqCst);
    first.end(Verdict::Read);
    assert_eq!([failure(a).await, failure(c).await], [Failure::BrokeDown, Failure::BrokeDown]);
    drop(second);
    assert_eq!([finished(b).await.steps, finished(d).await.steps], [3, 3]);
}

/// One sequence of two passes on each replica, and one that is queued.
fn busy() -> (Stage, [Hand; 2], [Session; 3]) {
    let (stage, hands) = Stage::new(Limits { running_max: 1, ..Limits::default() });
    let a = stage.ask("a", 2);
    hands[0].begun();
    let b = stage.ask("b", 2);
    hands[1].begun();
    let c = stage.ask("c", 2);
    (stage, hands, [a, b, c])
}

#[tokio::test]
async fn a_drain_waits_for_all_replicas() {
    let (stage, hands, sessions) = busy();
    let handle = stage.handle.clone();
    let drained = tokio::spawn(async move { handle.drain(Duration::from_secs(3600)).await });
    tokio::task::yield_now().await; // the drain begins
    assert_eq!(stage.handle.readiness(), Readiness::Draining);
    drop(hands);
    assert_eq!(drained.await.unwrap(), 0);
    all(sessions).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_out_of_patience_ends_the_work_of_all_replicas() {
    let (stage, hands, sessions) = busy();
    let handle = stage.handle.clone();
    let drained = tokio::spawn(async move { handle.drain(Duration::ZERO).await });
    tokio::task::yield_now().await; // the drain begins
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await; // and gives up
    drop(hands);
    assert_eq!(drained.await.unwrap(), 3);
    for session in sessions {
        assert_eq!(failure(session).await, Failure::ShutDown);
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_dropped_wherever_its_sequence_is() {
    let (stage, [first, second]) = Stage::new(Limits { running_max: 1, ..Limits::default() });
    let a = stage.ask("a", 2);
    first.begun();
    let b = stage.ask("b", 2);
    second.begun();
    let c = stage.ask("c", 2);
    drop((b, c)); // in a pass of the second replica, and queued
    first.end(Verdict::Read);
    assert_eq!(first.begun(), ["a"]);
    assert!(stage.has("remask_sequences_cancelled_total{model=\"toy\"} 1"));
    second.end(Verdict::Read);
    drop((first, second));
    finished(a).await;
    let d = stage.ask("d", 2);
    finished(d).await;
    stage.until("remask_sequences_cancelled_total{model=\"toy\"} 2");
}

#[tokio::test]
async fn an_answer_depends_on_its_request_alone() {
    let engine = |count: usize| {
        let replica = |_| Replica { model: llada_tiny_model(), restart: Restart::never() };
        let (replicas, limits) = ((0..count).map(replica).collect(), Limits { running_max: 3, ..Limits::default() });
        start_replicas(Clock::system(), replicas, None, limits, Metrics::new().unwrap().model("toy").unwrap()).unwrap()
    };
    let request = |number: u32| {
        let ids = (1..=3 + number % 5).map(TokenId).collect();
        let task = Task::Continue { prompt: Prompt::Tokens(ids), length: Length::New(4 + number as usize % 7) };
        Request { temperature: 1.0, seed: Some(u64::from(number)), ..Request::new(task) }
    };
    let (single, several) = (engine(1), engine(3));
    assert_eq!((single.spec().device.as_str(), several.spec().device.as_str()), ("cpu", "cpu,cpu,cpu"));
    for handle in [&several, &several] {
        let sessions = |handle: &Handle| (0..24).map(|n| handle.submit(&request(n)).unwrap()).collect::<Vec<_>>();
        for (a, b) in sessions(&single).into_iter().zip(sessions(handle)) {
            assert_eq!(finished(a).await, finished(b).await);
        }
    }
}

#[test]
fn replicas_of_different_models_are_refused() {
    let replica = |model| Replica { model, restart: Restart::never() };
    let start = |replicas| {
        start_replicas(
            Clock::system(),
            replicas,
            None,
            Limits::default(),
            Metrics::new().unwrap().model("toy").unwrap(),
        )
    };
    let told = start(vec![replica(Box::new(Toy::new())), replica(llada_tiny_model())]).unwrap_err();
    assert!(matches!(told, StartError::Differ { .. }), "{told}");
    assert!(matches!(start(Vec::new()).unwrap_err(), StartError::NoReplica));
}
