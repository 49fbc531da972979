//! Starts the engine: a worker for each replica of the model, and the handle that all clients use.

use super::admission::Admission;
use super::clock::Clock;
use super::delivery::Delivery;
use super::dispatch::Dispatcher;
use super::handle::{Handle, Open};
use super::pool::Pool;
use super::restart::{Restart, World};
use super::shared::{Limits, ReplicaState, Shared};
use super::tick::Engine;
use super::worker::Worker;
use crate::model::{Denoiser, ModelSpec};
use crate::telemetry::ModelMetrics;
use crate::text::Tokenizer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::{io, thread};

/// A copy of the model with a thread of its own, usually on a device of its own.
#[derive(Debug)]
pub struct Replica {
    /// The model.
    pub model: Box<dyn Denoiser>,
    /// What happens when it fails.
    pub restart: Restart,
}

/// Why the engine cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no replica.
    #[error("there is no model to serve; give one replica at least")]
    NoReplica,
    /// The replicas are not copies of one model.
    #[error("the models of the devices differ: {first:?} and {other:?}; replicas are copies of one model")]
    Differ {
        /// What the first one offers.
        first: Box<ModelSpec>,
        /// What another one offers.
        other: Box<ModelSpec>,
    },
    /// The operating system cannot start a thread.
    #[error("a thread for a model cannot be started")]
    Thread(#[from] io::Error),
}

/// Starts the engine on its own thread, with one model.
///
/// # Errors
/// When the operating system cannot start a thread.
pub fn start(
    model: Box<dyn Denoiser>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<ModelMetrics>,
) -> Result<Handle, StartError> {
    start_by(Clock::system(), model, tokenizer, limits, metrics)
}

/// Like [`start`], with another clock than the system's, or with a way to reload the model.
///
/// # Errors
/// As [`start`].
pub fn start_by(
    world: impl Into<World>,
    model: Box<dyn Denoiser>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<ModelMetrics>,
) -> Result<Handle, StartError> {
    let World { clock, restart } = world.into();
    start_replicas(clock, vec![Replica { model, restart }], tokenizer, limits, metrics)
}

/// Starts the engine with several copies of one model, each on a thread of its own. They share one
/// queue, from which the one with the fewest tokens takes the next sequence. The handle's
/// [`ModelSpec::device`] names all devices, separated by commas.
///
/// # Errors
/// When there is no replica, when their models differ in more than the device, or when the
/// operating system cannot start a thread.
pub fn start_replicas(
    clock: Clock,
    replicas: Vec<Replica>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<ModelMetrics>,
) -> Result<Handle, StartError> {
    let devices: Vec<String> = replicas.iter().map(|replica| replica.model.spec().device.clone()).collect();
    let mut specs =
        replicas.iter().map(|replica| ModelSpec { device: devices.join(","), ..replica.model.spec().clone() });
    let spec = specs.next().ok_or(StartError::NoReplica)?;
    if let Some(other) = specs.find(|other| *other != spec) {
        return Err(StartError::Differ { first: Box::new(spec), other: Box::new(other) });
    }
    drop(specs);
    let limits = Limits { running_max: limits.running_max.max(1), ..limits };
    let canvas_max = limits.canvas_max.map_or(spec.canvas_max, |max| max.min(spec.canvas_max));
    let shared = Arc::new(Shared {
        dispatcher: Dispatcher::new(Pool::new(replicas.len(), limits.running_max)),
        replicas: replicas.iter().map(|_| ReplicaState::default()).collect(),
        draining: AtomicBool::new(false),
        next_id: AtomicU64::new(0),
        metrics,
    });
    let delivery = Delivery::start(Arc::clone(&shared.metrics), clock.clone())?;
    let open = Arc::new(Open(Arc::clone(&shared))); // without it the workers end
    let is_single = devices.len() == 1;
    for ((number, replica), device) in replicas.into_iter().enumerate().zip(labels(&devices)) {
        let Replica { model, restart } = replica;
        let engine = Engine::new(model, limits.batch_tokens_max);
        let (shared, clock, delivery) = (Arc::clone(&shared), clock.clone(), delivery.clone());
        let worker = Worker::new(number, device, engine, restart, clock, delivery, shared);
        // Linux shows 15 bytes
        let name = if is_single { "remask-model".to_owned() } else { format!("remask-model-{number}") };
        thread::Builder::new().name(name).spawn(move || worker.work())?;
    }
    let admission = Arc::new(Admission::new(Arc::new(spec), tokenizer, canvas_max, limits.batch_tokens_max));
    Ok(Handle { admission, occupancy: Arc::default(), limits, clock, shared, _open: open })
}

/// The name of each replica's device in metrics and logs. Where several replicas share a device, a
/// number follows: `cpu:0` and `cpu:1`.
fn labels(devices: &[String]) -> Vec<String> {
    let label = |(number, device): (usize, &String)| {
        let same = |others: &[String]| others.iter().filter(|other| *other == device).count();
        if same(devices) > 1 { format!("{device}:{}", same(&devices[..number])) } else { device.clone() }
    };
    devices.iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_has_a_name_of_its_own() {
        let labels_of =
            |devices: &[&str]| labels(&devices.iter().map(|device| (*device).to_owned()).collect::<Vec<_>>());
        assert_eq!(labels_of(&["cpu"]), ["cpu"]);
        assert_eq!(labels_of(&["cpu", "cpu"]), ["cpu:0", "cpu:1"]);
        assert_eq!(labels_of(&["cuda:0", "cuda:3"]), ["cuda:0", "cuda:3"]);
    }
}
