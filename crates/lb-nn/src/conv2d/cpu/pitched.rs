//! Images with a border of zeros, laid out so that every tap of a 3×3 convolution is a shift.
//!
//! A channel is one row after another, each followed by a single zero that is both the right
//! neighbour of its last pixel and the left neighbour of the next row's first; images follow each
//! other with a row of zeros between. In this layout the input that tap (ky, kx) of output `q`
//! reads is `q + ky · pitch + kx`, whatever the row: a convolution runs over all of it without
//! looking at rows, and the outputs it computes in the place of the zeros (1 in 9, 17 or 33) are
//! never read.

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pitched {
    images: usize,
    height: usize,
    width: usize,
    /// Outputs that are computed, those in the place of zeros included.
    pub run: usize,
}

impl Pitched {
    /// `run` is a multiple of `step`.
    pub fn new(images: usize, height: usize, width: usize, step: usize) -> Self {
        let pitched = (images * (height + 1) - 1) * (width + 1);
        Self {
            images,
            height,
            width,
            run: pitched.next_multiple_of(step),
        }
    }

    /// From a pixel to the one below.
    pub fn pitch(&self) -> usize {
        self.width + 1
    }

    /// Where the first pixel of the first image is: what the middle tap of output 0 reads.
    pub fn origin(&self) -> usize {
        self.pitch() + 1
    }

    /// Values of a channel, borders included.
    pub fn len(&self) -> usize {
        self.run + 2 * self.pitch() + 2
    }

    /// Output `q` of every row's first pixel, images and rows in order.
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { height, .. } = *self;
        let pitch = self.pitch();
        (0..self.images).flat_map(move |i| (0..height).map(move |y| (i * (height + 1) + y) * pitch))
    }

    /// Copies `dense`, `[images, channels, H, W]`, to between the zeros of `to`,
    /// `[at least channels, len]`.
    pub fn spread(&self, dense: &[f32], channels: usize, to: &mut [f32]) {
        let plane = self.height * self.width;
        for (c, to) in to.chunks_exact_mut(self.len()).take(channels).enumerate() {
            let image = |i: usize| dense[(i * channels + c) * plane..][..plane].chunks(self.width);
            for (q, row) in self.rows().zip((0..self.images).flat_map(image)) {
                copy(row, &mut to[self.origin() + q..][..self.width]);
            }
        }
    }

    /// Copies channel `c` of `channels` from its `run` outputs to `dense`.
    pub fn gather(&self, run: &[f32], (c, channels): (usize, usize), dense: &mut [f32]) {
        let plane = self.height * self.width;
        let mut rows = self.rows();
        for image in dense.chunks_exact_mut(channels * plane) {
            let image = image[c * plane..][..plane].chunks_mut(self.width);
            for (to, q) in image.zip(rows.by_ref().take(self.height)) {
                copy(&run[q..][..self.width], to);
            }
        }
    }
}

/// A short row: a library call takes longer than the eight or thirty-two values.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    to_rest.copy_from_slice(from_rest);
}
