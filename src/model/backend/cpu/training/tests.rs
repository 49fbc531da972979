//! The operations against the library's, whose gradients it derives itself; and their gradients
//! against finite differences.

use super::*;
use candle_core::{D, Device, Var};
use candle_nn::{ops, rotary_emb};

/// Numbers between -2 and 2.
fn random(shape: &[usize], seed: u64) -> Var {
    let mut generator = rand_philox::Philox::from_u64_seed(seed);
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| generator.next_u32() as f32 / u32::MAX as f32 * 4.0 - 2.0).collect();
    Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn near(ours: &Tensor, library: &Tensor) {
    let [a, b] = [ours, library].map(numbers);
    let close = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 2e-5 * (1.0 + b.abs()));
    assert!(a.len() == b.len() && close, "{a:?}\n{b:?}");
}

/// Checks a value and its gradients: `gradients` are ours, from the gradient of the result.
#[track_caller]
fn check(inputs: &[&Var], ours: &Tensor, gradients: impl Fn(&Tensor) -> Vec<Tensor>, library: Result<Tensor>) {
    let library = library.unwrap();
    near(ours, &library);
    let grad = random(ours.dims(), 99);
    let store = (library * grad.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = gradients(grad.as_tensor());
    assert_eq!(gradients.len(), inputs.len());
    inputs.iter().zip(gradients).for_each(|(input, ours)| near(&ours, store.get(input).unwrap()));
}

#[test]
fn norms_and_swiglu_are_the_librarys_and_so_are_their_gradients() -> Result<()> {
    let (x, y, gain) = (random(&[7, 37], 1), random(&[7, 37], 2), random(&[37], 3));
    let of = Normed { x: &x, gain: &gain, eps: 1e-5 };
    let gradients = |grad: &Tensor| {
        let (of_x, of_gain) = Cpu.rms_norm_gradients(&of, grad, None, true).unwrap();
        vec![of_x, of_gain.unwrap()]
    };
    let library = ops::rms_norm_slow(&x, &gain, 1e-5);
    check(&[&x, &gain], &Cpu.rms_norm(&x, &gain, 1e-5, DType::F32)?, gradients, library);
    let grad = random(&[7, 37], 4);
    let alone = Cpu.rms_norm_gradients(&of, &grad, None, false)?.0;
    near(&Cpu.rms_norm_gradients(&of, &grad, Some(&y), false)?.0, &(alone + y.as_tensor())?);
    let gradients = |grad: &Tensor| Cpu.swiglu_gradients(&x, &y, grad).unwrap().to_vec();
    check(&[&x, &y], &Cpu.swiglu(&x, &y)?, gradients, x.silu()? * y.as_tensor());
    Ok(())
}

#[test]
fn rotations_are_the_librarys_and_turning_back_is_their_gradient() -> Result<()> {
    let (tokens, heads, d) = (5, 3, 8);
    let x = random(&[tokens, heads * d], 1);
    let angles = random(&[tokens, d / 2], 2);
    let angles = Angles { cos: angles.cos()?, sin: angles.sin()? };
    let library = x.reshape((1, tokens, heads, d))?.transpose(1, 2)?.contiguous()?;
    let library = rotary_emb::rope_slow(&library, &angles.cos, &angles.sin)?.transpose(1, 2)?;
    let gradients = |grad: &Tensor| vec![Cpu.rotated(grad, d, &angles, true).unwrap()];
    check(&[&x], &Cpu.rotated(&x, d, &angles, false)?, gradients, library.reshape((tokens, heads * d)));
    Ok(())
}

/// Attention of one row by the library's operations.
fn plain_attention(qkv: [&Tensor; 3], d: usize) -> Result<Tensor> {
    let (length, width) = qkv[0].dims2()?;
    let heads = width / d;
    let of = |x: &Tensor| {
        let count = x.dim(1)? / d;
        let x = x.reshape((length, count, 1, d))?.broadcast_as((length, count, heads / count, d))?;
        x.reshape((length, heads, d))?.transpose(0, 1)?.contiguous()
    };
    let [q, k, v] = [of(qkv[0])?, of(qkv[1])?, of(qkv[2])?];
    let shares = ops::softmax(&(q.matmul(&k.transpose(1, 2)?)? / (d as f64).sqrt())?, D::Minus1)?;
    shares.matmul(&v)?.transpose(0, 1)?.reshape((length, width))
}

#[test]
fn attention_of_rows_of_different_lengths_is_that_of_each_row_and_so_are_its_gradients() -> Result<()> {
    for (heads, kv_heads, d, lengths) in [(2, 2, 8, &[5usize, 5, 3][..]), (4, 2, 4, &[1, 7, 2]), (3, 1, 6, &[4])] {
        let tokens = lengths.iter().sum();
        let [q, k, v] =
            [(heads, 1), (kv_heads, 2), (kv_heads, 3)].map(|(count, seed)| random(&[tokens, count * d], seed));
        let rows = Cpu.lay_out_rows(lengths)?;
        let attended = Cpu.attended([&q, &k, &v], d, &rows)?;
        let mut first = 0;
        let each = lengths.iter().map(|length| {
            let part = |x: &Var| x.narrow(0, first, *length);
            let mixed = plain_attention([&part(&q)?, &part(&k)?, &part(&v)?], d);
            first += length;
            mixed
        });
        let library = Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0);
        let gradients =
            |grad: &Tensor| Cpu.attended_gradients([&q, &k, &v], d, &rows, &attended, grad).unwrap().to_vec();
        check(&[&q, &k, &v], &attended.mixed, gradients, library);
    }
    Ok(())
}

#[test]
fn cross_entropy_and_rows_by_index_are_the_librarys_and_so_are_their_gradients() -> Result<()> {
    let x = random(&[7, 37], 1);
    let (tokens, weights) = ([3u32, 0, 36, 5, 5, 9, 20], [0.5f32, 1.0, 0.0, 2.0, 0.1, 3.0, 1.0]);
    let targets =
        Targets { tokens: Tensor::new(&tokens, &Device::Cpu)?, weights: Tensor::new(&weights, &Device::Cpu)? };
    let terms = ops::log_softmax(&x, 1)?.gather(&targets.tokens.unsqueeze(1)?, 1)?.reshape(7)?.neg()?;
    let sums = numbers(&Cpu.cross_entropy(&x, &targets)?);
    let right = x.argmax(1)?.to_vec1::<u32>()?.iter().zip(tokens).filter(|(best, token)| **best == *token).count();
    assert!((sums[1] - terms.sum_all()?.to_scalar::<f32>()?).abs() < 1e-4 && sums[2] as usize == right, "{sums:?}");
    let weighted = (terms * &targets.weights)?.sum_all()?;
    let gradients = |grad: &Tensor| vec![Cpu.cross_entropy_gradient(&x, &targets, grad.to_scalar().unwrap()).unwrap()];
    check(&[&x], &Tensor::new(sums[0], &Device::Cpu)?, gradients, Ok(weighted));

    let index = [2u32, 0, 2, 1, 2];
    let taken = x.index_select(&Tensor::new(&index, &Device::Cpu)?, 0)?;
    let gradients = |grad: &Tensor| vec![Cpu.scattered(grad, &index, 7).unwrap()];
    check(&[&x], &taken.detach(), gradients, Ok(taken));
    Ok(())
}

#[test]
fn gradients_are_the_slopes_of_what_they_belong_to() -> Result<()> {
    let (x, gain, grad) = (random(&[2, 5], 1), random(&[5], 2), random(&[2, 5], 3));
    let of_x = numbers(&Cpu.rms_norm_gradients(&Normed { x: &x, gain: &gain, eps: 1e-5 }, &grad, None, false)?.0);
    let value = |x: &[f32]| {
        let x = Tensor::new(x, &Device::Cpu)?.reshape((2, 5))?;
        (Cpu.rms_norm(&x, &gain, 1e-5, DType::F32)? * grad.as_tensor())?.sum_all()?.to_scalar::<f32>()
    };
    let start = numbers(&x);
    for (at, slope) in of_x.iter().enumerate() {
        let moved = |by: f32| {
            let mut x = start.clone();
            x[at] += by;
            value(&x)
        };
        let difference = (moved(1e-2)? - moved(-1e-2)?) / 2e-2;
        assert!((difference - slope).abs() < 1e-3 * (1.0 + slope.abs()), "{at}: {difference} {slope}");
    }
    Ok(())
}

#[test]
fn mixed_precision_is_the_same_up_to_its_rounding() -> Result<()> {
    let rounded = |x: &Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
    let half = |x: &Tensor| x.to_dtype(DType::BF16);
    let (x, y) = (rounded(&random(&[6, 8], 1))?, rounded(&random(&[6, 8], 2))?);
    let product = Cpu.swiglu(&half(&x)?, &half(&y)?)?;
    assert_eq!(product.dtype(), DType::BF16);
    assert_eq!(numbers(&product.to_dtype(DType::F32)?), numbers(&rounded(&Cpu.swiglu(&x, &y)?)?));
    let rows = Cpu.lay_out_rows(&[4, 2])?;
    let found = Cpu.attended([&half(&x)?, &half(&y)?, &half(&x)?], 4, &rows)?.mixed;
    let expected = rounded(&Cpu.attended([&x, &y, &x], 4, &rows)?.mixed)?;
    assert_eq!(numbers(&found.to_dtype(DType::F32)?), numbers(&expected));
    Ok(())
}

#[test]
fn a_step_of_adamw_is_that_of_its_formula_and_one_that_is_not_finite_changes_nothing() -> Result<()> {
    let step = AdamStep {
        rate: 0.1,
        betas: [0.9, 0.98],
        unbias: [0.1, 0.02],
        decay: 0.5,
        decayed: 1,
        clip: 2.5,
        average: 0.75,
    };
    let state = Tensor::new(&[[1.0f32, -2.0], [0.0, 0.0], [0.0, 0.0], [4.0, 4.0]], &Device::Cpu)?;
    let norm = Cpu.adam(&state, &Tensor::new(&[f32::NAN, 1.0], &Device::Cpu)?, &step)?;
    assert!(norm.to_vec1::<f32>()?[0].is_nan());
    assert_eq!(state.to_vec2::<f32>()?[0], [1.0, -2.0]);
    // the norm is 5, so gradients are halved
    let norm = Cpu.adam(&state, &Tensor::new(&[3.0f32, -4.0], &Device::Cpu)?, &step)?;
    assert_eq!(norm.to_vec1::<f32>()?, [5.0]);
    // the first step goes as far as the rate, against the sign of the gradient
    let expected = [[0.4f32, -1.9], [0.15, -0.2], [0.045, 0.08], [3.1, 2.525]];
    for (found, expected) in state.to_vec2::<f32>()?.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    Ok(())
}
