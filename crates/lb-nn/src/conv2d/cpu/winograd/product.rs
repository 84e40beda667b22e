//! Products at one point: sums over channels and horizontal taps that stay in registers.

use pulp::{Arch, Simd, WithSimd};

/// Output channels that are computed together.
pub const BLOCK: usize = 4;
/// Input channels of a tile of the weight's gradient.
pub const PAIR: usize = 2;
/// Horizontal taps.
pub const ROW: usize = 3;
/// Registers of AVX-512 and NEON; AVX2 has half of them.
const MANY: usize = 32;

/// The weights of one input channel to a block of output channels, tap by tap.
pub type Taps = [f32; ROW * BLOCK];

/// Values of a vector on this processor.
pub fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// `y[o, q] = Σ_{i, kx} weight[o, i, kx] · x[i, q + kx]` of a block of output channels.
pub struct Convolve<'a> {
    /// Of every input channel.
    pub weight: &'a [Taps],
    /// `[inputs, run + 2]`
    pub x: &'a [f32],
    /// `[BLOCK, run]`, whole vectors
    pub y: &'a mut [f32],
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut done = 0;
        if S::REGISTER_COUNT >= MANY {
            done = self.tiles::<S, 4>(simd, done);
        }
        done = self.tiles::<S, 2>(simd, done);
        self.tiles::<S, 1>(simd, done);
    }
}

impl Convolve<'_> {
    /// Tiles of `BLOCK` channels of so many vectors, from product `from` on; where they end.
    ///
    /// Two vectors are eight sums, which hide a multiply-add's latency, and with sixteen registers
    /// LLVM keeps one of twelve on the stack, and everything waits for that. Four take fewer loads a
    /// product.
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize>(&mut self, simd: S, from: usize) -> usize {
        let step = S::F32_LANES * VECTORS;
        let run = self.y.len() / BLOCK;
        let mut q = from;
        while q + step <= run {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
            for (x, weight) in self.x.chunks_exact(run + 2).zip(self.weight) {
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
                let y = &mut self.y[j * run + q..][..step];
                let (y, _) = S::as_mut_simd_f32s(y);
                y.copy_from_slice(sums);
            }
            q += step;
        }
        q
    }
}

/// Adds `Σ_q dy[o, q] · x[i, q + kx]` to `dw[o, i, kx]` of a block of output channels.
pub struct Correlate<'a> {
    /// Products of a channel, whole vectors.
    pub run: usize,
    /// Input channels; of `x` an even number, the last of zeros if need be.
    pub inputs: usize,
    /// `[inputs, run + 2]`
    pub x: &'a [f32],
    /// `[BLOCK, run + 2]`, the first product one value in.
    pub dy: &'a [f32],
    /// `[BLOCK, inputs, ROW]`
    pub dw: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::REGISTER_COUNT >= MANY {
            true => self.tiles::<S, BLOCK>(simd),
            false => self.tiles::<S, { BLOCK / 2 }>(simd),
        }
    }
}

impl Correlate<'_> {
    /// Tiles of so many outputs, two inputs and three taps: with two outputs twelve sums, which with
    /// two gradients and an input fit sixteen registers.
    #[inline(always)]
    fn tiles<S: Simd, const OUTPUTS: usize>(self, simd: S) {
        let Self { run, inputs, .. } = self;
        let len = run + 2;
        let n = run / S::F32_LANES;
        let tiles = (self.dy.chunks_exact(OUTPUTS * len))
            .zip(self.dw.chunks_exact_mut(OUTPUTS * inputs * ROW));
        for (dy, dw) in tiles {
            let dy: [&[S::f32s]; OUTPUTS] =
                std::array::from_fn(|o| &S::as_simd_f32s(&dy[o * len + 1..][..run]).0[..n]);
            for (i, x) in self.x.chunks_exact(PAIR * len).enumerate() {
                let (x0, x1) = x.split_at(len);
                let x: [[&[S::f32s]; ROW]; PAIR] = [
                    std::array::from_fn(|kx| &S::as_simd_f32s(&x0[kx..][..run]).0[..n]),
                    std::array::from_fn(|kx| &S::as_simd_f32s(&x1[kx..][..run]).0[..n]),
                ];
                let mut sums = [[[simd.splat_f32s(0.0); ROW]; PAIR]; OUTPUTS];
                for q in 0..n {
                    let mut d = [simd.splat_f32s(0.0); OUTPUTS];
                    for (d, dy) in d.iter_mut().zip(dy) {
                        *d = dy[q];
                    }
                    for c in 0..PAIR {
                        for kx in 0..ROW {
                            let x = x[c][kx][q];
                            for o in 0..OUTPUTS {
                                sums[o][c][kx] = simd.mul_add_e_f32s(d[o], x, sums[o][c][kx]);
                            }
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
}
