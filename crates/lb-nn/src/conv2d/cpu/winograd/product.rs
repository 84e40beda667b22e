//! Products at one point: sums over channels and horizontal taps that stay in registers.

use pulp::{Arch, Simd, WithSimd};

/// Output channels of a tile of sums.
pub const BLOCK: usize = 4;
/// Vectors of positions of a tile of sums. Eight sums hide a multiply-add's latency; with twelve, LLVM
/// keeps one on the stack, and everything waits for that.
const VECTORS: usize = 2;
/// Output channels, and input channels, of a tile of the weight's gradient.
pub const PAIR: usize = 2;
/// Horizontal taps.
pub const ROW: usize = 3;

/// The weights of one input channel to a block of output channels, tap by tap.
pub type Taps = [f32; ROW * BLOCK];

/// Positions of a tile on this processor.
pub fn step(arch: Arch) -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    VECTORS * arch.dispatch(Lanes)
}

/// `y[o, q] = Σ_{i, kx} weight[o, i, kx] · x[i, q + kx]` of a block of output channels: 8
/// multiply-adds for 2 loads of inputs and 4 of weights.
pub struct Convolve<'a> {
    /// Of every input channel.
    pub weight: &'a [Taps],
    /// `[inputs, run + 2]`
    pub x: &'a [f32],
    /// `[BLOCK, run]`
    pub y: &'a mut [f32],
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weight, x, y } = self;
        let step = S::F32_LANES * VECTORS;
        let run = y.len() / BLOCK;
        for q in (0..run).step_by(step) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
            for (x, weight) in x.chunks_exact(run + 2).zip(weight) {
                let x = &x[q..][..step + 2];
                for kx in 0..ROW {
                    let (x, _) = S::as_simd_f32s(&x[kx..][..step]);
                    let w = &weight[kx * BLOCK..][..BLOCK];
                    for j in 0..BLOCK {
                        let w = simd.splat_f32s(w[j]);
                        for v in 0..VECTORS {
                            sums[j][v] = simd.mul_add_e_f32s(w, x[v], sums[j][v]);
                        }
                    }
                }
            }
            for (j, sums) in sums.iter().enumerate() {
                let y = &mut y[j * run + q..][..step];
                let (y, _) = S::as_mut_simd_f32s(y);
                y.copy_from_slice(sums);
            }
        }
    }
}

/// Adds `Σ_q dy[o, q] · x[i, q + kx]` to `dw[o, i, kx]` of two output channels: two outputs, two
/// inputs and three taps are twelve sums, which with two gradients and an input fit sixteen
/// registers.
pub struct Correlate<'a> {
    /// Products of a channel.
    pub run: usize,
    /// Input channels; of `x` an even number, the last of zeros if need be.
    pub inputs: usize,
    /// `[inputs, run + 2]`
    pub x: &'a [f32],
    /// `[PAIR, run + 2]`, the first product one value in.
    pub dy: &'a [f32],
    /// `[PAIR, inputs, ROW]`
    pub dw: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            run,
            inputs,
            x,
            dy,
            dw,
        } = self;
        let len = run + 2;
        let n = run / S::F32_LANES;
        let dy0 = &S::as_simd_f32s(&dy[1..][..run]).0[..n];
        let dy1 = &S::as_simd_f32s(&dy[len + 1..][..run]).0[..n];
        for (i, x) in x.chunks_exact(PAIR * len).enumerate() {
            let (x0, x1) = x.split_at(len);
            let x: [[&[S::f32s]; ROW]; PAIR] = [
                std::array::from_fn(|kx| &S::as_simd_f32s(&x0[kx..][..run]).0[..n]),
                std::array::from_fn(|kx| &S::as_simd_f32s(&x1[kx..][..run]).0[..n]),
            ];
            let mut sums = [[[simd.splat_f32s(0.0); ROW]; PAIR]; PAIR];
            for q in 0..n {
                let (dy0, dy1) = (dy0[q], dy1[q]);
                for c in 0..PAIR {
                    for kx in 0..ROW {
                        let x = x[c][kx][q];
                        sums[0][c][kx] = simd.mul_add_e_f32s(dy0, x, sums[0][c][kx]);
                        sums[1][c][kx] = simd.mul_add_e_f32s(dy1, x, sums[1][c][kx]);
                    }
                }
            }
            for (o, sums) in sums.iter().enumerate() {
                for (c, sums) in sums.iter().enumerate() {
                    let input = PAIR * i + c;
                    if input == inputs {
                        continue;
                    }
                    for (kx, sum) in sums.iter().enumerate() {
                        dw[(o * inputs + input) * ROW + kx] += simd.reduce_sum_f32s(*sum);
                    }
                }
            }
        }
    }
}
