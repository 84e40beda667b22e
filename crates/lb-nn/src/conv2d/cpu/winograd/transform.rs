//! Winograd's algorithm for four outputs of three taps, F(4, 3), along one axis.
//!
//! Four outputs of a three-tap correlation, y_i = Σ_t g_t · d_{i+t}, from six products instead of
//! twelve:
//!
//! ```text
//! y = Aᵀ [(G g) ⊙ (Bᵀ d)]
//! ```
//!
//! with the interpolation points 0, 1, −1, 2, −2 and ∞ (Winograd 1980; Lavin and Gray 2015, arXiv
//! 1509.09308). The expression is linear in `g`, so the gradient of the taps is
//!
//! ```text
//! dg = Gᵀ [(A dy) ⊙ (Bᵀ d)]
//! ```
//!
//! A value here is a vector of neighbours along the other axis, which are all treated alike.

use pulp::Simd;

/// Outputs of a tile.
pub const TILE: usize = 4;
/// Interpolation points, and inputs of a tile.
pub const POINTS: usize = 6;
/// Taps.
const TAPS: usize = 3;

const G: [[f32; TAPS]; POINTS] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// `G g`
pub fn taps(g: [f32; TAPS]) -> [f32; POINTS] {
    G.map(|row| row[0] * g[0] + row[1] * g[1] + row[2] * g[2])
}

/// `Gᵀ m`
pub fn taps_gradient(m: [f32; POINTS]) -> [f32; TAPS] {
    std::array::from_fn(|t| (0..POINTS).map(|p| G[p][t] * m[p]).sum())
}

/// What becomes of the rows that a tile sees: one above it, its own, and one below.
pub trait Rows {
    fn points<S: Simd>(simd: S, rows: [S::f32s; POINTS]) -> [S::f32s; POINTS];
}

/// `Bᵀ d`
pub struct Inputs;

impl Rows for Inputs {
    #[inline(always)]
    fn points<S: Simd>(simd: S, rows: [S::f32s; POINTS]) -> [S::f32s; POINTS] {
        let [d0, d1, d2, d3, d4, d5] = rows;
        let [two, minus_four, four, minus_five] = splat(simd, [2.0, -4.0, 4.0, -5.0]);
        let ends = |a, b, c| simd.mul_add_e_f32s(four, a, simd.mul_add_e_f32s(minus_five, b, c));
        let one = simd.mul_add_e_f32s(minus_four, d2, d4);
        let one_odd = simd.mul_add_e_f32s(minus_four, d1, d3);
        let two_even = simd.sub_f32s(d4, d2);
        let two_odd = simd.mul_f32s(two, simd.sub_f32s(d3, d1));
        [
            ends(d0, d2, d4),
            simd.add_f32s(one, one_odd),
            simd.sub_f32s(one, one_odd),
            simd.add_f32s(two_even, two_odd),
            simd.sub_f32s(two_even, two_odd),
            ends(d1, d3, d5),
        ]
    }
}

/// `A dy`, of the tile's own rows.
pub struct OutputGradients;

impl Rows for OutputGradients {
    #[inline(always)]
    fn points<S: Simd>(simd: S, rows: [S::f32s; POINTS]) -> [S::f32s; POINTS] {
        let [_, y0, y1, y2, y3, _] = rows;
        let [two, four, eight] = splat(simd, [2.0, 4.0, 8.0]);
        let one = simd.add_f32s(y0, y2);
        let one_odd = simd.add_f32s(y1, y3);
        let two_even = simd.mul_add_e_f32s(four, y2, y0);
        let two_odd = simd.mul_add_e_f32s(eight, y3, simd.mul_f32s(two, y1));
        [
            y0,
            simd.add_f32s(one, one_odd),
            simd.sub_f32s(one, one_odd),
            simd.add_f32s(two_even, two_odd),
            simd.sub_f32s(two_even, two_odd),
            y3,
        ]
    }
}

/// `Aᵀ m`
#[inline(always)]
pub fn outputs<S: Simd>(simd: S, m: [S::f32s; POINTS]) -> [S::f32s; TILE] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let [two, four, eight] = splat(simd, [2.0, 4.0, 8.0]);
    let one = simd.add_f32s(m1, m2);
    let one_odd = simd.sub_f32s(m1, m2);
    let two_even = simd.add_f32s(m3, m4);
    let two_odd = simd.sub_f32s(m3, m4);
    [
        simd.add_f32s(m0, simd.add_f32s(one, two_even)),
        simd.mul_add_e_f32s(two, two_odd, one_odd),
        simd.mul_add_e_f32s(four, two_even, one),
        simd.add_f32s(simd.mul_add_e_f32s(eight, two_odd, one_odd), m5),
    ]
}

#[inline(always)]
fn splat<S: Simd, const N: usize>(simd: S, values: [f32; N]) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (vector, value) in vectors.iter_mut().zip(values) {
        *vector = simd.splat_f32s(value);
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    const D: [f32; 6] = [1.0, -3.0, 2.0, 7.0, -5.0, 11.0];

    #[test]
    fn six_products_give_four_outputs() {
        let g = [2.0, -1.0, 3.0];
        let (g6, d6) = (taps(g), Inputs::points(Scalar, D));
        let y = outputs(Scalar, std::array::from_fn(|p| g6[p] * d6[p]));
        for (i, y) in y.iter().enumerate() {
            let expected: f32 = (0..3).map(|t| g[t] * D[i + t]).sum();
            assert!((y - expected).abs() < 1e-4, "{i}: {y:?}, {expected}");
        }
    }

    #[test]
    fn gradients_of_taps_are_sums_over_the_outputs() {
        let dy = [9.0, 1.0, -2.0, 4.0, 0.5, 9.0];
        let (y6, d6) = (
            OutputGradients::points(Scalar, dy),
            Inputs::points(Scalar, D),
        );
        let dg = taps_gradient(std::array::from_fn(|p| y6[p] * d6[p]));
        for (t, dg) in dg.iter().enumerate() {
            let expected: f32 = (0..4).map(|i| dy[i + 1] * D[i + t]).sum();
            assert!((dg - expected).abs() < 1e-3, "{t}: {dg}, {expected}");
        }
    }
}
