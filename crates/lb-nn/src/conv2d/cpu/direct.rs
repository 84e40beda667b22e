//! 3×3 at stride 1 with a border of one, most of a residual network: no im2col, the sums stay in
//! registers.
//!
//! Forward, a tile of [`BLOCK`] output channels by [`VECTORS`] vectors of positions stays in
//! registers while all inputs and taps are added: 12 multiply-adds for 3 loads of inputs and 4 of
//! weights. The gradient of the input is the same convolution with the weight's channels swapped
//! and its taps reversed. The gradient of the weight keeps the sums of two output channels by two
//! input channels by the 3 taps of a row in registers, each a vector of partial sums, and runs over
//! all positions.

use pulp::{Arch, Simd, WithSimd};

use super::pitched::Pitched;
use super::shape::Shape;
use super::{Backward, Forward};
use crate::conv2d::Geometry;

/// Output channels of a tile.
const BLOCK: usize = 4;
/// Vectors of positions of a tile.
const VECTORS: usize = 3;
/// Output channels, and input channels, of a tile of the weight's gradient.
const PAIR: usize = 2;
const TAPS: usize = 9;

/// The weights of one input channel to a block of output channels, tap by tap.
type Taps = [f32; TAPS * BLOCK];

/// Values of the images that are kept in a thread's scratch at once, so that they stay in its
/// second-level cache.
const SCRATCH: usize = 1 << 15;

/// Whether these algorithms compute that convolution.
pub fn fits(s: &Shape) -> bool {
    let same = Geometry {
        stride: 1,
        padding: 1,
    };
    s.k == 3 && s.geometry == same && s.h > 0 && s.w > 0
}

/// Positions of a tile on this processor.
fn step(arch: Arch) -> usize {
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

/// `weight(output, input, tap)` in blocks of output channels, filled up with zeros.
fn pack(
    outputs: usize,
    inputs: usize,
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Vec<Vec<Taps>> {
    let block = |b: usize| {
        let taps = |i: usize| {
            std::array::from_fn(|at| match b * BLOCK + at % BLOCK {
                o if o < outputs => weight(o, i, at / BLOCK),
                _ => 0.0,
            })
        };
        (0..inputs).map(taps).collect()
    };
    (0..outputs.div_ceil(BLOCK)).map(block).collect()
}

/// Outputs of a block of channels: `y`, `[BLOCK, run]`, from `x`, `[inputs, len]`.
struct Convolve<'a> {
    layout: Pitched,
    weight: &'a [Taps],
    start: [f32; BLOCK],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            layout,
            weight,
            start,
            x,
            y,
        } = self;
        let step = S::F32_LANES * VECTORS;
        let pitch = layout.pitch();
        for q in (0..layout.run).step_by(step) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
            for (sums, start) in sums.iter_mut().zip(start) {
                *sums = [simd.splat_f32s(start); VECTORS];
            }
            for (x, weight) in x.chunks_exact(layout.len()).zip(weight) {
                for ky in 0..3 {
                    let x = &x[q + ky * pitch..][..step + 2];
                    for kx in 0..3 {
                        let (x, _) = S::as_simd_f32s(&x[kx..][..step]);
                        let w = &weight[(3 * ky + kx) * BLOCK..][..BLOCK];
                        for j in 0..BLOCK {
                            let w = simd.splat_f32s(w[j]);
                            for v in 0..VECTORS {
                                sums[j][v] = simd.mul_add_e_f32s(w, x[v], sums[j][v]);
                            }
                        }
                    }
                }
            }
            for (j, sums) in sums.iter().enumerate() {
                let y = &mut y[j * layout.run + q..][..step];
                let (y, _) = S::as_mut_simd_f32s(y);
                y.copy_from_slice(sums);
            }
        }
    }
}

/// Adds to `dw`, `[PAIR, inputs, 3, 3]`, what the images of `x`, `[inputs, len]`, and `dy`,
/// `[PAIR, len]`, say; `x` has an even number of channels, the last of zeros if need be.
struct Correlate<'a> {
    layout: Pitched,
    inputs: usize,
    x: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            layout,
            inputs,
            x,
            dy,
            dw,
        } = self;
        let (run, len) = (layout.run, layout.len());
        let n = run / S::F32_LANES;
        let dy0 = &S::as_simd_f32s(&dy[layout.origin()..][..run]).0[..n];
        let dy1 = &S::as_simd_f32s(&dy[len + layout.origin()..][..run]).0[..n];
        for (i, x) in x.chunks_exact(PAIR * len).enumerate() {
            for ky in 0..3 {
                let x0 = &x[ky * layout.pitch()..][..run + 2];
                let x1 = &x[len + ky * layout.pitch()..][..run + 2];
                let x: [[&[S::f32s]; 3]; PAIR] = [
                    std::array::from_fn(|kx| &S::as_simd_f32s(&x0[kx..][..run]).0[..n]),
                    std::array::from_fn(|kx| &S::as_simd_f32s(&x1[kx..][..run]).0[..n]),
                ];
                // Two outputs, two inputs, three taps: twelve sums, two gradients and an input fit
                // sixteen registers.
                let mut sums = [[[simd.splat_f32s(0.0); 3]; PAIR]; PAIR];
                for q in 0..n {
                    let (dy0, dy1) = (dy0[q], dy1[q]);
                    for c in 0..PAIR {
                        for kx in 0..3 {
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
                            let at = (o * inputs + input) * TAPS + 3 * ky + kx;
                            dw[at] += simd.reduce_sum_f32s(*sum);
                        }
                    }
                }
            }
        }
    }
}

/// Outputs.
pub struct DirectForward {
    shape: Shape,
    arch: Arch,
    layout: Pitched,
    weight: Vec<Vec<Taps>>,
    bias: Vec<f32>,
}

impl DirectForward {
    pub fn new(shape: &Shape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let arch = Arch::new();
        let s = *shape;
        let mut start = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        start.resize(s.c_out.next_multiple_of(BLOCK), 0.0);
        Self {
            shape: s,
            arch,
            layout: Pitched::new(1, s.h, s.w, step(arch)),
            weight: pack(s.c_out, s.c_in, |o, i, t| {
                weight[(o * s.c_in + i) * TAPS + t]
            }),
            bias: start,
        }
    }
}

/// All blocks of output channels of the images in `x`, to `dense`.
fn convolve(
    arch: Arch,
    layout: Pitched,
    (weight, bias): (&[Vec<Taps>], &[f32]),
    x: &[f32],
    run: &mut Vec<f32>,
    (channels, dense): (usize, &mut [f32]),
) {
    run.resize(BLOCK * layout.run, 0.0);
    let (bias, _) = bias.as_chunks::<BLOCK>();
    for (b, (weight, start)) in weight.iter().zip(bias).enumerate() {
        arch.dispatch(Convolve {
            layout,
            weight,
            start: *start,
            x,
            y: run,
        });
        for (j, run) in run.chunks_exact(layout.run).enumerate() {
            let c = b * BLOCK + j;
            if c < channels {
                layout.gather(run, (c, channels), dense);
            }
        }
    }
}

/// Pitched inputs, and the outputs of a block.
#[derive(Default)]
pub struct Scratch {
    layout: Option<Pitched>,
    x: Vec<f32>,
    dy: Vec<f32>,
    run: Vec<f32>,
}

impl Scratch {
    /// Zeros where the borders of `layout` are.
    fn prepare(&mut self, layout: Pitched, inputs: usize, outputs: usize) {
        if self.layout != Some(layout) {
            *self = Self {
                layout: Some(layout),
                x: vec![0.0; inputs * layout.len()],
                dy: vec![0.0; outputs * layout.len()],
                run: Vec::new(),
            };
        }
    }
}

impl Forward for DirectForward {
    type Scratch = Scratch;

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn forward(&self, scratch: &mut Scratch, x: &[f32], y: &mut [f32]) {
        let (s, layout) = (&self.shape, self.layout);
        scratch.prepare(layout, s.c_in, 0);
        layout.spread(x, s.c_in, &mut scratch.x);
        let weights = (&self.weight[..], &self.bias[..]);
        let Scratch { x, run, .. } = scratch;
        convolve(self.arch, layout, weights, x, run, (s.c_out, y));
    }
}

/// Gradients.
pub struct DirectBackward {
    shape: Shape,
    arch: Arch,
    /// Of the input gradient's convolution.
    weight: Vec<Vec<Taps>>,
    zeros: Vec<f32>,
}

impl DirectBackward {
    pub fn new(shape: &Shape, weight: &[f32]) -> Self {
        let s = *shape;
        Self {
            shape: s,
            arch: Arch::new(),
            weight: pack(s.c_in, s.c_out, |i, o, t| {
                weight[(o * s.c_in + i) * TAPS + TAPS - 1 - t]
            }),
            zeros: vec![0.0; s.c_in.next_multiple_of(BLOCK)],
        }
    }

    /// Images that are computed on at once.
    fn together(&self) -> usize {
        let s = &self.shape;
        let image = s.c_in.max(s.c_out) * (s.h + 1) * (s.w + 1);
        (SCRATCH / image).max(1)
    }

    fn prepare(&self, scratch: &mut Scratch, layout: Pitched) {
        let even = |channels: usize| channels.next_multiple_of(PAIR);
        scratch.prepare(layout, even(self.shape.c_in), even(self.shape.c_out));
    }

    fn layout(&self, images: usize) -> Pitched {
        Pitched::new(images, self.shape.h, self.shape.w, step(self.arch))
    }
}

impl Backward for DirectBackward {
    type Scratch = Scratch;

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn weight_gradient(&self, scratch: &mut Scratch, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let s = &self.shape;
        let together = self.together();
        let outputs = s.c_out.next_multiple_of(PAIR);
        let mut sums = vec![0.0; outputs * s.taps()];
        let images = x
            .chunks(together * s.image())
            .zip(dy.chunks(together * s.out_image()));
        for (x, dy) in images {
            let layout = self.layout(x.len() / s.image());
            self.prepare(scratch, layout);
            layout.spread(x, s.c_in, &mut scratch.x);
            layout.spread(dy, s.c_out, &mut scratch.dy);
            let pairs = (sums.chunks_exact_mut(PAIR * s.taps()))
                .zip(scratch.dy.chunks_exact(PAIR * layout.len()));
            for (dw, dy) in pairs {
                self.arch.dispatch(Correlate {
                    layout,
                    inputs: s.c_in,
                    x: &scratch.x,
                    dy,
                    dw,
                });
            }
        }
        for (dw, sum) in dw.iter_mut().zip(sums) {
            *dw += sum;
        }
    }

    fn input_gradient(&self, scratch: &mut Scratch, dy: &[f32], dx: &mut [f32]) {
        let s = &self.shape;
        let together = self.together();
        let images = dx
            .chunks_mut(together * s.image())
            .zip(dy.chunks(together * s.out_image()));
        for (dx, dy) in images {
            let layout = self.layout(dx.len() / s.image());
            self.prepare(scratch, layout);
            layout.spread(dy, s.c_out, &mut scratch.dy);
            let Scratch { dy, run, .. } = scratch;
            let dy = &dy[..s.c_out * layout.len()];
            let weights = (&self.weight[..], &self.zeros[..]);
            convolve(self.arch, layout, weights, dy, run, (s.c_in, dx));
        }
    }
}
