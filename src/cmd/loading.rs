//! Copies of a model for a server: one on each device, tried with a first pass, and loaded again
//! after a breakdown.

use super::model::{Loaded, ModelArgs};
use super::print::{chain, say};
use crate::engine::{Limits, Reload, warm_up};
use crate::model::{Device, ModelError, threads};
use anyhow::anyhow;

/// Tokens per thread of a pass on a CPU. Measured with two threads only: passes of 2,048 tokens do
/// at most 16 % more tokens per second than passes of 512 (`benches/RESULTS.md`), and each request
/// waits for all others of its pass.
const TOKENS_PER_THREAD: usize = 512;
/// Tokens of the first pass on a CPU, where the largest one may take minutes.
const WARM_UP_ON_CPU: usize = 64;

/// Most tokens of a pass on these devices, where no flag says it.
pub(super) fn batch_tokens_max(devices: &[Device]) -> usize {
    let most = Limits::default().batch_tokens_max;
    if devices.iter().any(|device| device.choose().0 == Device::Cpu) {
        (TOKENS_PER_THREAD * threads()).clamp(2 * TOKENS_PER_THREAD, most)
    } else {
        most
    }
}

/// Loads a copy of the model onto each device. One after the other: each needs memory of the host
/// while it is loaded, and the files come from the system's cache after the first one.
pub(super) fn load_all(model: &ModelArgs, batch_tokens_max: usize) -> anyhow::Result<Vec<(Device, Loaded)>> {
    let devices = model.devices();
    let load = |(number, device): (usize, &Device)| {
        if devices.len() > 1 {
            say(format_args!("remask: loading onto {device} ({} of {}) ...", number + 1, devices.len()));
        }
        Ok((*device, warm(model.load_on(*device)?, batch_tokens_max)?))
    };
    devices.iter().enumerate().map(load).collect()
}

/// A function that loads the same model onto the same device again.
pub(super) fn reload(model: &ModelArgs, device: Device, batch_tokens_max: usize) -> Reload {
    let model = model.clone();
    Box::new(move || {
        let loaded = model.load_on(device).and_then(|loaded| warm(loaded, batch_tokens_max));
        loaded.map(|loaded| loaded.model).map_err(|cause| chain(&cause))
    })
}

/// Runs a warm-up pass, on a GPU with the largest number of tokens.
fn warm(mut loaded: Loaded, batch_tokens_max: usize) -> anyhow::Result<Loaded> {
    let device = loaded.model.spec().device.clone();
    let tokens = if device == "cpu" { WARM_UP_ON_CPU } else { batch_tokens_max };
    let tokens = tokens.min(batch_tokens_max);
    warm_up(loaded.model.as_mut(), tokens).map_err(|cause| match cause {
        ModelError::OutOfMemory(cause) => {
            anyhow!("a pass of {tokens} tokens does not fit into {device} ({cause}); give a smaller --max-batch-tokens")
        }
        cause => anyhow!("the first pass on {device} failed: {cause}"),
    })?;
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_a_cpu_are_smaller_also_where_the_device_is_chosen() {
        let on_cpu = batch_tokens_max(&[Device::Cpu]);
        assert!((1024..=8192).contains(&on_cpu), "{on_cpu}");
        let chosen = batch_tokens_max(&[Device::Auto]);
        assert_eq!(chosen, if Device::Auto.choose().0 == Device::Cpu { on_cpu } else { 8192 });
        assert_eq!(batch_tokens_max(&[Device::Cuda(0), Device::Cuda(1)]), 8192);
        assert_eq!(batch_tokens_max(&[Device::Cuda(0), Device::Cpu]), on_cpu);
    }
}
