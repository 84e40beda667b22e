//! Sums over channels and taps that stay in registers.
//!
//! Rows of images follow each other with zeros between, so that what a tap reads of all positions is a
//! stretch of values, some offset away: a convolution is a sum of weighted stretches.

use pulp::{Arch, Simd, WithSimd};

/// Output channels that are computed together.
pub const BLOCK: usize = 4;
/// Input channels of a tile of the weight's gradient.
pub const PAIR: usize = 2;
/// Taps of a row, and of a kernel.
pub const ROW: usize = 3;
pub const TAPS: usize = ROW * ROW;
/// Registers of AVX-512 and NEON; AVX2 has half of them.
const MANY: usize = 32;

/// The weights of one input channel to a block of output channels.
pub type Taps<const N: usize> = [[f32; BLOCK]; N];

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

/// `y[o, q] = Σ_{i, t} weight[o, i, t] · x[i, q + offsets[t]]`
pub struct Convolve<'a, const N: usize> {
    /// Products of a channel, whole vectors.
    pub run: usize,
    pub offsets: [usize; N],
    /// Input channels.
    pub inputs: usize,
    /// `[blocks of outputs, inputs]`
    pub weight: &'a [Taps<N>],
    /// `[inputs, as far as the last tap reads or further]`
    pub x: &'a [f32],
    /// `[outputs to a multiple of BLOCK, run]`; what is beyond the weight's blocks stays.
    pub y: &'a mut [f32],
}

impl<const N: usize> WithSimd for Convolve<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            run,
            offsets,
            inputs,
            weight,
            x,
            y,
        } = self;
        let blocks = (y.chunks_exact_mut(BLOCK * run)).zip(weight.chunks_exact(inputs));
        for (y, weight) in blocks {
            let mut block = Block {
                run,
                offsets,
                weight,
                x,
                y,
            };
            let mut done = 0;
            if S::REGISTER_COUNT >= MANY {
                done = block.tiles::<S, 4>(simd, done);
            }
            done = block.tiles::<S, 2>(simd, done);
            block.tiles::<S, 1>(simd, done);
        }
    }
}

/// A block of output channels.
struct Block<'a, const N: usize> {
    run: usize,
    offsets: [usize; N],
    weight: &'a [Taps<N>],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<const N: usize> Block<'_, N> {
    /// Tiles of `BLOCK` channels of so many vectors, from product `from` on; where they end.
    ///
    /// Two vectors are eight sums, which hide a multiply-add's latency, and with sixteen registers
    /// LLVM keeps one of twelve on the stack, and everything waits for that. Four take fewer loads a
    /// product.
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize>(&mut self, simd: S, from: usize) -> usize {
        let step = S::F32_LANES * VECTORS;
        let run = self.run;
        let channel = self.x.len() / self.weight.len();
        let mut q = from;
        while q + step <= run {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
            for (x, weight) in self.x.chunks_exact(channel).zip(self.weight) {
                for t in 0..N {
                    let (x, _) = S::as_simd_f32s(&x[q + self.offsets[t]..][..step]);
                    for j in 0..BLOCK {
                        let w = simd.splat_f32s(weight[t][j]);
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

/// Adds `Σ_q dy[o, q + start] · x[i, q + offsets[t]]` to `dw[o, i, t]` of a row of taps.
pub struct Correlate<'a> {
    /// Products of a channel, whole vectors.
    pub run: usize,
    pub offsets: [usize; ROW],
    pub start: usize,
    /// Input channels.
    pub inputs: usize,
    /// `[inputs to a multiple of PAIR, as far as the last tap reads or further]`
    pub x: &'a [f32],
    /// `[outputs to a multiple of BLOCK, start + run or more]`
    pub dy: &'a [f32],
    /// `[outputs to a multiple of BLOCK, inputs, ROW]`
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
        let (channel, len) = (
            self.x.len() / inputs.next_multiple_of(PAIR),
            self.dy.len() / (self.dw.len() / (inputs * ROW)),
        );
        let n = run / S::F32_LANES;
        let tiles = (self.dy.chunks_exact(OUTPUTS * len))
            .zip(self.dw.chunks_exact_mut(OUTPUTS * inputs * ROW));
        for (dy, dw) in tiles {
            let dy: [&[S::f32s]; OUTPUTS] = std::array::from_fn(|o| {
                &S::as_simd_f32s(&dy[o * len + self.start..][..run]).0[..n]
            });
            for (i, x) in self.x.chunks_exact(PAIR * channel).enumerate() {
                let (x0, x1) = x.split_at(channel);
                let at = self.offsets;
                let x: [[&[S::f32s]; ROW]; PAIR] = [
                    std::array::from_fn(|t| &S::as_simd_f32s(&x0[at[t]..][..run]).0[..n]),
                    std::array::from_fn(|t| &S::as_simd_f32s(&x1[at[t]..][..run]).0[..n]),
                ];
                let mut sums = [[[simd.splat_f32s(0.0); ROW]; PAIR]; OUTPUTS];
                for q in 0..n {
                    let mut d = [simd.splat_f32s(0.0); OUTPUTS];
                    for (d, dy) in d.iter_mut().zip(dy) {
                        *d = dy[q];
                    }
                    for c in 0..PAIR {
                        for t in 0..ROW {
                            let x = x[c][t][q];
                            for o in 0..OUTPUTS {
                                sums[o][c][t] = simd.mul_add_e_f32s(d[o], x, sums[o][c][t]);
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
                        for (t, sum) in sums.iter().enumerate() {
                            dw[(o * inputs + input) * ROW + t] += simd.reduce_sum_f32s(*sum);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    /// With vectors of one value, of eight (AVX2), or the widest there are; whether there are such.
    fn dispatch<Op: WithSimd>(width: usize, op: Op) -> Option<Op::Output> {
        match width {
            1 => Some(Simd::vectorize(Scalar, op)),
            #[cfg(target_arch = "x86_64")]
            8 => pulp::x86::V3::try_new().map(|avx2| Simd::vectorize(avx2, op)),
            #[cfg(not(target_arch = "x86_64"))]
            8 => None,
            _ => Some(Arch::new().dispatch(op)),
        }
    }

    /// Any values, the same every time.
    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn same(a: &[f32], b: &[f32], what: &str) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * (1.0 + b.abs());
        assert!(a.len() == b.len() && a.iter().zip(b).all(near), "{what}");
    }

    /// Processors have one kind of vectors, and tests should not depend on which.
    #[test]
    fn all_widths_give_the_same_sums() {
        // Runs that leave one, two and more vectors over.
        for run in [16, 48, 112, 120, 184] {
            let (inputs, outputs, len) = (3, 2 * BLOCK, run + 20);
            let offsets = [0, 7, 19];
            let (x, dy) = (values(4 * len), values(outputs * len));
            let weight: Vec<Taps<ROW>> = (values(2 * inputs * ROW * BLOCK).chunks(ROW * BLOCK))
                .map(|w| std::array::from_fn(|t| std::array::from_fn(|o| w[t * BLOCK + o])))
                .collect();
            let mut expected = vec![0.0; outputs * run];
            let mut gradient = vec![0.0; outputs * inputs * ROW];
            for (o, y) in expected.chunks_mut(run).enumerate() {
                for i in 0..inputs {
                    for (t, offset) in offsets.iter().enumerate() {
                        let w = weight[o / BLOCK * inputs + i][t][o % BLOCK];
                        for (q, y) in y.iter_mut().enumerate() {
                            let x = x[i * len + q + offset];
                            *y += w * x;
                            gradient[(o * inputs + i) * ROW + t] += dy[o * len + q + 5] * x;
                        }
                    }
                }
            }
            for width in [1, 8, 16] {
                if width == 16 && run % lanes() != 0 {
                    continue;
                }
                let mut y = vec![0.0; outputs * run];
                let mut dw = vec![0.0; gradient.len()];
                let convolve = Convolve {
                    run,
                    offsets,
                    inputs,
                    weight: &weight,
                    x: &x[..inputs * len],
                    y: &mut y,
                };
                let correlate = Correlate {
                    run,
                    offsets,
                    start: 5,
                    inputs,
                    x: &x,
                    dy: &dy,
                    dw: &mut dw,
                };
                if dispatch(width, convolve).is_some() && dispatch(width, correlate).is_some() {
                    same(&y, &expected, &format!("{run} products, {width} at once"));
                    same(
                        &dw,
                        &gradient,
                        &format!("gradient of {run}, {width} at once"),
                    );
                }
            }
        }
    }
}
