//! How the values of one edge lie in memory.
//!
//! Pixels follow one another row by row, each with its channels together (NHWC), so that a run of
//! a kernel's row is contiguous. Codes have a border that holds the zero point, so that a padded
//! convolution reads what it needs without asking where the image ends.

use lb_format::graph::Shape;

/// Values beyond the last pixel that may be read (never written): kernels load whole vectors.
pub const TAIL: usize = 1024;

/// Layout of an edge for one image.
///
/// ```text
/// index(c, y, x) = ((y + border) · (width + 2·border) + x + border) · stride + c
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plane {
    /// Channels that mean something.
    pub channels: usize,
    /// Values from one pixel to the next; the channels beyond [`channels`](Self::channels) hold
    /// anything.
    pub stride: usize,
    /// Rows of the image.
    pub height: usize,
    /// Columns of the image.
    pub width: usize,
    /// Pixels around the image on every side, which hold [`fill`](Self::fill).
    pub border: usize,
    /// The code in the border: the zero point.
    pub fill: u16,
}

impl Plane {
    /// The layout that kernels write: channels rounded up to 16.
    pub fn new(shape: Shape, border: usize, fill: u16) -> Self {
        Self::with_stride(shape, shape.channels.next_multiple_of(16), border, fill)
    }

    /// A layout of `stride` values a pixel.
    ///
    /// # Panics
    /// If the channels do not fit.
    pub fn with_stride(shape: Shape, stride: usize, border: usize, fill: u16) -> Self {
        assert!(shape.channels <= stride);
        Self {
            channels: shape.channels,
            stride,
            height: shape.height,
            width: shape.width,
            border,
            fill,
        }
    }

    /// Values from one row to the next.
    pub const fn pitch(&self) -> usize {
        (self.width + 2 * self.border) * self.stride
    }

    /// Values of one image, [`TAIL`] apart.
    pub const fn len(&self) -> usize {
        (self.height + 2 * self.border) * self.pitch()
    }

    /// [`len`](Self::len), unless it overflows.
    pub fn checked_len(&self) -> Option<usize> {
        let border = self.border.checked_mul(2)?;
        let rows = self.height.checked_add(border)?;
        let columns = self.width.checked_add(border)?;
        rows.checked_mul(columns)?.checked_mul(self.stride)
    }

    /// Whether there are none (there always are).
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of channel 0 of pixel (`y`, `x`); coordinates into the border are shifted, not
    /// negative: see [`padded`](Self::padded).
    pub const fn at(&self, y: usize, x: usize) -> usize {
        self.padded(y + self.border, x + self.border)
    }

    /// Index of channel 0 of pixel (`y`, `x`) counted from the border's corner.
    pub const fn padded(&self, y: usize, x: usize) -> usize {
        y * self.pitch() + x * self.stride
    }
}
