//! Operations that multiply nothing: images to codes, tables, shortcuts, pooling.

use lb_format::{NetworkInfo, QParams, dither};

use crate::conv::{Values, ValuesMut};
use crate::plane::Plane;

/// How the bytes of an image lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PixelLayout {
    /// All red, then all green, then all blue (`[3, H, W]`), as in CIFAR's files.
    #[default]
    Planar,
    /// Red, green and blue of each pixel together (`[H, W, 3]`), as most decoders give them.
    Interleaved,
}

/// From a code counted from the smallest one to the code of other parameters.
fn recode(q: &QParams, real: f32, relu: bool) -> u16 {
    let real = if relu { real.max(0.0) } else { real };
    (q.channel(0).quantize(real, q.range()) - q.range().lo) as u16
}

/// The code of every byte in every channel: normalisation and rounding folded into a table. With
/// dither, one for each place of its pattern, row after row.
#[derive(Debug)]
pub struct ImageTable(Vec<Codes>);

/// Of red, green and blue.
type Codes = [[u16; 256]; 3];

impl ImageTable {
    /// The table of `info`'s normalisation and the image's parameters.
    pub fn new(info: &NetworkInfo, q: &QParams, relu: bool, dithered: bool) -> Self {
        let period = if dithered { dither::PERIOD } else { 1 };
        let scale = q.channel(0).scale;
        let table = |place: usize| -> Codes {
            std::array::from_fn(|c| {
                let added = match dithered {
                    true => dither::dither(c, place / period, place % period) * scale,
                    false => 0.0,
                };
                std::array::from_fn(|x| recode(q, info.real_pixel(c, x as u8) + added, relu))
            })
        };
        Self((0..period * period).map(table).collect())
    }

    /// Codes of one image.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn run(&self, pixels: &[u8], layout: PixelLayout, plane: &Plane, out: ValuesMut) {
        const PERIOD: usize = dither::PERIOD;
        let plain = self.0.len() == 1;
        let narrow = |code| code as u8;
        match out {
            ValuesMut::U8(out) if plain => self.write::<1, _>(pixels, layout, plane, out, narrow),
            ValuesMut::U8(out) => self.write::<PERIOD, _>(pixels, layout, plane, out, narrow),
            ValuesMut::U16(out) if plain => self.write::<1, _>(pixels, layout, plane, out, |c| c),
            ValuesMut::U16(out) => self.write::<PERIOD, _>(pixels, layout, plane, out, |c| c),
            ValuesMut::F32(_) => unreachable!("an image becomes codes"),
        }
    }

    /// By the tables of a pattern that repeats after `PERIOD` rows and columns.
    fn write<const PERIOD: usize, T>(
        &self,
        pixels: &[u8],
        layout: PixelLayout,
        plane: &Plane,
        out: &mut [T],
        code: impl Fn(u16) -> T,
    ) {
        let area = plane.height * plane.width;
        for y in 0..plane.height {
            let row = &mut out[plane.at(y, 0)..][..plane.width * plane.stride];
            let from = y * plane.width;
            let pixels_of_row = row.chunks_exact_mut(plane.stride);
            let tables: [&Codes; PERIOD] =
                std::array::from_fn(|x| &self.0[y % PERIOD * PERIOD + x]);
            let put = |x: usize, o: &mut [T], p: [u8; 3]| {
                let [r, g, b] = tables[x % PERIOD];
                o[0] = code(r[usize::from(p[0])]);
                o[1] = code(g[usize::from(p[1])]);
                o[2] = code(b[usize::from(p[2])]);
            };
            match layout {
                PixelLayout::Planar => {
                    let line = |c: usize| pixels[c * area + from..][..plane.width].iter();
                    let lines = line(0).zip(line(1)).zip(line(2));
                    for (x, (o, ((&r, &g), &b))) in pixels_of_row.zip(lines).enumerate() {
                        put(x, o, [r, g, b]);
                    }
                }
                PixelLayout::Interleaved => {
                    let line = &pixels[3 * from..][..3 * plane.width];
                    for (x, (o, &p)) in pixels_of_row.zip(line.as_chunks().0).enumerate() {
                        put(x, o, p);
                    }
                }
            }
        }
    }
}

/// The new code of every code.
#[derive(Debug)]
pub struct CodeTable(Vec<u16>);

impl CodeTable {
    /// From the codes of `from` to those of `to`.
    pub fn new(from: &QParams, to: &QParams, relu: bool) -> Self {
        let codes = from.range().lo..=from.range().hi;
        Self(
            codes
                .map(|code| recode(to, from.channel(0).dequantize(code), relu))
                .collect(),
        )
    }

    /// Codes of one image.
    pub fn run(&self, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
        match (from.1, to.1) {
            (Values::U8(x), ValuesMut::U8(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c as u8);
            }
            (Values::U8(x), ValuesMut::U16(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c);
            }
            (Values::U16(x), ValuesMut::U8(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c as u8);
            }
            (Values::U16(x), ValuesMut::U16(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c);
            }
            _ => unreachable!("a table maps codes"),
        }
    }

    fn rows<X: Copy, Y>(
        &self,
        from: &Plane,
        x: &[X],
        to: &Plane,
        out: &mut [Y],
        index: impl Fn(X) -> usize,
        code: impl Fn(u16) -> Y,
    ) {
        for y in 0..from.height {
            let line = &x[from.at(y, 0)..][..from.width * from.stride];
            let row = &mut out[to.at(y, 0)..][..to.width * to.stride];
            let pixels = line.chunks_exact(from.stride);
            for (o, p) in row.chunks_exact_mut(to.stride).zip(pixels) {
                for (o, &x) in o.iter_mut().zip(&p[..from.channels]) {
                    *o = code(self.0[index(x)]);
                }
            }
        }
    }
}

/// Option-A shortcut of one image: every `stride`-th pixel, zero points in the new channels.
pub fn pad(stride: usize, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
    match (from.1, to.1) {
        (Values::U8(x), ValuesMut::U8(y)) => pad_rows(stride, from.0, x, to.0, y, to.0.fill as u8),
        (Values::U16(x), ValuesMut::U16(y)) => pad_rows(stride, from.0, x, to.0, y, to.0.fill),
        _ => unreachable!("a shortcut keeps its codes"),
    }
}

fn pad_rows<T: Copy>(stride: usize, from: &Plane, x: &[T], to: &Plane, out: &mut [T], zero: T) {
    // Known lengths compile to a few vector instructions a pixel.
    match (from.channels, to.channels, to.stride) {
        (16, 32, 32) => pad_pixels::<T, 16, 32>(stride, from, x, to, out, zero),
        (32, 64, 64) => pad_pixels::<T, 32, 64>(stride, from, x, to, out, zero),
        (64, 128, 128) => pad_pixels::<T, 64, 128>(stride, from, x, to, out, zero),
        _ => {
            let before = (to.channels - from.channels) / 2;
            for_pixels(stride, from, x, to, out, |x, o| {
                o.fill(zero);
                o[before..before + from.channels].copy_from_slice(&x[..from.channels]);
            });
        }
    }
}

fn pad_pixels<T: Copy, const FROM: usize, const TO: usize>(
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
    zero: T,
) {
    for_pixels(stride, from, x, to, out, |x, o| {
        let before = (TO - FROM) / 2;
        let o: &mut [T; TO] = o.try_into().expect("a pixel");
        o[..before].fill(zero);
        o[before..before + FROM].copy_from_slice(&x[..FROM]);
        o[before + FROM..].fill(zero);
    });
}

/// Calls `put` with every `stride`-th pixel of the input and the pixel of the output it goes to.
fn for_pixels<T>(
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
    mut put: impl FnMut(&[T], &mut [T]),
) {
    for y in 0..to.height {
        let line = x[from.at(y * stride, 0)..]
            .chunks(from.stride)
            .step_by(stride);
        let row = out[to.at(y, 0)..]
            .chunks_exact_mut(to.stride)
            .take(to.width);
        for (x, o) in line.zip(row) {
            put(x, o);
        }
    }
}

/// Largest code of each window of one image: codes grow with the values they stand for.
pub fn max_pool(size: usize, stride: usize, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
    match (from.1, to.1) {
        (Values::U8(x), ValuesMut::U8(y)) => max_rows(size, stride, from.0, x, to.0, y),
        (Values::U16(x), ValuesMut::U16(y)) => max_rows(size, stride, from.0, x, to.0, y),
        _ => unreachable!("max pooling keeps its codes"),
    }
}

fn max_rows<T: Copy + Ord>(
    size: usize,
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
) {
    for y in 0..to.height {
        for column in 0..to.width {
            let o = &mut out[to.at(y, column)..][..to.channels];
            o.copy_from_slice(&x[from.at(y * stride, column * stride)..][..to.channels]);
            for dy in 0..size {
                for dx in 0..size {
                    let at = from.at(y * stride + dy, column * stride + dx);
                    for (o, &x) in o.iter_mut().zip(&x[at..]) {
                        *o = (*o).max(x);
                    }
                }
            }
        }
    }
}

/// Mean over the image, then rounding to codes.
///
/// Of codes the sum is exact; real values are added row by row in `f32`, every channel in the same
/// order whatever the kernel.
#[derive(Debug)]
pub struct Pool {
    /// Real value of an input: `scale · (held − zero)`; of real inputs `(1, 0)`.
    from: (f32, i32),
    to: QParams,
    relu: bool,
}

impl Pool {
    /// From codes of `from` (`None`: real values) to codes of `to`.
    pub fn new(from: Option<&QParams>, to: &QParams, relu: bool) -> Self {
        let from = from.map_or((1.0, 0), |q| {
            let a = q.channel(0);
            (a.scale, a.zero_point - q.range().lo)
        });
        Self {
            from,
            to: to.clone(),
            relu,
        }
    }

    /// Codes of one image. `sums`: scratch of a value a channel.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn run(
        &self,
        (plane, input): (&Plane, Values),
        sums: &mut [f32],
        (to, mut out): (&Plane, ValuesMut),
    ) {
        let sums = &mut sums[..plane.channels];
        let (height, width) = (plane.height, plane.width);
        match input {
            Values::F32(x) => {
                // Sixteen channels at a time stay in registers over all pixels. Real planes have
                // whole blocks of them.
                for (block, sums) in sums.chunks_mut(16).enumerate() {
                    let mut all = [0.0; 16];
                    for y in 0..height {
                        let row = &x[plane.at(y, 0)..][..width * plane.stride];
                        for pixel in row.chunks_exact(plane.stride) {
                            let pixel = pixel[16 * block..].first_chunk::<16>();
                            for (s, x) in all.iter_mut().zip(pixel.expect("a whole block")) {
                                *s += x;
                            }
                        }
                    }
                    sums.copy_from_slice(&all[..sums.len()]);
                }
            }
            codes => {
                for (c, s) in sums.iter_mut().enumerate() {
                    let mut sum = 0i64;
                    for y in 0..height {
                        for x in 0..width {
                            sum += codes.real(plane.at(y, x) + c) as i64 - i64::from(self.from.1);
                        }
                    }
                    *s = sum as f32;
                }
            }
        }
        let (positions, scale) = ((height * width) as f32, self.from.0);
        let at = to.at(0, 0);
        for (c, &sum) in sums.iter().enumerate() {
            let code = recode(&self.to, sum / positions * scale, self.relu);
            match out {
                ValuesMut::U8(ref mut v) => v[at + c] = code as u8,
                ValuesMut::U16(ref mut v) => v[at + c] = code,
                ValuesMut::F32(_) => unreachable!("pooled values become codes"),
            }
        }
    }
}
