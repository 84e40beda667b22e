//! Exact Winograd convolution F(2×2, 3×3) in 8-bit integers, for codes of few bits, and on AVX2 in
//! 16-bit integers for all codes of up to 8 bits ([`WinogradAvx2`]).
//!
//! Winograd (1980; for networks Lavin and Gray 2015, arXiv 1509.09308) computes a 2×2 patch of a
//! 3×3 convolution with 16 products instead of 36. With `d` a 4×4 patch of the input and `g` a
//! kernel:
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A          ⊙ is summed over input channels
//!
//!      ⎡1  0 −1  0⎤        ⎡1   0   0⎤
//! Bᵀ = ⎢0  1  1  0⎥    G = ⎢½   ½   ½⎥    Aᵀ = ⎡1  1  1  0⎤
//!      ⎢0 −1  1  0⎥        ⎢½  −½   ½⎥         ⎣0  1 −1 −1⎦
//!      ⎣0  1  0 −1⎦        ⎣0   0   1⎦
//! ```
//!
//! In floating point it loses accuracy. With few bits it is exact, in the same 8-bit instructions:
//!
//! - `u = (2G) g (2G)ᵀ` has integer entries, four times too large: at most 9·|g|, so ±72 for 4-bit
//!   weights and ±126 for |g| ≤ 14. What a layer really has is looked at when it is prepared.
//! - `v = Bᵀ d B` of codes 0 to `m` lies in −2m to 2m, but for position (1, 1), 0 to 4m. Adding 2m to
//!   the others makes all of them 0 to 4m: bytes for `m ≤ 63`. The additions wrap at 8 bits, which
//!   does no harm as the results fit.
//! - `vpdpbusd` sums `u · (v + 2m)` in 32 bits. `−2m Σ u` is where the sum of a position starts. The
//!   zero point's `−z_x Σ q` reaches all four outputs, times four, from position (1, 1), whose
//!   coefficients in `Aᵀ · A` are all 1.
//! - `Aᵀ M A` is four times the accumulator: a factor of the epilogue's scale, with the same bits.

mod multiply;
mod transform;
mod words;

use aligned_vec::{AVec, ConstAlign};

use super::avx512::{Case, LANES, Line, Pointers, case, for_case};
use super::isa::Avx512Vnni as Token;
use super::pack::streaming;
use super::tiles::{Finish, Tile};
use super::window_sum::WindowSum;
use super::{Kernel, Run, check, must_take};
use crate::conv::{Conv, Io};
use crate::plane::TAIL;
use multiply::{Group, Shape, Sums};
pub use words::WinogradAvx2;

/// Positions of a transformed patch, `4 i + j`.
const POSITIONS: usize = 16;

/// The Winograd kernel on AVX-512 VNNI.
pub struct Winograd(pub Token);

impl Kernel for Winograd {
    fn name(&self) -> &'static str {
        "winograd"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        let out = conv.output;
        let layer = &conv.layer;
        let fits = conv.is_narrow()
            && layer.kernel == [3, 3]
            && layer.stride == 1
            && conv.input_max <= 63
            && (matches!(conv.input.stride, 16 | 32) || conv.input.stride.is_multiple_of(64))
            // One pixel more than the plane has is read behind an odd width.
            && conv.input.stride + 64 <= TAIL
            && layer.c_in <= 4096
            // Scaling by a quarter must not leave the normal numbers.
            && conv.requant.acc.iter().all(|a| *a == 0.0 || a.abs() > 1e-30)
            && bytes(conv).is_some();
        if !fits {
            return None;
        }
        let patches = (out.height.div_ceil(2) * out.width.div_ceil(2)) as f64;
        let (quads, blocks) = (
            (conv.input.stride / 4) as f64,
            out.channels.div_ceil(LANES) as f64,
        );
        // As the direct kernel's model, and the transforms of input and output.
        let products = POSITIONS as f64 * quads * 0.2;
        let weights = streaming(POSITIONS * conv.input.stride * out.channels);
        Some(50.0 + patches * (blocks * (products + 10.0) + quads * 1.5) + weights)
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Prepared::new(conv, self.0))
    }
}

/// [`weights`]; `None` if one does not fit 8 bits.
fn bytes(conv: &Conv) -> Option<Vec<i8>> {
    weights(conv)
        .into_iter()
        .map(|u| i8::try_from(u).ok())
        .collect()
}

/// `u` of every output channel, position and input channel, `[C_out, 16, C_in]`.
fn weights(conv: &Conv) -> Vec<i32> {
    let layer = &conv.layer;
    let mut u = vec![0; layer.c_out * POSITIONS * layer.c_in];
    for c_out in 0..layer.c_out {
        let q = layer.channel(c_out);
        for c_in in 0..layer.c_in {
            let g = |ky: usize, kx: usize| q[(ky * 3 + kx) * layer.c_in + c_in];
            // Rows of (2G) times a column: (2a, a + b + c, a − b + c, 2c).
            let times_2g = |[a, b, c]: [i32; 3]| [2 * a, a + b + c, a - b + c, 2 * c];
            let columns: [_; 3] = std::array::from_fn(|x| times_2g([g(0, x), g(1, x), g(2, x)]));
            for i in 0..4 {
                let row = times_2g([columns[0][i], columns[1][i], columns[2][i]]);
                for (j, u_ij) in row.into_iter().enumerate() {
                    u[(c_out * POSITIONS + 4 * i + j) * layer.c_in + c_in] = u_ij;
                }
            }
        }
    }
    u
}

struct Prepared {
    conv: Conv,
    shape: Shape,
    /// Patches a row, the last one half outside if the width is odd.
    patches: usize,
    /// Rows of patches that are transformed together, so that weights are used several times while
    /// they are in the first-level cache.
    rows_together: usize,
    finish: Finish,
    /// `[group of blocks][i][input quad][j][block of the group][16 × 4]`
    weights: AVec<i8, ConstAlign<64>>,
    /// `[group of blocks][i][j][block of the group]`
    start: Vec<Line<i32, LANES>>,
    body: unsafe fn(&Prepared, &Pointers, *mut u8),
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let u = bytes(&conv).expect("`cost` looked at the weights");
        let shape = Shape::of(&conv);
        let patches = conv.output.width.div_ceil(2);
        Self {
            patches,
            rows_together: (16usize.div_ceil(patches)).min(conv.output.height.div_ceil(2)),
            finish: Finish::new(&conv, 4.0),
            weights: pack(&conv, &u, shape.blocks),
            start: starts(&conv, &u, shape.blocks),
            body: for_case!(case(&conv), body),
            shape,
            conv,
        }
    }

    /// Bytes from one `i` of a transformed row of patches to the next; groups of patches are whole.
    fn i_bytes(&self) -> usize {
        self.patches.next_multiple_of(self.shape.patches) * 4 * self.conv.input.stride
    }

    /// Bytes of a transformed row of patches.
    fn row_bytes(&self) -> usize {
        4 * self.i_bytes()
    }
}

fn groups(conv: &Conv, size: usize) -> std::iter::StepBy<std::ops::Range<usize>> {
    (0..conv.layer.c_out.div_ceil(LANES)).step_by(size)
}

fn pack(conv: &Conv, u: &[i8], size: usize) -> AVec<i8, ConstAlign<64>> {
    let layer = &conv.layer;
    let weight = |c_out: usize, position: usize, c_in: usize| match c_out < layer.c_out
        && c_in < layer.c_in
    {
        true => u[(c_out * POSITIONS + position) * layer.c_in + c_in],
        false => 0,
    };
    let mut packed = AVec::new(64);
    for first in groups(conv, size) {
        for i in 0..4 {
            for quad in 0..conv.input.stride / 4 {
                for j in 0..4 {
                    for block in first..first + size {
                        for lane in 0..4 * LANES {
                            let c_out = block * LANES + lane / 4;
                            packed.push(weight(c_out, 4 * i + j, 4 * quad + lane % 4));
                        }
                    }
                }
            }
        }
    }
    packed
}

/// Where sums start: see the module's documentation.
fn starts(conv: &Conv, u: &[i8], size: usize) -> Vec<Line<i32, LANES>> {
    let layer = &conv.layer;
    let start = |c_out: usize, position: usize| {
        if c_out >= layer.c_out {
            return 0;
        }
        let row = (c_out * POSITIONS + position) * layer.c_in;
        let sum: i32 = u[row..row + layer.c_in].iter().map(|&u| i32::from(u)).sum();
        match position {
            transform::CENTRE => 4 * conv.start[c_out] as i32,
            _ => -transform::offset(conv) * sum,
        }
    };
    let mut lines = Vec::new();
    for first in groups(conv, size) {
        for position in 0..POSITIONS {
            for block in first..first + size {
                lines.push(Line(std::array::from_fn(|i| {
                    start(block * LANES + i, position)
                })));
            }
        }
    }
    lines
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn scratch(&self) -> usize {
        self.rows_together * self.row_bytes()
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let pointers = Pointers::new(&mut io);
        let scratch = io.scratch.as_mut_ptr();
        // SAFETY: the token of `prepare` proves the instructions; `check` proved that the planes
        // lie inside the buffers, `TAIL` values behind them included, and the scratch memory.
        unsafe { (self.body)(self, &pointers, scratch) }
    }
}

/// # Safety
/// AVX-512 VNNI; the buffers are those of the convolution.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn body<const C: Case>(p: &Prepared, io: &Pointers, scratch: *mut u8) {
    let (out, size, stride) = (p.conv.output, p.shape.blocks, p.conv.input.stride);
    let mut sums: Sums = Line([0; _]);
    let mut group = Group {
        rounds: stride / 16,
        skip: p.i_bytes() - stride,
        end: sums.0.as_ptr_range().end,
        input: scratch,
        weights: p.weights.as_ptr(),
        start: p.start.as_ptr(),
        sums: sums.0.as_mut_ptr(),
        step: stride,
    };
    let rows = out.height.div_ceil(2);
    for first in (0..rows).step_by(p.rows_together) {
        let together = first..rows.min(first + p.rows_together);
        let transformed = |row: usize| scratch.wrapping_add((row - first) * p.row_bytes());
        for row in together.clone() {
            // SAFETY: the scratch memory has so many rows of patches.
            unsafe {
                transform::input(&p.conv, io, row, p.patches, transformed(row), p.i_bytes());
            }
        }
        for (g, block) in groups(&p.conv, size).enumerate() {
            group.weights = p.weights[g * POSITIONS * stride * size * LANES..].as_ptr();
            group.start = p.start[g * POSITIONS * size..].as_ptr();
            for row in together.clone() {
                for x in (0..p.patches).step_by(p.shape.patches) {
                    group.input = transformed(row).wrapping_add(x * 4 * stride);
                    // SAFETY: patches, weights and starts are there, made for this shape; the
                    // output positions are inside the plane.
                    unsafe {
                        (p.shape.multiply)(&group);
                        finish::<C>(p, io, (2 * row, 2 * x), block, &sums);
                    }
                }
            }
        }
    }
}

/// The vertical half of the output transform, and the epilogue, of the positions from (`y`, `x`) on.
///
/// # Safety
/// They lie inside the output plane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn finish<const C: Case>(
    p: &Prepared,
    io: &Pointers,
    (y, x): (usize, usize),
    block: usize,
    sums: &Sums,
) {
    let out = p.conv.output;
    let positions = (2 * p.shape.patches).min(out.width - x);
    let two = p.shape.blocks == 2 && block + 1 < p.finish.blocks();
    let at = (positions, block);
    // SAFETY: the caller's.
    unsafe {
        let tile = Tile::at(&p.conv, y, x);
        let upper = |j, i| multiply::upper(sums, j, i);
        match two {
            true => p.finish.two::<C>(io, &tile, at, upper),
            false => p.finish.one::<C>(io, &tile, at, upper),
        }
        if y + 1 < out.height {
            let tile = Tile::at(&p.conv, y + 1, x);
            let lower = |j, i| multiply::lower(sums, j, i);
            match two {
                true => p.finish.two::<C>(io, &tile, at, lower),
                false => p.finish.one::<C>(io, &tile, at, lower),
            }
        }
    }
}
