//! 3×3 at stride 2 with a border of one, where a residual network halves its images: the image in
//! four planes, of even and odd rows and columns, in which every tap reads a stretch ([`layout`]).
//!
//! Neither a matrix of columns is made, as in [`unrolled`](super::unrolled), nor anything computed that a
//! stride leaves out.

mod layout;

use pulp::Arch;

use super::product::{BLOCK, Convolve, Correlate, PAIR, ROW, TAPS, Taps};
use super::shape::Shape;
use super::{Backward, Forward, SCRATCH};
use crate::conv2d::Geometry;
use layout::{Layout, PHASES};

/// Whether this algorithm computes that convolution.
pub fn fits(s: &Shape) -> bool {
    let halved = Geometry {
        stride: 2,
        padding: 1,
    };
    s.k == ROW && s.geometry == halved && s.h > 0 && s.w > 0
}

/// Images that are computed on at once.
fn together(s: &Shape) -> usize {
    let image = Layout::new(s, 1).run * (PHASES * s.c_in).max(s.c_out);
    (SCRATCH / image).max(1)
}

/// `[blocks of outputs, inputs]` of `weight(output, input, tap)`; the last block is filled up with
/// zeros.
fn blocks<const N: usize>(
    (outputs, inputs): (usize, usize),
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Vec<Taps<N>> {
    let mut taps = vec![[[0.0; BLOCK]; N]; outputs.div_ceil(BLOCK) * inputs];
    for o in 0..outputs {
        for i in 0..inputs {
            for (t, tap) in taps[o / BLOCK * inputs + i].iter_mut().enumerate() {
                tap[o % BLOCK] = weight(o, i, t);
            }
        }
    }
    taps
}

/// What a thread needs.
#[derive(Default)]
pub struct Scratch {
    layout: Option<Layout>,
    /// `[inputs to a multiple of PAIR, PHASES, plane]`
    x: Vec<f32>,
    /// `[outputs to a multiple of BLOCK, plane]`
    dy: Vec<f32>,
    /// `[outputs, or inputs, to a multiple of BLOCK, run]`
    products: Vec<f32>,
}

impl Scratch {
    /// For so many images. What lies between rows is zero, and stays so while rows are in the same
    /// places.
    fn of(&mut self, s: &Shape, images: usize) -> Layout {
        let layout = Layout::new(s, images);
        if self.layout != Some(layout) {
            self.layout = Some(layout);
            for (values, size) in [
                (
                    &mut self.x,
                    s.c_in.next_multiple_of(PAIR) * PHASES * layout.plane(),
                ),
                (
                    &mut self.dy,
                    s.c_out.next_multiple_of(BLOCK) * layout.plane(),
                ),
                (
                    &mut self.products,
                    s.c_in.max(s.c_out).next_multiple_of(BLOCK) * layout.run,
                ),
            ] {
                values.clear();
                values.resize(size, 0.0);
            }
        }
        layout
    }
}

/// Outputs.
pub struct StridedForward {
    shape: Shape,
    weight: Vec<Taps<TAPS>>,
    bias: Vec<f32>,
}

impl StridedForward {
    pub fn new(shape: &Shape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let s = *shape;
        Self {
            shape: s,
            weight: blocks((s.c_out, s.c_in), |o, i, t| weight[s.weight_at(o, i, t)]),
            bias: s.bias_of(bias),
        }
    }
}

impl Forward for StridedForward {
    type Scratch = Scratch;

    fn together(&self) -> usize {
        together(&self.shape)
    }

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn forward(&self, scratch: &mut Scratch, x: &[f32], y: &mut [f32]) {
        let s = &self.shape;
        let layout = scratch.of(s, x.len() / s.image());
        layout.split(s.c_in, x, &mut scratch.x);
        let inputs = &scratch.x[..s.c_in * PHASES * layout.plane()];
        Arch::new().dispatch(Convolve {
            run: layout.run,
            offsets: layout.taps(),
            inputs: s.c_in,
            weight: &self.weight,
            x: inputs,
            y: &mut scratch.products,
        });
        layout.gather(&scratch.products, &self.bias, y);
    }
}

/// Gradients.
pub struct StridedBackward {
    shape: Shape,
    /// Of the input gradient, whose planes are convolutions of their own: those that even and odd rows
    /// and columns are read by, in the order of [`layout`].
    both_even: Vec<Taps<1>>,
    odd_columns: Vec<Taps<2>>,
    odd_rows: Vec<Taps<2>>,
    both_odd: Vec<Taps<4>>,
}

impl StridedBackward {
    pub fn new(shape: &Shape, weight: &[f32]) -> Self {
        let s = *shape;
        let tap = |taps: &'static [usize]| {
            move |i: usize, o: usize, t: usize| weight[s.weight_at(o, i, taps[t])]
        };
        let channels = (s.c_in, s.c_out);
        Self {
            shape: s,
            both_even: blocks(channels, tap(&[4])),
            odd_columns: blocks(channels, tap(&[3, 5])),
            odd_rows: blocks(channels, tap(&[1, 7])),
            both_odd: blocks(channels, tap(&[0, 2, 6, 8])),
        }
    }
}

impl Backward for StridedBackward {
    type Scratch = Scratch;

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn weight_gradient(&self, scratch: &mut Scratch, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let s = &self.shape;
        let arch = Arch::new();
        let together = together(s);
        // `[ROW, outputs, inputs, ROW]`
        let of_row = s.c_out.next_multiple_of(BLOCK) * s.c_in * ROW;
        let mut sums = vec![0.0; ROW * of_row];
        let images = x
            .chunks(together * s.image())
            .zip(dy.chunks(together * s.out_image()));
        for (x, dy) in images {
            let layout = scratch.of(s, x.len() / s.image());
            layout.split(s.c_in, x, &mut scratch.x);
            layout.spread(s.c_out, dy, &mut scratch.dy);
            let taps = layout.taps();
            let (rows, _) = taps.as_chunks::<ROW>();
            for (&offsets, dw) in rows.iter().zip(sums.chunks_exact_mut(of_row)) {
                arch.dispatch(Correlate {
                    run: layout.run,
                    offsets,
                    start: layout.start(),
                    inputs: s.c_in,
                    x: &scratch.x,
                    dy: &scratch.dy,
                    dw,
                });
            }
        }
        for (channel, dw) in dw.chunks_exact_mut(TAPS).enumerate() {
            for (t, d) in dw.iter_mut().enumerate() {
                *d += sums[t / ROW * of_row + channel * ROW + t % ROW];
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
            let layout = scratch.of(s, dx.len() / s.image());
            layout.spread(s.c_out, dy, &mut scratch.dy);
            let dy = &scratch.dy[..s.c_out * layout.plane()];
            let [up, left, diagonal] = layout.before();
            let here = layout.start();
            let mut plane = Plane {
                layout,
                inputs: s.c_out,
                dy,
                products: &mut scratch.products,
            };
            let mut join = |phase, products: &[f32]| layout.join(s.c_in, phase, products, dx);
            join([0, 0], plane.of([here], &self.both_even));
            join([0, 1], plane.of([here, left], &self.odd_columns));
            join([1, 0], plane.of([here, up], &self.odd_rows));
            join([1, 1], plane.of([here, left, up, diagonal], &self.both_odd));
        }
    }
}

/// A plane of the inputs' gradients.
struct Plane<'a> {
    layout: Layout,
    inputs: usize,
    dy: &'a [f32],
    products: &'a mut [f32],
}

impl Plane<'_> {
    /// What taps that read there give.
    fn of<const N: usize>(&mut self, offsets: [usize; N], weight: &[Taps<N>]) -> &[f32] {
        Arch::new().dispatch(Convolve {
            run: self.layout.run,
            offsets,
            inputs: self.inputs,
            weight,
            x: self.dy,
            y: self.products,
        });
        self.products
    }
}
