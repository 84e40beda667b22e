//! Made-up convolutions and inputs, for tests and benchmarks of kernels.

use lb_format::graph::Shape;
use lb_format::{Affine, BitWidth, QParams};

use crate::buffers::{self, Buffer, Need};
use crate::conv::{Conv, Epilogue, Io, Kind, Values, ValuesMut};
use crate::integer::IntegerLayer;
use crate::kernel::Run;
use crate::kernel::window_sum::{self, WindowSum};
use crate::plane::Plane;

/// What codes to make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// Any, evenly.
    Random,
    /// Only the smallest and the largest, at random: what overflows first.
    Extreme,
    /// The largest everywhere.
    Largest,
    /// Zero everywhere.
    Zero,
}

/// A description of a convolution to make up.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Input size.
    pub input: Shape,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between output positions.
    pub stride: usize,
    /// Pixels added on every side.
    pub padding: usize,
    /// Border beyond the padding, as another reader may need it.
    pub more_border: usize,
    /// Bits of weights.
    pub weight_bits: u8,
    /// Bits of input codes.
    pub input_bits: u8,
    /// Bits of output codes; `None` for real values.
    pub output_bits: Option<u8>,
    /// Whether the input has a zero point other than 0.
    pub zero_point: bool,
    /// Whether weights have real offsets. Without, those of one and two bits are odd integers.
    pub offsets: bool,
    /// Kind of the residual.
    pub residual: Option<Kind>,
    /// Whether there is a ReLU.
    pub relu: bool,
    /// Weights and inputs.
    pub codes: Codes,
    /// Draws everything.
    pub seed: u64,
}

impl Recipe {
    /// A 3×3 convolution of `channels` to as many on a square image, as most of a ResNet is, with
    /// `bits` for everything, offsets and a residual.
    pub fn body(channels: usize, side: usize, bits: u8) -> Self {
        Self {
            input: Shape::new(channels, side, side),
            c_out: channels,
            kernel: [3, 3],
            stride: 1,
            padding: 1,
            more_border: 0,
            weight_bits: bits,
            input_bits: bits,
            output_bits: Some(bits),
            zero_point: false,
            offsets: true,
            residual: Some(Kind::U8),
            relu: true,
            codes: Codes::Random,
            seed: 1,
        }
    }

    /// The convolution.
    ///
    /// # Panics
    /// If the recipe makes no sense.
    pub fn conv(&self) -> Conv {
        let mut random = Random(self.seed);
        let weights = BitWidth::new(self.weight_bits)
            .expect("a width")
            .range(true);
        let [kh, kw] = self.kernel;
        let depth = kh * kw * self.input.channels;
        let q = (0..self.c_out * depth)
            .map(|_| random.code(self.codes, weights.lo, weights.hi))
            // Few bits without an offset are odd integers, as `IntegerLayer` doubles them.
            .map(|k| match self.weight_bits {
                ..=2 if !self.offsets => 2 * k + 1,
                _ => k,
            })
            .collect();
        let reals = |random: &mut Random, size: f32| -> Vec<f32> {
            (0..self.c_out)
                .map(|_| size * (random.real() - 0.5))
                .collect()
        };
        let layer = IntegerLayer {
            name: "synthetic".into(),
            q,
            scale: (0..self.c_out)
                .map(|_| 0.01 * (0.5 + random.real()))
                .collect(),
            offset: match self.offsets {
                true => reals(&mut random, 0.01),
                false => vec![0.0; self.c_out],
            },
            c_out: self.c_out,
            c_in: self.input.channels,
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            bias: reals(&mut random, 2.0),
            bits: self.weight_bits,
        };
        let zero = match self.zero_point {
            true => (1 << self.input_bits) / 2,
            false => 0,
        };
        let input_params = params(self.input_bits, 0.05, zero);
        let out = |n: usize, k: usize| (n + 2 * self.padding - k) / self.stride + 1;
        let output = Shape::new(
            self.c_out,
            out(self.input.height, kh),
            out(self.input.width, kw),
        );
        let border = self.padding + self.more_border;
        let stride = match self.input.channels {
            ..=4 => 4,
            n => n.next_multiple_of(16),
        };
        let epilogue = Epilogue {
            residual: self.residual.map(|_| (0.03, 0)),
            relu: self.relu,
            // Wide enough that many codes are used, narrow enough that some are clamped.
            output: self.output_bits.map(|b| {
                let levels = (1u32 << b) as f32;
                let spread = 0.0002
                    * (depth as f32).sqrt()
                    * input_params.range().hi as f32
                    * weights.hi.max(1) as f32;
                params(b, spread.max(1e-3) / levels, if self.relu { 0 } else { 1 })
            }),
        };
        let kind = match self.output_bits {
            None => Kind::F32,
            Some(16) => Kind::U16,
            Some(_) => Kind::U8,
        };
        Conv::new(
            layer,
            (
                Plane::with_stride(self.input, stride, border, zero as u16),
                &input_params,
            ),
            (Plane::new(output, self.more_border, 1), kind),
            self.residual.map(|kind| (Plane::new(output, 1, 0), kind)),
            &epilogue,
        )
        .expect("a sound recipe")
    }
}

pub(crate) fn params(bits: u8, scale: f32, zero_point: i32) -> QParams {
    let affine = Affine {
        scale,
        zero_point,
        offset: 0.0,
    };
    QParams::per_tensor(BitWidth::new(bits).expect("a width"), false, affine)
}

/// A convolution's buffers with made-up content.
pub struct Inputs {
    input: Buffer,
    residual: Option<Buffer>,
    sums: Vec<f32>,
}

impl Inputs {
    /// Inputs of `recipe`'s convolution. Everything that a kernel must not rely on (channels
    /// beyond the last, values behind the end) holds noise.
    pub fn new(recipe: &Recipe, conv: &Conv) -> Self {
        let mut random = Random(recipe.seed ^ 0x5bd1_e995);
        let kind = conv.input_kind;
        let mut input = Buffer::new(&Need::one(conv.input, kind));
        noise(&mut random, &mut input, &conv.input, 0xff);
        let (codes, max) = (recipe.codes, conv.input_max);
        each(&conv.input, |i, inside| {
            let code = match inside {
                true => random.code(codes, 0, max),
                false => i32::from(conv.input.fill),
            };
            match input.image_mut(&conv.input, 0) {
                ValuesMut::U8(v) => v[i] = code as u8,
                ValuesMut::U16(v) => v[i] = code as u16,
                ValuesMut::F32(_) => unreachable!("codes"),
            }
        });
        let residual = conv.residual.map(|(plane, kind)| {
            let mut buffer = Buffer::new(&Need::one(plane, kind));
            noise(&mut random, &mut buffer, &plane, 0x0f);
            buffer
        });
        let mut sums = vec![0.0; conv.output.height * conv.output.width + window_sum::SLACK];
        let mut scratch = vec![0; WindowSum::scratch(conv)];
        let values = input.image(&conv.input, 0);
        WindowSum::new(conv, None).run(conv, values, &mut scratch, &mut sums);
        Self {
            input,
            residual,
            sums,
        }
    }

    /// Runs `kernel` on them into `output`.
    pub fn run(&self, kernel: &dyn Run, output: &mut Buffer, scratch: &mut [u8]) {
        let conv = kernel.conv();
        kernel.run(Io {
            input: self.input.image(&conv.input, 0),
            residual: (self.residual.as_ref().zip(conv.residual)).map(|(b, (p, _))| b.image(&p, 0)),
            sums: &self.sums,
            output: output.image_mut(&conv.output, 0),
            scratch,
        });
    }

    /// The inputs of several images, to run together.
    ///
    /// # Panics
    /// If there is none.
    pub fn together(conv: &Conv, images: &[Self]) -> Self {
        let join = |plane: Plane, of: &dyn Fn(&Self) -> &Buffer| {
            let kind = of(&images[0]).image(&plane, 0).kind();
            let mut all = Buffer::new(&Need {
                images: images.len(),
                ..Need::one(plane, kind)
            });
            for (i, image) in images.iter().enumerate() {
                match (all.image_mut(&plane, i), of(image).image(&plane, 0)) {
                    (ValuesMut::U8(to), Values::U8(x)) => to[..x.len()].copy_from_slice(x),
                    (ValuesMut::U16(to), Values::U16(x)) => to[..x.len()].copy_from_slice(x),
                    (ValuesMut::F32(to), Values::F32(x)) => to[..x.len()].copy_from_slice(x),
                    _ => unreachable!("images of one convolution have one kind"),
                }
            }
            all
        };
        Self {
            input: join(conv.input, &|i| &i.input),
            residual: (conv.residual)
                .map(|(plane, _)| join(plane, &|i| i.residual.as_ref().expect("all have one"))),
            sums: images.iter().flat_map(|i| i.sums.iter().copied()).collect(),
        }
    }

    /// Runs `kernel` on `images` images at once.
    pub fn run_together(&self, kernel: &dyn Run, output: &mut Buffer, images: usize) {
        let conv = kernel.conv();
        let io = Io {
            input: self.input.image(&conv.input, 0),
            residual: (self.residual.as_ref().zip(conv.residual)).map(|(b, (p, _))| b.image(&p, 0)),
            sums: &self.sums,
            output: output.image_mut(&conv.output, 0),
            scratch: &mut [],
        };
        kernel.run_together(io, images);
    }

    /// The input's values.
    pub fn input(&self, conv: &Conv) -> Values<'_> {
        self.input.image(&conv.input, 0)
    }

    /// The sums of the windows.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }
}

/// Memory for `kernel`'s output of `images` images, and its scratch.
pub fn outputs(
    kernel: &dyn Run,
    images: usize,
) -> (Buffer, aligned_vec::AVec<u8, aligned_vec::ConstAlign<64>>) {
    let conv = kernel.conv();
    (
        Buffer::new(&Need {
            images,
            ..Need::one(conv.output, conv.output_kind)
        }),
        buffers::bytes(kernel.scratch()),
    )
}

/// The bits of every value of image `image` of an output, `[H, W, C]`, and of its border.
pub fn bits(conv: &Conv, output: &Buffer, image: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut inside, mut border) = (Vec::new(), Vec::new());
    let values = output.image(&conv.output, image);
    let bit = |i: usize| match values {
        Values::F32(v) => v[i].to_bits(),
        codes => codes.real(i) as u32,
    };
    each(&conv.output, |i, is_inside| match is_inside {
        true => inside.push(bit(i)),
        false => border.push(bit(i)),
    });
    (inside, border)
}

/// Calls `see` with the index of every meaningful value, and whether it is inside the border.
fn each(plane: &Plane, mut see: impl FnMut(usize, bool)) {
    for y in 0..plane.height + 2 * plane.border {
        for x in 0..plane.width + 2 * plane.border {
            let inside = (plane.border..plane.border + plane.height).contains(&y)
                && (plane.border..plane.border + plane.width).contains(&x);
            for c in 0..plane.channels {
                see(plane.padded(y, x) + c, inside);
            }
        }
    }
}

fn noise(random: &mut Random, buffer: &mut Buffer, plane: &Plane, mask: u64) {
    match buffer.image_mut(plane, 0) {
        ValuesMut::U8(v) => v.fill_with(|| (random.next() & mask) as u8),
        ValuesMut::U16(v) => v.fill_with(|| (random.next() & mask) as u16),
        ValuesMut::F32(v) => v.fill_with(|| (random.next() & mask) as f32),
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn code(&mut self, codes: Codes, lo: i32, hi: i32) -> i32 {
        match codes {
            Codes::Random => lo + (self.next() % (hi - lo + 1) as u64) as i32,
            Codes::Extreme if self.next() & 1 == 0 => lo,
            Codes::Extreme | Codes::Largest => hi,
            Codes::Zero => 0,
        }
    }
}
