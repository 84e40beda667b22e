//! A batch in pieces that pass through a network side by side, and are normalized as one.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pieces of a batch. Each passes on a thread of its own ([`join`](Self::join)); at every batch
/// normalization, forward and backward, they wait for each other and add up their sums, so that
/// statistics and gradients are those of the whole batch.
#[derive(Debug)]
pub struct Group {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a piece waits awake: as long as sleeping and being woken would take, if it has a core
    /// of its own.
    awake: Duration,
}

#[derive(Debug)]
struct State {
    /// How many more pieces may be computed now.
    free: usize,
    /// What each piece has brought to the sum that is being made.
    parts: Vec<Option<Vec<f64>>>,
    /// The last sum that was made. The next one needs every piece, so that each has read this.
    total: Arc<[f64]>,
    /// How many were made.
    made: u64,
    /// Pieces that are done.
    gone: usize,
    /// Whether a piece failed, or is done too early, and the others wait for nothing.
    broken: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Member>> = const { RefCell::new(None) };
}

/// One of the pieces.
#[derive(Clone, Debug)]
pub(super) struct Member {
    group: Arc<Group>,
    index: usize,
}

impl Group {
    /// So many pieces, of which so many are computed at once, at least one.
    pub fn new(pieces: usize, at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: at_once.max(1),
                parts: vec![None; pieces],
                total: [].into(),
                made: 0,
                gone: 0,
                broken: false,
            }),
            changed: Condvar::new(),
            awake: match pieces <= at_once {
                true => Duration::from_micros(500),
                false => Duration::ZERO,
            },
        })
    }

    /// `f`, a pass of piece `index` forward and backward. All pieces have to be passed, each by a
    /// thread of its own: one that never comes keeps the others waiting.
    ///
    /// # Panics
    /// If there is no such piece, another piece's pass panics, or they go through different layers.
    pub fn join<R>(self: &Arc<Self>, index: usize, f: impl FnOnce() -> R) -> R {
        let pieces = self.lock().parts.len();
        assert!(index < pieces, "piece {index} of {pieces}");
        let member = Member {
            group: self.clone(),
            index,
        };
        drop(self.turn(self.lock(), |_| true));
        let _seat = Seat(self);
        CURRENT.set(Some(member));
        f()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere has left its mark in `broken`, and everything else in order.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, and for a core.
    fn turn<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        ready: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waits = |s: &State| !s.broken && (s.free == 0 || !ready(s));
        let (mut state, start) = (state, Instant::now());
        while waits(&state) && start.elapsed() < self.awake {
            drop(state);
            (0..100).for_each(|_| std::hint::spin_loop());
            state = self.lock();
        }
        let mut state = (self.changed)
            .wait_while(state, |s| waits(s))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!state.broken, "another piece of the batch failed");
        state.free -= 1;
        state
    }
}

/// A piece while it is computed.
struct Seat<'a>(&'a Group);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        CURRENT.set(None);
        let mut state = self.0.lock();
        state.free += 1;
        state.gone += 1;
        state.broken |= std::thread::panicking() || state.parts.iter().any(Option::is_some);
        self.0.changed.notify_all();
    }
}

impl Member {
    /// The piece that this thread computes.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Value by value, added up in the order of the pieces.
    fn sum(&self, part: Vec<f64>) -> Arc<[f64]> {
        let group = &self.group;
        let mut state = group.lock();
        assert!(state.gone == 0, "another piece passed fewer layers");
        let made = state.made;
        state.parts[self.index] = Some(part);
        if state.parts.iter().all(Option::is_some) {
            let mut parts = state.parts.iter_mut().filter_map(Option::take);
            let mut total = parts.next().expect("the one of this piece");
            for part in parts {
                assert_eq!(part.len(), total.len(), "pieces pass the same layers");
                for (total, part) in total.iter_mut().zip(part) {
                    *total += part;
                }
            }
            state.total = total.into();
            state.made += 1;
        } else {
            state.free += 1;
            group.changed.notify_all();
            state = group.turn(state, |s| s.made > made);
        }
        let total = state.total.clone();
        drop(state);
        group.changed.notify_all();
        total
    }
}

/// Of the whole batch: two sums a channel, and the number of values that they are of. `sums` and
/// `count` are those of a piece, or already of the batch.
pub(super) fn whole(
    member: Option<&Member>,
    sums: Vec<[f64; 2]>,
    count: usize,
) -> (Vec<[f64; 2]>, f64) {
    let Some(member) = member else {
        return (sums, count as f64);
    };
    let mut part = sums.into_flattened();
    part.push(count as f64);
    let total = member.sum(part);
    let (sums, count) = total.as_chunks::<2>();
    (sums.to_vec(), count[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each piece makes of `f`.
    fn pass<R: Send>(pieces: usize, at_once: usize, f: impl Fn(&Member) -> R + Sync) -> Vec<R> {
        let group = Group::new(pieces, at_once);
        let (group, f) = (&group, &f);
        std::thread::scope(|scope| {
            let run = |i| move || group.join(i, || f(&Member::current().unwrap()));
            let threads: Vec<_> = (0..pieces).map(|i| scope.spawn(run(i))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_piece_gets_every_sum_on_few_cores_too() {
        for at_once in [0, 1, 2, 9] {
            let sums = pass(4, at_once, |member| {
                let of = |round: usize| vec![[member.index as f64, round as f64]; 2];
                let totals = (0..100).map(|round| whole(Some(member), of(round), 3 + round));
                totals.collect::<Vec<_>>()
            });
            for (round, (total, count)) in sums[0].iter().enumerate() {
                assert_eq!(*total, [[6.0, 4.0 * round as f64]; 2]);
                assert_eq!(*count, 4.0 * (3 + round) as f64);
            }
            assert!(sums.iter().all(|s| *s == sums[0]));
        }
        assert!(Member::current().is_none());
    }

    #[test]
    fn no_more_compute_at_once_than_may() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pass(5, 2, |member| {
            for _ in 0..20 {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, SeqCst);
                whole(Some(member), vec![[1.0; 2]], 1);
            }
        });
        // Whether two ever meet is up to the system.
        assert!((1..=2).contains(&most.into_inner()));
    }

    #[test]
    #[should_panic(expected = "called `Result::unwrap()`")]
    fn a_piece_that_passes_fewer_layers_keeps_nobody_waiting() {
        pass(3, 3, |member| {
            for _ in member.index.min(1)..2 {
                whole(Some(member), vec![[1.0; 2]], 1);
            }
        });
    }

    #[test]
    #[should_panic(expected = "called `Result::unwrap()`")]
    fn a_piece_that_fails_keeps_nobody_waiting() {
        pass(3, 2, |member| {
            assert!(member.index != 1, "this one fails");
            whole(Some(member), vec![[1.0; 2]], 1);
        });
    }
}
