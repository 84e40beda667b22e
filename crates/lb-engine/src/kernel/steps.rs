//! A table of codes as the steps that it climbs: what vector units add up in many codes at once.
//!
//! ```text
//! t[x] = t[0] + Σ_k rise_k · [x > below_k]        for every below_k with t[below_k] < t[below_k + 1]
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
    steps: Few,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Few {
    One([Step; 1]),
    Three([Step; 3]),
    Seven([Step; 7]),
    Fifteen([Step; 15]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    below: u8,
    rise: u8,
}

impl Steps {
    /// The steps of `table`, if it does not fall, its codes have at most 8 bits, and it has at most 15 of
    /// them.
    pub fn of(table: &[u16]) -> Option<Self> {
        let first = u8::try_from(*table.first()?).ok()?;
        let rises = table.len() <= 1 << u8::BITS && table.is_sorted();
        (rises && u8::try_from(*table.last()?).is_ok()).then_some(())?;
        let steps: Vec<Step> = (table.windows(2).enumerate())
            .filter(|(_, pair)| pair[0] < pair[1])
            .map(|(x, pair)| Step {
                below: x as u8,
                rise: (pair[1] - pair[0]) as u8,
            })
            .collect();
        // No code is more than 255.
        let never = Step {
            below: u8::MAX,
            rise: 0,
        };
        let at = |k: usize| steps.get(k).copied().unwrap_or(never);
        let steps = match steps.len() {
            0..=1 => Few::One([at(0)]),
            2..=3 => Few::Three(std::array::from_fn(at)),
            4..=7 => Few::Seven(std::array::from_fn(at)),
            8..=15 => Few::Fifteen(std::array::from_fn(at)),
            _ => return None,
        };
        Some(Self { first, steps })
    }

    /// The codes of all of `x`.
    pub fn run(&self, x: &[u8], y: &mut [u8]) {
        match &self.steps {
            Few::One(steps) => climb(self.first, steps, x, y),
            Few::Three(steps) => climb(self.first, steps, x, y),
            Few::Seven(steps) => climb(self.first, steps, x, y),
            Few::Fifteen(steps) => climb(self.first, steps, x, y),
        }
    }
}

fn climb<const N: usize>(first: u8, steps: &[Step; N], x: &[u8], y: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Avx2::detect().is_some() {
        // SAFETY: this CPU has the instructions.
        return unsafe { climb_avx2(first, steps, x, y) };
    }
    climb_plain(first, steps, x, y);
}

/// The plain loop, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn climb_avx2<const N: usize>(first: u8, steps: &[Step; N], x: &[u8], y: &mut [u8]) {
    climb_plain(first, steps, x, y);
}

#[inline(always)]
fn climb_plain<const N: usize>(first: u8, steps: &[Step; N], x: &[u8], y: &mut [u8]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (steps.iter()).fold(first, |code, step| {
            code + if x > step.below { step.rise } else { 0 }
        });
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
    fn tables_of_few_codes_may_rise_by_any_height() {
        let levels = [
            0u16, 1, 2, 3, 5, 8, 12, 17, 23, 30, 38, 50, 64, 80, 100, 255,
        ];
        let table: Vec<u16> = (0..256usize).map(|x| levels[x / 16]).collect();
        let steps = Steps::of(&table).unwrap();
        let x: Vec<u8> = (0..=255).collect();
        let mut y = vec![0; 256];
        steps.run(&x, &mut y);
        assert!(y.iter().map(|y| u16::from(*y)).eq(table));
    }

    #[test]
    fn other_tables_have_none() {
        let all: Vec<u16> = (0..256).collect();
        for table in [&[][..], &[3, 2], &[0, 256], &all[..17], &all, &[0; 257]] {
            assert_eq!(Steps::of(table), None, "{} codes", table.len());
        }
    }
}
