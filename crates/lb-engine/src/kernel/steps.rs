//! A table of codes as the steps that it climbs: what vector units count in many codes at once.
//!
//! ```text
//! t[x] = t[0] + Σ_k [x > below_k]        below_k = max {x : t[x] ≤ t[0] + k},  k = 0, 1, …
//! ```
//!
//! That holds for every table that does not fall, and pays where it has few steps: codes of 8 bits to
//! codes of 2 take three comparisons.

#[cfg(target_arch = "x86_64")]
use super::isa::Avx2;

/// The constants of the formula above; numbers of steps that loops are compiled for, and filled up with
/// steps that no code takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    first: u8,
    below: Below,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Below {
    One([u8; 1]),
    Three([u8; 3]),
    Seven([u8; 7]),
    Fifteen([u8; 15]),
}

impl Steps {
    /// The steps of `table`, if it does not fall, its codes have at most 8 bits, and it has at most 15 of
    /// them.
    pub fn of(table: &[u16]) -> Option<Self> {
        let first = *table.first()?;
        let rises = table.len() <= 1 << u8::BITS && table.is_sorted();
        let last = u8::try_from(*table.last()?).ok().filter(|_| rises)?;
        let below: Vec<u8> = (first..u16::from(last))
            .map(|code| (table.partition_point(|t| *t <= code) - 1) as u8)
            .collect();
        // No code is more than 255.
        let at = |k: usize| below.get(k).copied().unwrap_or(u8::MAX);
        let below = match below.len() {
            0..=1 => Below::One([at(0)]),
            2..=3 => Below::Three(std::array::from_fn(at)),
            4..=7 => Below::Seven(std::array::from_fn(at)),
            8..=15 => Below::Fifteen(std::array::from_fn(at)),
            _ => return None,
        };
        Some(Self {
            first: first as u8,
            below,
        })
    }

    /// The codes of all of `x`.
    pub fn run(&self, x: &[u8], y: &mut [u8]) {
        match &self.below {
            Below::One(below) => count(self.first, below, x, y),
            Below::Three(below) => count(self.first, below, x, y),
            Below::Seven(below) => count(self.first, below, x, y),
            Below::Fifteen(below) => count(self.first, below, x, y),
        }
    }
}

fn count<const N: usize>(first: u8, below: &[u8; N], x: &[u8], y: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Avx2::detect().is_some() {
        // SAFETY: this CPU has the instructions.
        return unsafe { count_avx2(first, below, x, y) };
    }
    count_plain(first, below, x, y);
}

/// The plain loop, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn count_avx2<const N: usize>(first: u8, below: &[u8; N], x: &[u8], y: &mut [u8]) {
    count_plain(first, below, x, y);
}

#[inline(always)]
fn count_plain<const N: usize>(first: u8, below: &[u8; N], x: &[u8], y: &mut [u8]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (below.iter()).fold(first, |code, &below| code + u8::from(x > below));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_give_what_their_table_does() {
        // Of every height, one code at a time and in jumps of three.
        for (steps, jump) in (0..=15u32).flat_map(|steps| [(steps, 1), (steps, 3)]) {
            for (first, len) in [(0, 256), (3, 256), (240, 256), (0, 16), (5, 1)] {
                let table: Vec<u16> = (0..len)
                    .map(|x| (first + x * (steps + 1) / len / jump * jump) as u16)
                    .collect();
                let found = Steps::of(&table).unwrap();
                // Not a multiple of what vectors hold.
                let x: Vec<u8> = (0..1001).map(|i| (i * 37 % len) as u8).collect();
                let mut y = vec![0; x.len()];
                found.run(&x, &mut y);
                let expected = x.iter().map(|x| table[usize::from(*x)] as u8);
                assert!(y.iter().copied().eq(expected), "{steps} from {first}");
            }
        }
    }

    #[test]
    fn other_tables_have_none() {
        let all: Vec<u16> = (0..256).collect();
        for table in [&[][..], &[3, 2], &[0, 256], &[0, 16], &all, &[0; 257]] {
            assert_eq!(Steps::of(table), None, "{} codes", table.len());
        }
    }
}
