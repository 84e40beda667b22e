//! From pixels to codes.

use lb_format::{Diffusion, NetworkInfo, QParams, diffusion, dither};

use super::recode;
use crate::conv::ValuesMut;
use crate::fuse::Added;
use crate::kernel::diffuse::Wave;
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

/// From the bytes of an image to its codes.
#[derive(Debug)]
pub enum ImageTable {
    /// The code of every byte in every channel: normalisation and rounding folded into a table. With
    /// dither, one for each place of its pattern, row after row.
    Codes(Vec<Codes>),
    /// With diffusion.
    Diffused(Diffused),
}

/// Of red, green and blue.
type Codes = [[u16; 256]; 3];

/// The value of every byte in every channel, and what becomes of it.
#[derive(Debug)]
pub struct Diffused {
    /// In steps.
    values: Box<[[i32; 256]; 3]>,
    diffusion: Diffusion,
    /// Codes less the zero point.
    range: (i32, i32),
}

impl ImageTable {
    /// The table of `info`'s normalisation and the image's parameters.
    pub fn new(info: &NetworkInfo, q: &QParams, relu: bool, added: Added) -> Self {
        let scale = q.channel(0).scale;
        if let Added::Errors(diffusion) = added {
            let value = |c, x| diffusion::steps(info.real_pixel(c, x as u8), scale);
            return Self::Diffused(Diffused {
                values: Box::new([0, 1, 2].map(|c| std::array::from_fn(|x| value(c, x)))),
                diffusion: diffusion.clone(),
                range: q.steps(),
            });
        }
        let dithered = matches!(added, Added::Pattern);
        let period = if dithered { dither::PERIOD } else { 1 };
        let table = |place: usize| -> Codes {
            std::array::from_fn(|c| {
                let added = match dithered {
                    true => dither::dither(c, place / period, place % period) * scale,
                    false => 0.0,
                };
                std::array::from_fn(|x| recode(q, info.real_pixel(c, x as u8) + added, relu))
            })
        };
        Self::Codes((0..period * period).map(table).collect())
    }

    /// Values of scratch memory that it wants, for an image of so many columns.
    pub fn scratch(&self, width: usize) -> usize {
        match self {
            Self::Codes(_) => 0,
            Self::Diffused(_) => Wave::scratch(width),
        }
    }

    /// Codes of one image.
    ///
    /// # Panics
    /// If a buffer is too short, or `scratch` than [`scratch`](Self::scratch).
    pub fn run(
        &self,
        (pixels, layout): (&[u8], PixelLayout),
        scratch: &mut [i32],
        plane: &Plane,
        out: ValuesMut,
    ) {
        const PERIOD: usize = dither::PERIOD;
        let narrow = |code| code as u8;
        let tables = match (self, out) {
            (Self::Codes(tables), out) => (tables, out),
            (Self::Diffused(diffused), ValuesMut::U8(out)) => {
                return diffused.write(pixels, layout, plane, out, scratch);
            }
            (Self::Diffused(_), _) => unreachable!("at most 8 bits have diffusion"),
        };
        match tables {
            (t, ValuesMut::U8(out)) if t.len() == 1 => {
                write::<1, _>(t, pixels, layout, plane, out, narrow);
            }
            (t, ValuesMut::U8(out)) => write::<PERIOD, _>(t, pixels, layout, plane, out, narrow),
            (t, ValuesMut::U16(out)) if t.len() == 1 => {
                write::<1, _>(t, pixels, layout, plane, out, |c| c);
            }
            (t, ValuesMut::U16(out)) => write::<PERIOD, _>(t, pixels, layout, plane, out, |c| c),
            (_, ValuesMut::F32(_)) => unreachable!("an image becomes codes"),
        }
    }
}

impl Diffused {
    fn write(
        &self,
        pixels: &[u8],
        layout: PixelLayout,
        plane: &Plane,
        out: &mut [u8],
        scratch: &mut [i32],
    ) {
        let (height, width, lowest) = (plane.height, plane.width, self.range.0);
        let wave = Wave {
            diffusion: &self.diffusion,
            range: self.range,
            height,
            width,
        };
        let area = height * width;
        let value = |c: usize, pixel: u8| self.values[c][usize::from(pixel)];
        let put = |y: usize, x: usize, n: [i32; 3]| {
            let codes = &mut out[plane.at(y, x)..][..3];
            for (code, n) in codes.iter_mut().zip(n) {
                *code = (n - lowest) as u8;
            }
        };
        match layout {
            PixelLayout::Planar => {
                let [red, green, blue] = [0, 1, 2].map(|c| &pixels[c * area..][..area]);
                let at = |y: usize, x: usize| {
                    let i = y * width + x;
                    [value(0, red[i]), value(1, green[i]), value(2, blue[i])]
                };
                wave.run(scratch, at, put);
            }
            PixelLayout::Interleaved => {
                let (pixels, _) = pixels.as_chunks::<3>();
                let at = |y: usize, x: usize| {
                    let [r, g, b] = pixels[y * width + x];
                    [value(0, r), value(1, g), value(2, b)]
                };
                wave.run(scratch, at, put);
            }
        }
    }
}

/// By the tables of a pattern that repeats after `PERIOD` rows and columns.
fn write<const PERIOD: usize, T>(
    all: &[Codes],
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
        let tables: [&Codes; PERIOD] = std::array::from_fn(|x| &all[y % PERIOD * PERIOD + x]);
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
