//! Kernels without a GPU: `.ci/kernels` compiles them as C++ into a program that runs one call
//! after the other, and tests compute with tensors on the CPU as if they lay on a GPU.

use super::call::{Call, Number};
use super::modules::source;
use crate::diffusion::u32_of;
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, bail};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

/// Names the program.
const PROGRAM: &str = "REMASK_HOST_KERNELS";

/// Bytes of shared memory that a block gets on the smallest GPU with tensor cores for bf16 (sm_86).
const SHARED_MAX: u32 = 99 * 1024;

/// What stands for the length of a null pointer.
const NULL: u32 = u32::MAX;

thread_local! {
    static SERVER: RefCell<Option<Child>> = const { RefCell::new(None) };
}

/// Runs a call in the program, which a test starts when it first needs it.
pub(super) fn run(call: &Call<'_>) -> Result<(CpuStorage, Shape)> {
    let (_, (shape, dtype)) = (source(&call.kernel)?, &call.output);
    if call.shared > SHARED_MAX {
        bail!("{} bytes of shared memory; a GPU grants {SHARED_MAX}", call.shared);
    }
    let length = shape.elem_count() * dtype.size_in_bytes();
    let bytes = SERVER.with_borrow_mut(|server| {
        if server.is_none() {
            let Some(program) = std::env::var_os(PROGRAM) else { bail!("{PROGRAM} names no program; see .ci/kernels") };
            *server = Some(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        }
        let Some(child) = server else { unreachable!() };
        child.stdin.as_mut().unwrap().write_all(&message(call, length)?)?;
        let mut bytes = vec![0; length];
        child.stdout.as_mut().unwrap().read_exact(&mut bytes)?;
        Ok(bytes)
    })?;
    let storage = match dtype {
        DType::F32 => {
            CpuStorage::F32(bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect())
        }
        DType::BF16 => {
            let half = |pair: &[u8]| half::bf16::from_le_bytes(pair.try_into().unwrap());
            CpuStorage::BF16(bytes.chunks_exact(2).map(half).collect())
        }
        other => bail!("an output in {other:?}"),
    };
    Ok((storage, shape.clone()))
}

/// The call in the words that `.ci/host/main.cpp` reads.
fn message(call: &Call<'_>, output: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut words = |words: &[u32], text: &[u8]| {
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(text);
    };
    words(&[u32_of(call.kernel.len())], call.kernel.as_bytes());
    let [x, y] = call.grid.map(u32_of);
    words(&[x, y, 1, call.threads, u32_of(call.inputs.len() + 1), u32_of(call.numbers.len())], &[]);
    for input in call.inputs {
        match input {
            None => words(&[NULL], &[]),
            Some(input) => {
                let content = content(input)?;
                words(&[u32_of(content.len())], &content);
            }
        }
    }
    words(&[u32_of(output)], &[]);
    for number in call.numbers {
        words(
            &[match number {
                Number::Word(word) => *word,
                Number::Float(float) => float.to_bits(),
            }],
            &[],
        );
    }
    Ok(bytes)
}

/// The memory behind a tensor, from its first number on.
fn content(tensor: &Tensor) -> Result<Vec<u8>> {
    let (storage, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("a tensor that is not on the CPU") };
    let from = layout.start_offset();
    Ok(match storage {
        CpuStorage::U32(numbers) => numbers[from..].iter().flat_map(|number| number.to_le_bytes()).collect(),
        CpuStorage::F32(numbers) => numbers[from..].iter().flat_map(|number| number.to_le_bytes()).collect(),
        CpuStorage::BF16(numbers) => numbers[from..].iter().flat_map(|number| number.to_le_bytes()).collect(),
        other => bail!("numbers in {other:?}"),
    })
}
