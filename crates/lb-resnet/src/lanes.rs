//! Pieces of work side by side on the CPU's cores.
//!
//! Every operator of a training step spreads itself over all cores and waits for the slowest; the
//! small ones between run on one core alone. Several pieces of a batch, each on cores of its own,
//! wait for each other seldom, once a step if they can.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use lb_nn::conv2d::has_bf16;

use crate::ResnetError;
#[cfg(feature = "flex")]
use burn::tensor::Tensor;

/// Threads in groups. Operators that a group runs stay within it.
#[derive(Debug)]
pub(crate) struct Lanes {
    pools: Vec<rayon::ThreadPool>,
}

impl Lanes {
    /// As many groups as there are `pieces` or threads, whichever is less, and the threads shared
    /// evenly among them (`RAYON_NUM_THREADS`, by default one a core).
    ///
    /// # Errors
    /// If the system gives no threads.
    pub(crate) fn new(pieces: NonZeroUsize) -> std::io::Result<Self> {
        let threads = rayon::current_num_threads();
        Self::of(pieces.get().min(threads), threads)
    }

    /// A group for each of `pieces`, which then can wait for each other; more groups than threads if
    /// need be.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub(crate) fn one_each(pieces: NonZeroUsize) -> std::io::Result<Self> {
        Self::of(pieces.get(), rayon::current_num_threads())
    }

    fn of(lanes: usize, threads: usize) -> std::io::Result<Self> {
        let pool = |lane: usize| {
            let share = threads / lanes + usize::from(lane < threads % lanes);
            rayon::ThreadPoolBuilder::new()
                .num_threads(share.max(1))
                .build()
                .map_err(std::io::Error::other)
        };
        let pools = (0..lanes).map(pool).collect::<Result<_, _>>()?;
        Ok(Self { pools })
    }

    /// The same if `device` is the CPU; other devices do a batch at once, and have `None`.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub(crate) fn of_device(
        device: &Device,
        pieces: NonZeroUsize,
    ) -> std::io::Result<Option<Self>> {
        match on_cpu(device) {
            true => Self::new(pieces).map(Some),
            false => Ok(None),
        }
    }

    /// `f`, within group `lane` of them; where there are fewer, they are shared. Always on the same
    /// thread of the group: Burn keeps running statistics apart by the thread that moved them.
    pub(crate) fn within<R: Send>(&self, lane: usize, f: impl FnOnce() -> R + Send) -> R {
        let f = Mutex::new(Some(f));
        let first = |thread: rayon::BroadcastContext<'_>| match thread.index() {
            0 => f.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        let pool = &self.pools[lane % self.pools.len()];
        let mut results = pool.broadcast(|thread| first(thread).map(|f| f()));
        results.swap_remove(0).expect("the first thread ran it")
    }

    /// `f` of every item, in the items' order. Which group an item goes to depends on nothing but
    /// its place.
    pub(crate) fn map<T: Send, R: Send>(&self, items: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
        let lanes = self.pools.len();
        let mut of_lane: Vec<Vec<T>> = (0..lanes).map(|_| Vec::new()).collect();
        let count = items.len();
        for (i, item) in items.into_iter().enumerate() {
            of_lane[i % lanes].push(item);
        }
        let f = &f;
        let mut done: Vec<_> = std::thread::scope(|scope| {
            let work = of_lane.into_iter().enumerate().map(|(lane, items)| {
                let all = || items.into_iter().map(f).collect::<Vec<_>>().into_iter();
                scope.spawn(move || self.within(lane, all))
            });
            let running: Vec<_> = work.collect();
            let results = running.into_iter().map(|lane| match lane.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect()
        });
        let in_turn = (0..count).map(|i| done[i % lanes].next());
        in_turn.map(|r| r.expect("a result an item")).collect()
    }
}

/// Whether `device` computes with the threads of this process, by operators that know of lanes.
pub(crate) fn on_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return lb_core::host::on_host(&Tensor::<1>::zeros([1], device)).is_some();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Refuses bfloat16 ([`lb_nn::conv2d::in_bf16`]) where it would change nothing.
///
/// # Errors
/// Says what is missing.
pub fn require_bf16(devices: &[Device]) -> Result<(), ResnetError> {
    let problem = if !devices.iter().all(on_cpu) {
        "bfloat16 is for the CPU (flex) only"
    } else if !has_bf16() {
        "this processor does not multiply bfloat16 (AMX-BF16 and AVX512-BF16, which Intel Xeons have since 2023): train without, or go on with a run of that where it started"
    } else {
        return Ok(());
    };
    Err(ResnetError::Invalid(problem.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_items_and_threads_are_shared() {
        let all = rayon::current_num_threads();
        for pieces in [1, 2, 3, 64] {
            let lanes = Lanes::new(NonZeroUsize::new(pieces).unwrap()).unwrap();
            let results = lanes.map((0..7).collect(), |i| (i, rayon::current_num_threads()));
            let order: Vec<i32> = results.iter().map(|r| r.0).collect();
            assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
            let lanes = pieces.min(all);
            for (i, threads) in results {
                let share = all / lanes + usize::from(i as usize % lanes < all % lanes);
                assert_eq!(threads, share, "item {i} of {pieces} pieces");
            }
        }
    }

    #[test]
    fn a_group_works_on_one_thread() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8);
        let lanes = || Lanes::one_each(NonZeroUsize::new(2).unwrap());
        let lanes = pool.build().unwrap().install(lanes).unwrap();
        let thread = |lane| lanes.within(lane, || std::thread::current().id());
        let (a, b) = (thread(0), thread(1));
        assert_ne!(a, b);
        for _ in 0..100 {
            assert_eq!([thread(0), thread(1)], [a, b]);
        }
    }

    #[test]
    #[should_panic(expected = "item 3")]
    fn a_panic_is_passed_on() {
        let lanes = Lanes::new(NonZeroUsize::new(2).unwrap()).unwrap();
        lanes.map((0..4).collect(), |i| assert_ne!(i, 3, "item {i}"));
    }
}
