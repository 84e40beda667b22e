//! 3×3 at stride 1 with a border of one in bfloat16, where the processor multiplies it ([`lb_bf16`]).

use lb_bf16::{AmxBf16, Gradient, Image, Pairs, Rows, SIDE, Transposed, Weights, fills_steps};

use super::product::TAPS;
use super::shape::Shape;
use super::{Backward, Forward, Wanted, winograd};

/// The instructions, if outputs of that convolution are computed with them.
pub fn fits(s: &Shape) -> Option<AmxBf16> {
    let fits = winograd::fits(s)
        && input(s).is_taken()
        && s.c_out.is_multiple_of(SIDE)
        && fills_steps(s.c_in);
    fits.then(AmxBf16::detect).flatten()
}

/// The same for gradients.
pub fn fits_backward(s: &Shape, wanted: Wanted) -> Option<AmxBf16> {
    let inputs = s.c_in.is_multiple_of(SIDE);
    let gradients = inputs || s.c_in < SIDE && !wanted.x;
    fits(s).filter(|_| gradients && fills_steps(s.c_out))
}

fn image(channels: usize, s: &Shape) -> Image {
    Image {
        channels,
        height: s.h,
        width: s.w,
    }
}

fn input(s: &Shape) -> Image {
    image(s.c_in, s)
}

fn output(s: &Shape) -> Image {
    image(s.c_out, s)
}

/// Outputs.
pub struct Bf16Forward {
    token: AmxBf16,
    shape: Shape,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

impl Bf16Forward {
    pub fn new(token: AmxBf16, shape: &Shape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let s = *shape;
        Self {
            token,
            shape: s,
            weights: Weights::new(s.c_out, s.c_in, |o, i, t| weight[s.weight_at(o, i, t)]),
            bias: bias.map(<[f32]>::to_vec),
        }
    }
}

impl Forward for Bf16Forward {
    type Scratch = Pairs;

    fn together(&self) -> usize {
        1
    }

    fn scratch(&self) -> Pairs {
        Pairs::new(self.token, input(&self.shape))
    }

    fn forward(&self, scratch: &mut Pairs, x: &[f32], y: &mut [f32]) {
        let s = &self.shape;
        for (x, y) in x
            .chunks_exact(s.image())
            .zip(y.chunks_exact_mut(s.out_image()))
        {
            scratch.fill(x);
            self.weights.multiply(scratch, y);
            for (bias, y) in (self.bias.iter().flatten()).zip(y.chunks_exact_mut(s.positions())) {
                y.iter_mut().for_each(|y| *y += bias);
            }
        }
    }
}

/// Gradients.
pub struct Bf16Backward {
    token: AmxBf16,
    shape: Shape,
    /// Of the input gradient's convolution, if it is wanted.
    weights: Option<Weights>,
}

impl Bf16Backward {
    pub fn new(token: AmxBf16, shape: &Shape, weight: &[f32], wanted: Wanted) -> Self {
        let s = *shape;
        let reversed = |i: usize, o: usize, t: usize| weight[s.weight_at(o, i, TAPS - 1 - t)];
        Self {
            token,
            shape: s,
            weights: wanted.x.then(|| Weights::new(s.c_in, s.c_out, reversed)),
        }
    }
}

/// What a thread needs.
pub struct Scratch {
    x: Rows,
    dy: Transposed,
    pairs: Pairs,
}

impl Backward for Bf16Backward {
    type Scratch = Scratch;

    fn scratch(&self) -> Scratch {
        let s = &self.shape;
        Scratch {
            x: Rows::new(self.token, input(s)),
            dy: Transposed::new(self.token, output(s)),
            pairs: Pairs::new(self.token, output(s)),
        }
    }

    fn weight_gradient(&self, scratch: &mut Scratch, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let s = &self.shape;
        let mut gradient = Gradient::new(s.c_out, s.c_in);
        for (x, dy) in x
            .chunks_exact(s.image())
            .zip(dy.chunks_exact(s.out_image()))
        {
            scratch.x.fill(x);
            scratch.dy.fill(dy);
            gradient.add(&scratch.x, &scratch.dy);
        }
        gradient.add_to(dw);
    }

    fn input_gradient(&self, scratch: &mut Scratch, dy: &[f32], dx: &mut [f32]) {
        let s = &self.shape;
        let weights = self.weights.as_ref().expect("the gradient is wanted");
        for (dx, dy) in dx
            .chunks_exact_mut(s.image())
            .zip(dy.chunks_exact(s.out_image()))
        {
            scratch.pairs.fill(dy);
            weights.multiply(&scratch.pairs, dx);
        }
    }
}
