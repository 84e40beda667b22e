//! A table of bytes held in registers: 64 codes are looked up by one permutation, or by two if codes have 8
//! bits.

use super::isa::Avx512Vbmi;

/// Codes of half a table, which one permutation takes.
const HALF: usize = 128;

/// A table of at most 256 codes, each a byte.
#[derive(Clone, Debug)]
pub struct Lookup {
    token: Avx512Vbmi,
    table: Box<[[u8; HALF]; 2]>,
    /// Whether there are codes in the second half.
    whole: bool,
}

impl Lookup {
    /// `table`, if this CPU has the instructions, and its codes have at most 8 bits, as have those that it is
    /// of.
    pub fn of(table: &[u16]) -> Option<Self> {
        let token = Avx512Vbmi::detect()?;
        let mut bytes = [[0; HALF]; 2];
        if table.len() > bytes.as_flattened().len() {
            return None;
        }
        for (byte, code) in bytes.as_flattened_mut().iter_mut().zip(table) {
            *byte = u8::try_from(*code).ok()?;
        }
        Some(Self {
            token,
            table: Box::new(bytes),
            whole: table.len() > HALF,
        })
    }

    /// The codes of all of `x`, each of them in the table.
    pub fn run(&self, x: &[u8], y: &mut [u8]) {
        let _ = self.token;
        #[cfg(target_arch = "x86_64")]
        match self.whole {
            // SAFETY: a token made this.
            true => unsafe { look_up::<true>(&self.table, x, y) },
            // SAFETY: the same.
            false => unsafe { look_up::<false>(&self.table, x, y) },
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (x, y, self.whole, &self.table);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up<const WHOLE: bool>(table: &[[u8; HALF]; 2], x: &[u8], y: &mut [u8]) {
    use std::arch::x86_64::*;
    const LANES: usize = 64;
    // SAFETY: a quarter of the table.
    let quarter =
        |i: usize| unsafe { _mm512_loadu_si512(table[i / 2][i % 2 * LANES..].as_ptr().cast()) };
    let quarters: [__m512i; 4] = std::array::from_fn(quarter);
    let of = |x: __m512i| {
        // The highest bit of an index is not looked at.
        let low = _mm512_permutex2var_epi8(quarters[0], x, quarters[1]);
        if !WHOLE {
            return low;
        }
        let high = _mm512_permutex2var_epi8(quarters[2], x, quarters[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)
    };
    let n = x.len().min(y.len());
    let (x, y) = (&x[..n], &mut y[..n]);
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks_mut::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        // SAFETY: 64 bytes each.
        unsafe {
            let codes = of(_mm512_loadu_si512(x.as_ptr().cast()));
            _mm512_storeu_si512(y.as_mut_ptr().cast(), codes);
        }
    }
    let mask = (1u64 << x_rest.len()) - 1;
    // SAFETY: as many bytes as the mask has bits.
    unsafe {
        let codes = of(_mm512_maskz_loadu_epi8(mask, x_rest.as_ptr().cast()));
        _mm512_mask_storeu_epi8(y_rest.as_mut_ptr().cast(), mask, codes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_one_in_the_table() {
        if Avx512Vbmi::detect().is_none() {
            eprintln!("SKIPPED every_code_is_the_one_in_the_table: no AVX-512 VBMI");
            return;
        }
        for len in [1, 2, 16, 64, 65, 127, 128, 129, 200, 256usize] {
            let table: Vec<u16> = (0..len).map(|i| (i * 89 + 17) as u16 % 256).collect();
            let lookup = Lookup::of(&table).unwrap();
            for n in [0, 1, 63, 64, 65, 200, 1001] {
                let x: Vec<u8> = (0..n).map(|i| (i * 37 % len) as u8).collect();
                // One more, which stays.
                let mut y = vec![9; n + 1];
                lookup.run(&x, &mut y);
                let expected = x.iter().map(|x| table[usize::from(*x)] as u8).chain([9]);
                assert!(y.into_iter().eq(expected), "{n} of {len}");
            }
        }
    }

    #[test]
    fn wider_codes_have_none() {
        for table in [&[256u16][..], &[0; 257]] {
            assert!(Lookup::of(table).is_none());
        }
    }
}
