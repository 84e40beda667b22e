//! Sub-byte codes, really packed.
//!
//! One canonical layout, which no kernel dictates: the tensor is a sequence of rows (axis 0, the
//! output channel), a row is a little-endian bit string of `code − lo`, `bits` bits each, first
//! code in the lowest bits, and every row starts on a byte. So 2-bit codes lie four a byte, 3-bit
//! codes eight in three bytes, and only the last byte of a row can hold unused (zero) bits.

use crate::{BitWidth, FormatError};

/// Codes of `bits` bits in the canonical layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedTensor {
    bits: BitWidth,
    signed: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl PackedTensor {
    /// Packs `codes` (row-major, of `shape`).
    ///
    /// # Errors
    /// If the number of codes is not the product of `shape`, or a code does not fit.
    pub fn pack(
        codes: &[i32],
        shape: &[usize],
        bits: BitWidth,
        signed: bool,
    ) -> Result<Self, FormatError> {
        let layout = Layout::new(shape, bits)?;
        if codes.len() != layout.rows * layout.row_len {
            return Err(FormatError::invalid(
                "packed tensor",
                format!("{} codes for shape {shape:?}", codes.len()),
            ));
        }
        let range = bits.range(signed);
        if let Some(code) = codes.iter().find(|&&c| !range.contains(c)) {
            return Err(FormatError::invalid(
                "packed tensor",
                format!(
                    "code {code} does not fit {bits} bits ({}..={})",
                    range.lo, range.hi
                ),
            ));
        }
        let mut bytes = Vec::with_capacity(layout.rows * layout.row_bytes);
        if layout.row_len > 0 {
            for row in codes.chunks_exact(layout.row_len) {
                pack_row(row, range.lo, u32::from(bits.get()), &mut bytes);
            }
        }
        Ok(Self {
            bits,
            signed,
            shape: shape.to_vec(),
            bytes,
        })
    }

    /// Takes bytes that are already in the canonical layout, from a file.
    ///
    /// # Errors
    /// If the length is not what `shape` and `bits` ask for, or an unused bit is set.
    pub fn from_bytes(
        bytes: Vec<u8>,
        shape: &[usize],
        bits: BitWidth,
        signed: bool,
    ) -> Result<Self, FormatError> {
        let layout = Layout::new(shape, bits)?;
        let expected = layout.rows.checked_mul(layout.row_bytes);
        if expected != Some(bytes.len()) {
            return Err(FormatError::invalid(
                "packed tensor",
                format!(
                    "{} bytes, but shape {shape:?} at {bits} bits takes {}",
                    bytes.len(),
                    expected.map_or("more than memory".into(), |n| n.to_string()),
                ),
            ));
        }
        // Of the bits of a row's last byte; its product was checked.
        let unused = (8 - layout.row_len * usize::from(bits.get()) % 8) % 8;
        if unused > 0 {
            let mask = 0xffu8 << (8 - unused);
            for (r, row) in bytes.chunks_exact(layout.row_bytes).enumerate() {
                if row[layout.row_bytes - 1] & mask != 0 {
                    return Err(FormatError::invalid(
                        "packed tensor",
                        format!("row {r} has non-zero padding bits"),
                    ));
                }
            }
        }
        Ok(Self {
            bits,
            signed,
            shape: shape.to_vec(),
            bytes,
        })
    }

    /// The codes, row-major.
    pub fn unpack(&self) -> Vec<i32> {
        let layout = Layout::new(&self.shape, self.bits).expect("checked when it was built");
        let lo = self.bits.range(self.signed).lo;
        let mut codes = Vec::with_capacity(layout.rows * layout.row_len);
        if layout.row_len > 0 {
            for row in self.bytes.chunks_exact(layout.row_bytes) {
                unpack_row(
                    row,
                    layout.row_len,
                    lo,
                    u32::from(self.bits.get()),
                    &mut codes,
                );
            }
        }
        codes
    }

    /// Bits a code.
    pub const fn bits(&self) -> BitWidth {
        self.bits
    }

    /// Whether codes are two's complement.
    pub const fn signed(&self) -> bool {
        self.signed
    }

    /// Shape of the unpacked tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The packed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Row arithmetic of a shape, with every product checked.
struct Layout {
    rows: usize,
    row_len: usize,
    row_bytes: usize,
}

impl Layout {
    fn new(shape: &[usize], bits: BitWidth) -> Result<Self, FormatError> {
        let too_large =
            || FormatError::invalid("packed tensor", format!("shape {shape:?} overflows"));
        let (&rows, rest) = shape
            .split_first()
            .ok_or_else(|| FormatError::invalid("packed tensor", "a shape needs an axis"))?;
        let row_len = rest
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or_else(too_large)?;
        let row_bits = row_len
            .checked_mul(usize::from(bits.get()))
            .ok_or_else(too_large)?;
        rows.checked_mul(row_bits).ok_or_else(too_large)?;
        Ok(Self {
            rows,
            row_len,
            row_bytes: row_bits.div_ceil(8),
        })
    }
}

fn pack_row(codes: &[i32], lo: i32, bits: u32, out: &mut Vec<u8>) {
    let (mut acc, mut held) = (0u32, 0u32);
    for &code in codes {
        acc |= ((code - lo) as u32) << held;
        held += bits;
        while held >= 8 {
            out.push(acc as u8);
            acc >>= 8;
            held -= 8;
        }
    }
    if held > 0 {
        out.push(acc as u8);
    }
}

fn unpack_row(bytes: &[u8], len: usize, lo: i32, bits: u32, out: &mut Vec<i32>) {
    let mask = (1u32 << bits) - 1;
    let (mut acc, mut held) = (0u32, 0u32);
    let mut bytes = bytes.iter();
    for _ in 0..len {
        while held < bits {
            acc |= u32::from(*bytes.next().expect("row_bytes covers row_len")) << held;
            held += 8;
        }
        out.push((acc & mask) as i32 + lo);
        acc >>= bits;
        held -= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_bit_codes_lie_four_a_byte() {
        let two = BitWidth::new(2).unwrap();
        let p = PackedTensor::pack(&[0, 1, 2, 3, 3, 2, 1, 0], &[2, 4], two, false).unwrap();
        assert_eq!(p.bytes(), [0b11_10_01_00, 0b00_01_10_11]);
        // A 16-channel 3×3 row: 144 codes in 36 bytes, nothing wasted.
        let row = vec![1; 16 * 9];
        let p = PackedTensor::pack(&row, &[1, 16, 3, 3], two, false).unwrap();
        assert_eq!(p.bytes().len(), 36);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let two = BitWidth::new(2).unwrap();
        assert!(PackedTensor::pack(&[4], &[1], two, false).is_err());
        assert!(PackedTensor::pack(&[-3], &[1], two, true).is_err());
        assert!(PackedTensor::pack(&[0, 0], &[1], two, true).is_err());
        assert!(PackedTensor::pack(&[], &[], two, true).is_err());
        // One 2-bit code leaves six unused bits, which must be zero.
        assert!(PackedTensor::from_bytes(vec![0b100], &[1], two, false).is_err());
        assert!(PackedTensor::from_bytes(vec![0b11], &[1], two, false).is_ok());
    }

    #[test]
    fn absurd_shapes_do_not_allocate() {
        for shape in [
            vec![usize::MAX, usize::MAX],
            vec![usize::MAX, 0],
            vec![1 << 40, 1 << 40],
        ] {
            let r = PackedTensor::from_bytes(vec![0; 8], &shape, BitWidth::EIGHT, false);
            assert!(r.is_err(), "{shape:?}");
        }
        // No rows, each of all the bits there can be: nothing overflows.
        let one = BitWidth::new(1).unwrap();
        assert!(PackedTensor::from_bytes(Vec::new(), &[0, usize::MAX], one, false).is_ok());
    }

    proptest! {
        #[test]
        fn unpack_inverts_pack(
            w in 0usize..9, signed: bool, rows in 0usize..5, cols in 0usize..40, seed: u64,
        ) {
            let bits = BitWidth::ALL[w];
            let range = bits.range(signed);
            let mut state = seed | 1;
            let codes: Vec<i32> = (0..rows * cols).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                range.lo + ((state >> 33) % u64::from(bits.levels())) as i32
            }).collect();
            let p = PackedTensor::pack(&codes, &[rows, cols], bits, signed).unwrap();
            prop_assert_eq!(p.unpack(), codes);
            prop_assert_eq!(p.bytes().len(), rows * (cols * usize::from(bits.get())).div_ceil(8));
            let again = PackedTensor::from_bytes(p.bytes().to_vec(), p.shape(), bits, signed);
            prop_assert_eq!(again.unwrap(), p);
        }
    }
}
