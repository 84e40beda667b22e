//! Random numbers that are the same on every machine and in every release.
//!
//! Only the ChaCha8 stream comes from `rand`; how it becomes numbers is written here, because the
//! distributions of a library may change between its versions.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// A ChaCha8 stream named by four words.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of this key. Different keys give unrelated streams.
    pub(crate) fn new(key: [u64; 4]) -> Self {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(key) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// Uniform in `0..n`; `n > 0`. The bias of the multiply-shift is below `n / 2³²`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻²⁴: exact in `f32`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Uniform in `[lo, hi)`.
    pub(crate) fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.unit()
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Random bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Fisher–Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_pinned_and_apart() {
        let draw = |key| Stream::new(key).below(1_000_000);
        assert_eq!(draw([0; 4]), draw([0; 4]));
        assert_ne!(draw([0, 0, 0, 0]), draw([0, 0, 0, 1]));
        assert_ne!(draw([1, 0, 0, 0]), draw([0, 1, 0, 0]));
    }

    #[test]
    fn numbers_stay_in_range() {
        let mut s = Stream::new([7; 4]);
        for _ in 0..10_000 {
            assert!(s.below(3) < 3);
            assert!((0.0..1.0).contains(&s.unit()));
            assert!((-2.0..5.0).contains(&s.range(-2.0, 5.0)));
        }
        let mut items: Vec<u32> = (0..50).collect();
        s.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
