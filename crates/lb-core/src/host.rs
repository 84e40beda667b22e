//! Flex tensors as slices, for operators of our own on the CPU.
//!
//! Burn's operators go through memory once each; on a CPU that, and not arithmetic, is what a
//! quantized network's training spends its time on. An operator that does in one pass what takes
//! Burn ten reads the slice, writes a slice, and comes back as a tensor. Every such operator has
//! a form in Burn's own operators beside it, for all other devices, and a test that compares them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

/// The primitive of a float tensor on [`Flex`].
pub type FlexTensor = FloatTensor<Flex>;
/// The same with its place in the graph that gradients flow back through.
pub type TrackedTensor = FloatTensor<Autodiff<Flex>>;

/// A tensor on the CPU, without or with gradients.
pub enum OnHost {
    /// Without.
    Plain(FlexTensor),
    /// With.
    Tracked(TrackedTensor),
}

/// `x` as an `f32` tensor on the CPU; `None` if it is on another device or of another type.
pub fn on_host<const D: usize>(x: &Tensor<D>) -> Option<OnHost> {
    if x.dtype() != DType::F32 {
        return None;
    }
    // The device says whether gradients are tracked, so only one of the two can succeed.
    if x.device().is_autodiff() {
        let tracked = x.clone().try_into_primitive::<Autodiff<Flex>>();
        return tracked.ok().map(OnHost::Tracked);
    }
    x.clone()
        .try_into_primitive::<Flex>()
        .ok()
        .map(OnHost::Plain)
}

/// Its elements, row after row.
///
/// # Panics
/// If they are not contiguous (`to_contiguous`).
pub fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>().expect("the tensor is contiguous")
}

/// A tensor of `values`.
pub fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// `f(i, piece i)` of the values of `x` in pieces of `size`, by all cores: in place if nobody else
/// holds `x`, else in a copy.
///
/// Memory that is written for the first time costs as much as the arithmetic.
pub fn map_pieces(x: FlexTensor, size: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> FlexTensor {
    let contiguous = x.to_contiguous();
    drop(x);
    let mut x = contiguous;
    if let (true, Some((0, end))) = (x.is_unique(), x.layout().contiguous_offsets()) {
        let values = &mut x.storage_mut::<f32>()[..end];
        let pieces = values.par_chunks_mut(size).enumerate();
        pieces.for_each(|(i, piece)| f(i, piece));
        return x;
    }
    let source = values(&x);
    let copy = |_: &mut (), i: usize, piece: &mut [f32]| {
        piece.copy_from_slice(&source[i * size..][..piece.len()]);
        f(i, piece);
    };
    let (copy, _) = filled(source.len(), size, || (), copy);
    let shape = x.layout().shape().to_vec();
    tensor(copy, &shape)
}

/// `len` values in pieces of `size`, and what `f(state, i, piece i)`, which is given zeros and fills
/// them, returns of each; by all cores. What works on several pieces goes on with its state, from `init`.
pub fn filled<T, R: Send>(
    len: usize,
    size: usize,
    init: impl Fn() -> T + Send + Sync,
    f: impl Fn(&mut T, usize, &mut [f32]) -> R + Send + Sync,
) -> (Vec<f32>, Vec<R>) {
    let size = size.max(1);
    if rayon::current_num_threads() == 1 {
        // Zeros of a piece that is filled next stay in the cache; of a whole tensor they go to
        // memory and come back.
        let (mut values, mut state) = (Vec::with_capacity(len), init());
        let fill = |i| {
            let from = values.len();
            values.resize(len.min(from + size), 0.0);
            f(&mut state, i, &mut values[from..])
        };
        let results = (0..len.div_ceil(size)).map(fill).collect();
        return (values, results);
    }
    let mut values = vec![0.0; len];
    let pieces = values.par_chunks_mut(size).enumerate();
    let results = pieces.map_init(init, |state, (i, piece)| f(state, i, piece));
    let results = results.collect();
    (values, results)
}

/// `f`, compiled for the widest vector instructions of this processor: a portable build is for
/// those of 2003. A long `f` needs `#[inline(always)]`: left on its own it is compiled as all else.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `Σ x`, in an order that vector instructions can take, the same on every machine.
pub fn sum(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// `f(channel, image)`, two sums each, of all images, added up in their order.
pub fn per_channel<T: Send>(
    images: impl IndexedParallelIterator<Item = T>,
    channels: usize,
    f: impl Fn(usize, &T) -> [f64; 2] + Sync,
) -> Vec<[f64; 2]> {
    // From the last image on: it was written last, and is still in a cache; and whoever reads them next
    // starts with the first.
    let images = images.rev();
    let sums: Vec<Vec<[f64; 2]>> = images
        .map(|image| vectorized(|| (0..channels).map(|c| f(c, &image)).collect()))
        .collect();
    let mut total = vec![[0.0; 2]; channels];
    for image in sums.into_iter().rev() {
        for (total, [a, b]) in total.iter_mut().zip(image) {
            total[0] += a;
            total[1] += b;
        }
    }
    total
}

/// `x` rounded to the nearest integer, ties to even, for `|x| ≤ 2²²`.
///
/// `f32::round_ties_even` is a function call on processors older than SSE 4.1, which is what a
/// portable build is compiled for. Adding 1.5 · 2²³ leaves no bits below one, so the addition
/// itself rounds, by the rule of all IEEE arithmetic; a compiler turns that into vectors.
#[inline]
pub fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// `x` within `lo..=hi`; what is not a number stays one.
///
/// `f32::clamp` checks its bounds, and a loop with a way out into a panic is not compiled to vector
/// instructions.
#[inline(always)]
pub fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// `x`, or `floor` where it is not above; what is not a number stays one, where `f32::max` would hide that a
/// training diverged.
#[inline(always)]
pub fn floored(x: f32, floor: f32) -> f32 {
    if x <= floor { floor } else { x }
}

/// What of `d` gets through [`floored`] of `x` backwards: all or, at the floor, nothing.
#[inline(always)]
pub fn passed(x: f32, floor: f32, d: f32) -> f32 {
    if x <= floor { 0.0 } else { d }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn pieces_are_changed_in_place_only_where_nobody_else_looks() {
        let device = Device::flex();
        let x = Tensor::<2>::random([7, 9], Distribution::Normal(0.0, 1.0), &device);
        let before = x.clone().into_data();
        let expected = (x.clone() + 1.0).into_data();
        let add = |x: Tensor<2>| {
            let Some(OnHost::Plain(host)) = on_host(&x) else {
                panic!("a tensor on the CPU")
            };
            drop(x);
            let y = map_pieces(host, 10, |i, piece| {
                assert_eq!(piece.len(), if i < 6 { 10 } else { 3 });
                piece.iter_mut().for_each(|v| *v += 1.0);
            });
            Tensor::<2>::from_primitive::<Flex>(y)
        };
        assert_eq!(add(x.clone()).into_data(), expected, "shared");
        assert_eq!(x.clone().into_data(), before);
        let transposed = add(x.clone().transpose()).transpose();
        assert_eq!(transposed.into_data(), expected, "a view");
        assert_eq!(x.clone().into_data(), before);
        assert_eq!(add(x).into_data(), expected, "alone");
    }

    #[test]
    fn one_thread_fills_what_many_do() {
        for (len, size) in [(0, 0), (0, 3), (7, 3), (9, 3), (2, 5)] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    filled(
                        len,
                        size,
                        || 0,
                        |_, i, piece| {
                            assert!(piece.iter().all(|&v| v == 0.0));
                            piece.fill(i as f32);
                            (i, piece.len())
                        },
                    )
                })
            };
            let (values, pieces) = run(1);
            assert_eq!((values.clone(), pieces.clone()), run(3), "{len} by {size}");
            let expected: Vec<f32> = (0..len).map(|at| (at / size.max(1)) as f32).collect();
            assert_eq!(values, expected);
            assert_eq!(pieces.iter().map(|p| p.1).sum::<usize>(), len);
        }
    }

    #[test]
    fn clamps_all_but_what_is_not_a_number() {
        for x in [-7.5, -1.0, 0.25, 3.0, 8.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(clamp(x, -1.0, 3.0), x.clamp(-1.0, 3.0), "{x}");
        }
        assert!(clamp(f32::NAN, -1.0, 3.0).is_nan());
    }

    #[test]
    fn floors_all_but_what_is_not_a_number() {
        for (x, floor) in [
            (-1.0, 0.0),
            (0.0, 0.0),
            (2.0, 0.0),
            (-3.0, f32::NEG_INFINITY),
        ] {
            assert_eq!(floored(x, floor), x.max(floor), "{x}");
            assert_eq!(
                passed(x, floor, 5.0),
                if x > floor { 5.0 } else { 0.0 },
                "{x}"
            );
        }
        assert!(floored(f32::NAN, 0.0).is_nan());
        assert_eq!(passed(f32::NAN, 0.0, 5.0), 5.0);
    }

    #[test]
    fn rounds_half_to_even() {
        for i in -300_000i32..300_000 {
            let x = i as f32 * 0.125;
            assert_eq!(super::round(x), x.round_ties_even(), "{x}");
        }
    }
}
