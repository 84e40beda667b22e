//! 3×3 at stride 1 with a border of one, most of a residual network: Winograd's algorithm down the
//! columns, shifts along the rows.
//!
//! Four rows of outputs take six rows of products ([`transform`]) where a direct convolution takes
//! twelve, and rows stay contiguous, so that transforming is a few additions of neighbours
//! ([`layout`]). At each of the six points what is left is a convolution by three horizontal taps,
//! whose sums stay in registers ([`product`](super::product)). The gradient of the input is the same convolution
//! with the weight's channels swapped and its taps reversed; that of the weight correlates
//! transformed gradients with transformed inputs, and is transformed back once.

mod layout;
mod transform;

use pulp::Arch;

use super::product::{BLOCK, Convolve, Correlate, PAIR, ROW, TAPS, Taps, lanes};
use super::shape::Shape;
use super::{Backward, Forward, SCRATCH};
use crate::conv2d::Geometry;
use layout::{Layout, gather, spread};
use transform::{Inputs, OutputGradients, POINTS, Rows};

/// Where the taps of a row read, from what the first one reads on.
const TAPS_OF_ROW: [usize; ROW] = [0, 1, 2];

/// Whether this algorithm computes that convolution.
pub fn fits(s: &Shape) -> bool {
    let same = Geometry {
        stride: 1,
        padding: 1,
    };
    s.k == 3 && s.geometry == same && s.h > 0 && s.w > 0
}

/// So many images, as rows that fill this processor's vectors.
fn layout(s: &Shape, images: usize) -> Layout {
    Layout::new(images, s.h, s.w, lanes())
}

/// Images that are computed on at once.
fn together(s: &Shape) -> usize {
    let image = Layout::new(1, s.h, s.w, 1).len() * POINTS * s.c_in.max(s.c_out);
    (SCRATCH / image).max(1)
}

/// A transformed weight.
struct Weight {
    outputs: usize,
    inputs: usize,
    /// `[POINTS, blocks of outputs, inputs]`; the last block is filled up with zeros.
    taps: Vec<Taps<ROW>>,
}

impl Weight {
    /// Of `weight(output, input, tap)`.
    fn new(outputs: usize, inputs: usize, weight: impl Fn(usize, usize, usize) -> f32) -> Self {
        let blocks = outputs.div_ceil(BLOCK);
        let mut taps = vec![[[0.0; BLOCK]; ROW]; POINTS * blocks * inputs];
        for o in 0..outputs {
            for i in 0..inputs {
                let columns: [_; ROW] = std::array::from_fn(|kx| {
                    transform::taps(std::array::from_fn(|ky| weight(o, i, ky * ROW + kx)))
                });
                for p in 0..POINTS {
                    let at = (p * blocks + o / BLOCK) * inputs + i;
                    for (tap, column) in taps[at].iter_mut().zip(&columns) {
                        tap[o % BLOCK] = column[p];
                    }
                }
            }
        }
        Self {
            outputs,
            inputs,
            taps,
        }
    }

    /// `dense`, `[images, outputs, H, W]`, from transformed inputs.
    fn convolve(
        &self,
        layout: Layout,
        x: &[f32],
        products: &mut Vec<f32>,
        bias: &[f32],
        dense: &mut [f32],
    ) {
        let arch = Arch::new();
        let products_of_point = self.outputs.next_multiple_of(BLOCK) * layout.run;
        products.resize(POINTS * products_of_point, 0.0);
        let taps_of_point = self.taps.len() / POINTS;
        let points = (x.chunks_exact(x.len() / POINTS))
            .zip(products.chunks_exact_mut(products_of_point))
            .zip(self.taps.chunks_exact(taps_of_point));
        for ((x, y), weight) in points {
            arch.dispatch(Convolve {
                run: layout.run,
                offsets: TAPS_OF_ROW,
                inputs: self.inputs,
                weight,
                x,
                y,
            });
        }
        gather(layout, products, bias, dense);
    }
}

/// What a thread needs.
#[derive(Default)]
pub struct Scratch {
    /// Of a convolution.
    x: Tiles,
    /// Of outputs' gradients.
    dy: Tiles,
    /// `[POINTS, outputs to a multiple of BLOCK, run]`
    products: Vec<f32>,
}

/// Transformed images.
#[derive(Default)]
struct Tiles {
    layout: Option<Layout>,
    values: Vec<f32>,
}

impl Tiles {
    /// `[POINTS, channels to a multiple of `multiple`, len]` of `dense`.
    fn spread<R: Rows>(
        &mut self,
        layout: Layout,
        (channels, multiple): (usize, usize),
        dense: &[f32],
    ) -> &[f32] {
        let size = POINTS * channels.next_multiple_of(multiple) * layout.len();
        // What lies between rows is zero, and stays so while rows are in the same places.
        if self.layout != Some(layout) || self.values.len() != size {
            self.layout = Some(layout);
            self.values.clear();
            self.values.resize(size, 0.0);
        }
        spread::<R>(layout, channels, dense, &mut self.values);
        &self.values
    }
}

/// Outputs.
pub struct WinogradForward {
    shape: Shape,
    weight: Weight,
    bias: Vec<f32>,
}

impl WinogradForward {
    pub fn new(shape: &Shape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let s = *shape;
        Self {
            shape: s,
            weight: Weight::new(s.c_out, s.c_in, |o, i, t| weight[s.weight_at(o, i, t)]),
            bias: s.bias_of(bias),
        }
    }
}

impl Forward for WinogradForward {
    type Scratch = Scratch;

    fn together(&self) -> usize {
        together(&self.shape)
    }

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn forward(&self, scratch: &mut Scratch, x: &[f32], y: &mut [f32]) {
        let s = &self.shape;
        let layout = layout(s, x.len() / s.image());
        let x = scratch.x.spread::<Inputs>(layout, (s.c_in, 1), x);
        (self.weight).convolve(layout, x, &mut scratch.products, &self.bias, y);
    }
}

/// Gradients.
pub struct WinogradBackward {
    shape: Shape,
    /// Of the input gradient's convolution.
    weight: Weight,
    zeros: Vec<f32>,
}

impl WinogradBackward {
    pub fn new(shape: &Shape, weight: &[f32]) -> Self {
        let s = *shape;
        Self {
            shape: s,
            weight: Weight::new(s.c_in, s.c_out, |i, o, t| {
                weight[s.weight_at(o, i, TAPS - 1 - t)]
            }),
            zeros: vec![0.0; s.c_in],
        }
    }
}

impl Backward for WinogradBackward {
    type Scratch = Scratch;

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn weight_gradient(&self, scratch: &mut Scratch, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let s = &self.shape;
        let arch = Arch::new();
        let together = together(s);
        let outputs = s.c_out.next_multiple_of(BLOCK);
        // `[POINTS, outputs, inputs, ROW]`
        let mut sums = vec![0.0; POINTS * outputs * s.c_in * ROW];
        let of_point = sums.len() / POINTS;
        let images = x
            .chunks(together * s.image())
            .zip(dy.chunks(together * s.out_image()));
        for (x, dy) in images {
            let layout = layout(s, x.len() / s.image());
            let x = (scratch.x).spread::<Inputs>(layout, (s.c_in, PAIR), x);
            let dy = (scratch.dy).spread::<OutputGradients>(layout, (s.c_out, BLOCK), dy);
            let points = (x.chunks_exact(x.len() / POINTS))
                .zip(dy.chunks_exact(dy.len() / POINTS))
                .zip(sums.chunks_exact_mut(of_point));
            for ((x, dy), dw) in points {
                arch.dispatch(Correlate {
                    run: layout.run,
                    offsets: TAPS_OF_ROW,
                    start: 1,
                    inputs: s.c_in,
                    x,
                    dy,
                    dw,
                });
            }
        }
        for (channel, dw) in dw.chunks_exact_mut(TAPS).enumerate() {
            for kx in 0..ROW {
                let sums = std::array::from_fn(|p| sums[p * of_point + channel * ROW + kx]);
                for (ky, d) in transform::taps_gradient(sums).into_iter().enumerate() {
                    dw[ky * ROW + kx] += d;
                }
            }
        }
    }

    fn input_gradient(&self, scratch: &mut Scratch, dy: &[f32], dx: &mut [f32]) {
        let s = &self.shape;
        let together = together(s);
        let images = dx
            .chunks_mut(together * s.image())
            .zip(dy.chunks(together * s.out_image()));
        for (dx, dy) in images {
            let layout = layout(s, dx.len() / s.image());
            // To the other convolution they are inputs.
            let dy = scratch.x.spread::<Inputs>(layout, (s.c_out, 1), dy);
            (self.weight).convolve(layout, dy, &mut scratch.products, &self.zeros, dx);
        }
    }
}
