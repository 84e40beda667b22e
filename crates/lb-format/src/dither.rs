//! Ordered dither of the image: neighbours are rounded at different thresholds.
//!
//! An image of few codes shows no shade between two of them. If what is added before rounding
//! alternates among neighbours, and among the colours of one pixel, their mean shows it still:
//!
//! ```text
//! code = clamp(round_half_even((x + d · s) / s) + z)        s the scale, z the zero point
//!
//! d(c, y, x) = (B[(y + [c = 1]) mod 2, (x + [c = 2]) mod 2] + ½) / 4 − ½        B = 0 2
//!                                                                                  3 1
//! ```
//!
//! (Bayer 1973, "An optimum method for two-level rendition of continuous-tone pictures"; each colour
//! has its own place in the pattern, as a pixel's brightness is the sum of them.)

/// Rows and columns after which the pattern repeats.
pub const PERIOD: usize = 2;

/// Of a channel's places in the pattern, how many thresholds lie below.
const BAYER: [[u8; PERIOD]; PERIOD] = [[0, 2], [3, 1]];

/// What is added to a value before it is rounded, in steps of its scale: −⅜, −⅛, ⅛ or ⅜.
///
/// ```
/// use lb_format::dither::dither;
/// let red: Vec<f32> = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(y, x)| dither(0, y, x)).into();
/// assert_eq!(red, [-0.375, 0.125, 0.375, -0.125]);
/// assert_eq!([0, 1, 2].map(|c| dither(c, 0, 0)), [-0.375, 0.375, 0.125]);
/// ```
pub fn dither(channel: usize, y: usize, x: usize) -> f32 {
    let row = (y + usize::from(channel == 1)) % PERIOD;
    let column = (x + usize::from(channel == 2)) % PERIOD;
    let levels = (PERIOD * PERIOD) as f32;
    (f32::from(BAYER[row][column]) + 0.5) / levels - 0.5
}
