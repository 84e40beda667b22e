//! All sizes of one convolution.

use super::super::Geometry;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub n: usize,
    pub c_in: usize,
    pub h: usize,
    pub w: usize,
    pub c_out: usize,
    pub k: usize,
    pub h_out: usize,
    pub w_out: usize,
    pub geometry: Geometry,
}

impl Shape {
    /// # Panics
    /// If the shapes do not fit.
    pub fn new(x: [usize; 4], weight: [usize; 4], geometry: Geometry) -> Self {
        let [n, c_in, h, w] = x;
        let [c_out, inputs, k, k_w] = weight;
        assert!(
            inputs == c_in && k == k_w,
            "a convolution {weight:?} of {x:?}: the kernel is square and has {c_in} input channels"
        );
        let out = |size: usize| {
            let padded = size + 2 * geometry.padding;
            assert!(
                padded >= k,
                "a kernel of {k} is larger than the image {x:?}"
            );
            (padded - k) / geometry.stride + 1
        };
        Self {
            n,
            c_in,
            h,
            w,
            c_out,
            k,
            h_out: out(h),
            w_out: out(w),
            geometry,
        }
    }

    pub fn output(&self) -> [usize; 4] {
        [self.n, self.c_out, self.h_out, self.w_out]
    }

    pub fn input(&self) -> [usize; 4] {
        [self.n, self.c_in, self.h, self.w]
    }

    pub fn weight(&self) -> [usize; 4] {
        [self.c_out, self.c_in, self.k, self.k]
    }

    pub fn bias(&self) -> [usize; 1] {
        [self.c_out]
    }

    /// Values of an input image.
    pub fn image(&self) -> usize {
        self.c_in * self.h * self.w
    }

    /// Output positions of an image.
    pub fn positions(&self) -> usize {
        self.h_out * self.w_out
    }

    /// Inputs that one output sees.
    pub fn taps(&self) -> usize {
        self.c_in * self.k * self.k
    }

    /// Where a weight stands.
    pub fn weight_at(&self, output: usize, input: usize, tap: usize) -> usize {
        (output * self.c_in + input) * self.k * self.k + tap
    }

    /// The bias, or zeros.
    pub fn bias_of(&self, bias: Option<&[f32]>) -> Vec<f32> {
        bias.map_or_else(|| vec![0.0; self.c_out], <[f32]>::to_vec)
    }

    /// Output positions of all images.
    pub fn all_positions(&self) -> usize {
        self.n * self.positions()
    }

    /// Values of an output image.
    pub fn out_image(&self) -> usize {
        self.c_out * self.positions()
    }
}
