//! From pixels to codes.

use lb_format::{NetworkInfo, QParams, dither};

use super::recode;
use crate::conv::ValuesMut;
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
