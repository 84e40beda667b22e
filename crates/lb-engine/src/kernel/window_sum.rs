//! Sums of the input codes under every output position: the price of a weight's real offset, paid
//! once for all output channels.
//!
//! First every pixel's channels are summed, then the window: `k_h · k_w` additions a position
//! instead of `k_h · k_w · C_in`. Everything is added in integers and converted last, so the order
//! does not matter.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::isa::Avx512Vnni;
use crate::conv::{Conv, Values};

/// Sums behind the last position that may be read and written.
pub const SLACK: usize = 32;

/// A way to sum a convolution's windows.
pub struct WindowSum {
    /// What adds the channels of every pixel of the plane, border included.
    pixels: Pixels,
    /// Whether [`avx512`] adds windows.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    token: Option<Avx512Vnni>,
}

enum Pixels {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Pixels),
}

impl WindowSum {
    /// The best way for `conv` with these instructions.
    pub fn new(conv: &Conv, token: Option<Avx512Vnni>) -> Self {
        let pixels = Pixels::Portable;
        #[cfg(target_arch = "x86_64")]
        let pixels = match token.and_then(|token| avx512::Pixels::new(conv, token)) {
            Some(vector) => Pixels::Avx512(vector),
            None => pixels,
        };
        let _ = conv;
        Self { pixels, token }
    }

    /// Values of scratch that [`run`](Self::run) wants.
    pub fn scratch(conv: &Conv) -> usize {
        let p = conv.input;
        (p.height + 2 * p.border) * columns(conv) + conv.output.width + SLACK
    }

    /// Writes `Σ x − z_x K` for every output position, row by row.
    ///
    /// # Shapes
    /// `scratch`: at least [`scratch`](Self::scratch) values; `sums`: `[H_out · W_out + SLACK]`.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn run(&self, conv: &Conv, input: Values, scratch: &mut [i32], sums: &mut [f32]) {
        let (plane, out) = (conv.input, conv.output);
        assert!(scratch.len() >= Self::scratch(conv), "scratch too short");
        assert!(
            sums.len() >= out.height * out.width + SLACK,
            "sums too short"
        );
        let pixels = (plane.height + 2 * plane.border) * columns(conv);
        match (&self.pixels, input) {
            #[cfg(target_arch = "x86_64")]
            (Pixels::Avx512(vector), Values::U8(x)) => vector.run(x, &mut scratch[..], pixels),
            (_, Values::U8(x)) => {
                channel_sums(x, plane.stride, plane.channels, &mut scratch[..pixels])
            }
            (_, Values::U16(x)) => {
                channel_sums(x, plane.stride, plane.channels, &mut scratch[..pixels])
            }
            (_, Values::F32(_)) => panic!("real values have no codes to sum"),
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.token.filter(|_| matches!(conv.layer.stride, 1 | 2)) {
            return avx512::windows(conv, scratch, sums, token);
        }
        windows(conv, scratch.split_at_mut(pixels), sums);
    }
}

/// Pixels of a row of the plane.
fn columns(conv: &Conv) -> usize {
    conv.input.width + 2 * conv.input.border
}

/// Minus the zero point's part, where every sum starts.
fn start(conv: &Conv) -> i32 {
    -i32::try_from(conv.sum_start).expect("checked by the plan")
}

/// Index of the pixel in the corner of the first window.
fn corner(conv: &Conv) -> usize {
    let inset = conv.input.border - conv.layer.padding;
    inset * columns(conv) + inset
}

/// Adds the pixels of every window.
fn windows(conv: &Conv, (pixels, row): (&mut [i32], &mut [i32]), sums: &mut [f32]) {
    let (layer, out) = (&conv.layer, conv.output);
    let [kh, kw] = layer.kernel;
    let row = &mut row[..out.width];
    let rows = sums.chunks_exact_mut(out.width).take(out.height);
    for (y, sums) in rows.enumerate() {
        row.fill(start(conv));
        for ky in 0..kh {
            let from = (y * layer.stride + ky) * columns(conv) + corner(conv);
            let line = &pixels[from..][..(out.width - 1) * layer.stride + kw];
            for kx in 0..kw {
                for (s, x) in row.iter_mut().zip(line[kx..].iter().step_by(layer.stride)) {
                    *s += x;
                }
            }
        }
        for (s, &x) in sums.iter_mut().zip(&*row) {
            *s = x as f32;
        }
    }
}

/// The sum of each pixel's channels. Channels beyond `channels` hold anything and are left out.
fn channel_sums<T: Copy + Into<u32>>(x: &[T], stride: usize, channels: usize, pixels: &mut [i32]) {
    for (s, x) in pixels.iter_mut().zip(x.chunks_exact(stride)) {
        *s = x[..channels].iter().map(|&x| x.into()).sum::<u32>() as i32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Inputs, Recipe};
    use lb_format::graph::Shape;

    #[test]
    fn vectors_add_what_plain_loops_add() {
        let Some(token) = Avx512Vnni::detect() else {
            eprintln!("SKIPPED vectors_add_what_plain_loops_add: no AVX-512 VNNI");
            return;
        };
        for channels in [1, 3, 4, 5, 16, 17, 32, 48, 64, 65, 128, 200] {
            for (height, width) in [(1, 1), (5, 7), (8, 8), (3, 33), (16, 16)] {
                for (k, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0), (1, 1, 0), (2, 3, 1)]
                {
                    for more_border in [0, 1] {
                        let recipe = Recipe {
                            input: Shape::new(channels, height, width),
                            kernel: [k, k],
                            stride,
                            padding,
                            more_border,
                            zero_point: true,
                            residual: None,
                            ..Recipe::body(16, 8, 8)
                        };
                        let conv = recipe.conv();
                        let inputs = Inputs::new(&recipe, &conv);
                        let n = conv.output.height * conv.output.width;
                        let mut scratch = vec![i32::MAX; WindowSum::scratch(&conv)];
                        let mut sums = vec![f32::NAN; n + SLACK];
                        let sum = WindowSum::new(&conv, Some(token));
                        sum.run(&conv, inputs.input(&conv), &mut scratch, &mut sums);
                        assert_eq!(sums[..n], inputs.sums()[..n], "{recipe:?}");
                    }
                }
            }
        }
    }
}
