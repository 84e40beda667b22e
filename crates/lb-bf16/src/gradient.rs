//! The gradient of the weights.

use std::arch::asm;

use crate::SIDE;
use crate::planes::{Rows, Transposed};
use crate::tile::{ROW, configure, release};

/// Values of a tile of sums.
const TILE: usize = SIDE * SIDE;
/// Taps of a kernel.
const TAPS: usize = 9;

/// Sums over images, `[block of inputs][block of outputs][tap][16 inputs][16 outputs]`.
pub struct Gradient {
    outputs: usize,
    inputs: usize,
    sums: Vec<f32>,
}

impl Gradient {
    /// Zeros.
    ///
    /// # Panics
    /// If outputs are no multiple of [`SIDE`], or inputs neither that nor fewer.
    pub fn new(outputs: usize, inputs: usize) -> Self {
        assert!(outputs.is_multiple_of(SIDE) && inputs > 0);
        assert!(inputs < SIDE || inputs.is_multiple_of(SIDE));
        let blocks = outputs / SIDE * inputs.div_ceil(SIDE);
        Self {
            outputs,
            inputs,
            sums: vec![0.0; blocks * TAPS * TILE],
        }
    }

    /// Adds that of an image.
    ///
    /// # Panics
    /// If the images have other channels, or not one size.
    pub fn add(&mut self, x: &Rows, dy: &Transposed) {
        let (height, width) = (x.image.height, x.image.width);
        assert_eq!(
            (x.image.channels, dy.image.channels),
            (self.inputs, self.outputs)
        );
        assert_eq!((dy.image.height, dy.image.width), (height, width));
        let padded = x.padded;
        let mut sums = self.sums.chunks_exact_mut(3 * TILE);
        // SAFETY: a token made the images. With the border all taps of all rows lie inside the planes, of
        // which there are as many as A has rows; three tiles of sums are there for each turn.
        unsafe {
            configure((self.inputs.min(SIDE), SIDE, width / 2), 3, 6);
            for i in (0..self.inputs).step_by(SIDE) {
                for o in (0..self.outputs).step_by(SIDE) {
                    for ky in 0..3 {
                        let sums = sums.next().expect("three taps of all blocks");
                        let x = x.values().as_ptr().add(i * padded.len + padded.at(ky, 0));
                        let dy = dy.values().as_ptr().add(o);
                        asm!(
                            "tileloadd tmm0, [{c} + {row}]",
                            "lea {u}, [{c} + 1024]",
                            "tileloadd tmm1, [{u} + {row}]",
                            "lea {u}, [{c} + 2048]",
                            "tileloadd tmm2, [{u} + {row}]",
                            "2:",
                            "tileloadd tmm6, [{dy} + {by}]",
                            "tileloadd tmm3, [{x} + {plane}]",
                            "tdpbf16ps tmm0, tmm3, tmm6",
                            "lea {u}, [{x} + 2]",
                            "tileloadd tmm4, [{u} + {plane}]",
                            "tdpbf16ps tmm1, tmm4, tmm6",
                            "lea {u}, [{x} + 4]",
                            "tileloadd tmm5, [{u} + {plane}]",
                            "tdpbf16ps tmm2, tmm5, tmm6",
                            "add {x}, {pitch}",
                            "add {dy}, {line}",
                            "dec {n}",
                            "jnz 2b",
                            "tilestored [{c} + {row}], tmm0",
                            "lea {u}, [{c} + 1024]",
                            "tilestored [{u} + {row}], tmm1",
                            "lea {u}, [{c} + 2048]",
                            "tilestored [{u} + {row}], tmm2",
                            c = in(reg) sums.as_mut_ptr(),
                            row = in(reg) ROW,
                            x = inout(reg) x => _,
                            plane = in(reg) 2 * padded.len,
                            pitch = in(reg) 2 * padded.pitch,
                            dy = inout(reg) dy => _,
                            by = in(reg) 4 * self.outputs,
                            line = in(reg) 2 * width * self.outputs,
                            n = inout(reg) height => _,
                            u = out(reg) _,
                            options(nostack),
                        );
                    }
                }
            }
            release();
        }
    }

    /// Adds the sums to `dw`, `[C_out, C_in, 3, 3]`.
    pub fn add_to(&self, dw: &mut [f32]) {
        let blocks = self.outputs / SIDE;
        for o in 0..self.outputs {
            for i in 0..self.inputs {
                for tap in 0..TAPS {
                    let block = i / SIDE * blocks + o / SIDE;
                    let at = (block * TAPS + tap) * TILE + i % SIDE * SIDE + o % SIDE;
                    dw[(o * self.inputs + i) * TAPS + tap] += self.sums[at];
                }
            }
        }
    }
}
