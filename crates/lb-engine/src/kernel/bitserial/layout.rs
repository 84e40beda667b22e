//! Where the bits of input codes and weights lie.
//!
//! A pixel is `⌈C_in / 8⌉` bytes a binary digit, and the pixels of a row follow one another, so that the
//! taps of one kernel row are one string of bits ("run") that starts at any byte. Kernels read runs
//! in words of 32 bits; what the last word has beyond the run belongs to the next pixel and is
//! ignored.
//!
//! With 16 channels a run of three taps is a word and a half. Then the rows of a window are
//! interleaved: column by column, so that the whole window is one run of four words and a half.
//!
//! ```text
//! rows:        digits[row][column][byte]                      k_h runs of k_w · bytes
//! interleaved: digits[output row][column][kernel row][byte]   one run of k_w · k_h · bytes
//! ```

use crate::conv::Conv;

/// Layout of one binary digit of all input codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes a pixel.
    pub pixel: usize,
    /// Columns, border included.
    pub columns: usize,
    /// Rows, border included.
    pub rows: usize,
    /// Whether the rows of a window are interleaved.
    pub interleaved: bool,
    /// Runs a window.
    pub runs: usize,
    /// Bytes a run.
    pub run: usize,
    /// Bytes from one run to the next.
    pub pitch: usize,
}

/// Bytes behind the digits that may be read and written: whole vectors.
pub const SLACK: usize = 256;

impl Layout {
    /// The layout that takes the fewest words.
    pub fn new(conv: &Conv) -> Self {
        let [kh, kw] = conv.layer.kernel;
        let pixel = conv.layer.c_in.div_ceil(8);
        let columns = conv.input.width + 2 * conv.input.border;
        let rows = Self {
            pixel,
            columns,
            rows: conv.input.height + 2 * conv.input.border,
            interleaved: false,
            runs: kh,
            run: kw * pixel,
            pitch: columns * pixel,
        };
        let interleaved = Self {
            interleaved: true,
            runs: 1,
            run: kh * kw * pixel,
            pitch: 0,
            ..rows
        };
        if interleaved.words() < rows.words() {
            interleaved
        } else {
            rows
        }
    }

    /// Whole words a run.
    pub const fn whole(&self) -> usize {
        self.run / 4
    }

    /// The bits of a run's last word that belong to it; 0 if all words are whole.
    pub const fn mask(&self) -> u32 {
        (1 << (self.run % 4 * 8)) - 1
    }

    /// Words a run.
    const fn run_words(&self) -> usize {
        self.run.div_ceil(4)
    }

    /// Words a window.
    pub const fn words(&self) -> usize {
        self.runs * self.run_words()
    }

    /// Bits of a window, without what is ignored.
    pub const fn bits(&self) -> usize {
        self.runs * self.run * 8
    }

    /// Where the bit of a tap is: word of the window, bit of the word.
    pub fn place(&self, conv: &Conv, [ky, kx]: [usize; 2], channel: usize) -> (usize, usize) {
        let (run, byte) = match self.interleaved {
            true => (0, (kx * conv.layer.kernel[0] + ky) * self.pixel),
            false => (ky, kx * self.pixel),
        };
        let bit = byte * 8 + channel;
        (run * self.run_words() + bit / 32, bit % 32)
    }

    /// Pixel where the window of output (`y`, `x`) starts, counted from the border's corner.
    pub fn pixel(&self, conv: &Conv, y: usize, x: usize) -> usize {
        conv.window(y, x) / conv.input.stride
    }

    /// Byte where the window of output (`y`, `x`) starts.
    pub fn window(&self, conv: &Conv, y: usize, x: usize) -> usize {
        let pixel = self.pixel(conv, y, x);
        match self.interleaved {
            true => (y * self.columns + pixel % self.columns) * conv.layer.kernel[0] * self.pixel,
            false => pixel * self.pixel,
        }
    }

    /// Bytes of a digit row by row.
    pub const fn plain_bytes(&self) -> usize {
        self.rows * self.columns * self.pixel + SLACK
    }

    /// Bytes of a digit in this layout.
    pub fn bytes(&self, conv: &Conv) -> usize {
        match self.interleaved {
            true => conv.output.height * self.columns * conv.layer.kernel[0] * self.pixel + SLACK,
            false => self.plain_bytes(),
        }
    }
}
