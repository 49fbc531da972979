//! Kernels without a GPU: `.ci/kernels` compiles them as C++ into a program that runs one call
//! after the other, and tests compute with tensors on the CPU as if they lay on a GPU.

use super::call::{Call, Number};
use super::modules::source;
use crate::diffusion::u32_of;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, bail};
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

/// Runs a call that makes a new tensor.
pub(super) fn make(call: &Call<'_>, shape: &Shape, dtype: DType) -> Result<CpuStorage> {
    let length = shape.elem_count() * dtype.size_in_bytes();
    let bytes = run(call, &message(call, Written::New(length))?, length)?;
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(floats(&bytes).collect()),
        DType::BF16 => CpuStorage::BF16(halves(&bytes).collect()),
        other => bail!("an output in {other:?}"),
    })
}

/// Runs a call that changes tensors.
pub(super) fn change(call: &Call<'_>, tensors: &[&Tensor]) -> Result<()> {
    let before = tensors.iter().map(|tensor| content(tensor)).collect::<Result<Vec<_>>>()?;
    let length = before.iter().map(Vec::len).sum();
    let after = run(call, &message(call, Written::Changed(&before))?, length)?;
    let mut after = &after[..];
    for (tensor, before) in tensors.iter().zip(before) {
        let (own, rest) = after.split_at(before.len());
        tensor.inplace_op1(&Changed(own))?;
        after = rest;
    }
    Ok(())
}

/// New content of a tensor, from its first number on.
struct Changed<'a>(&'a [u8]);

impl InplaceOp1 for Changed<'_> {
    fn name(&self) -> &'static str {
        "changed"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let from = layout.start_offset();
        match storage {
            CpuStorage::F32(numbers) => numbers[from..].iter_mut().zip(floats(self.0)).for_each(|(to, x)| *to = x),
            CpuStorage::BF16(numbers) => numbers[from..].iter_mut().zip(halves(self.0)).for_each(|(to, x)| *to = x),
            other => bail!("numbers in {other:?}"),
        }
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap()))
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = half::bf16> {
    bytes.chunks_exact(2).map(|pair| half::bf16::from_le_bytes(pair.try_into().unwrap()))
}

/// Runs a call in the program, which a test starts when it first needs it; the answer has so many
/// bytes.
fn run(call: &Call<'_>, message: &[u8], length: usize) -> Result<Vec<u8>> {
    source(&call.kernel)?;
    if call.shared > SHARED_MAX {
        bail!("{} bytes of shared memory; a GPU grants {SHARED_MAX}", call.shared);
    }
    SERVER.with_borrow_mut(|server| {
        if server.is_none() {
            let Some(program) = std::env::var_os(PROGRAM) else { bail!("{PROGRAM} names no program; see .ci/kernels") };
            *server = Some(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        }
        let Some(child) = server else { unreachable!() };
        child.stdin.as_mut().unwrap().write_all(message)?;
        let mut bytes = vec![0; length];
        child.stdout.as_mut().unwrap().read_exact(&mut bytes)?;
        Ok(bytes)
    })
}

/// What a kernel writes.
#[derive(Clone, Copy)]
enum Written<'a> {
    /// So many bytes.
    New(usize),
    /// Buffers, each of which has this content before.
    Changed(&'a [Vec<u8>]),
}

/// The call in the words that `.ci/host/main.cpp` reads.
fn message(call: &Call<'_>, written: Written<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut words = |words: &[u32], text: &[u8]| {
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(text);
    };
    let (outputs, changed) = match written {
        Written::New(_) => (1, 0),
        Written::Changed(buffers) => (buffers.len(), buffers.len()),
    };
    words(&[u32_of(call.kernel.len())], call.kernel.as_bytes());
    let [x, y] = call.grid.map(u32_of);
    let counts = [call.inputs.len() + outputs, call.numbers.len(), changed].map(u32_of);
    words(&[x, y, 1, call.threads], &[]);
    words(&counts, &[]);
    for input in call.inputs {
        match input {
            None => words(&[NULL], &[]),
            Some(input) => {
                let content = content(input)?;
                words(&[u32_of(content.len())], &content);
            }
        }
    }
    match written {
        Written::New(length) => words(&[u32_of(length)], &[]),
        Written::Changed(buffers) => buffers.iter().for_each(|content| words(&[u32_of(content.len())], content)),
    }
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
