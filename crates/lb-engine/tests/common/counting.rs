//! An allocator that counts, for tests that bound memory. A test binary makes it its own with
//! `#[global_allocator]`.

// The trait is unsafe to implement; it hands everything on to the system's allocator. Not every test
// binary reads every count.
#![allow(unsafe_code, dead_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What reading and planning a file of some kilobytes may take, in bytes.
pub const MEMORY: usize = 64 << 20;

/// The allocator.
pub struct Counting;

thread_local! {
    // Of this thread only, so that tests beside it do not disturb. Constant and without `Drop`:
    // the allocator itself must not allocate.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

static CALLS_OF_ALL: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: isize) {
    if bytes > 0 {
        CALLS.set(CALLS.get() + 1);
        CALLS_OF_ALL.fetch_add(1, Ordering::Relaxed);
    }
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call goes to `System` as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `f` allocated.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Most bytes that this thread held at once, beyond what it held before.
    pub peak: usize,
    /// Allocations of this thread.
    pub calls: usize,
    /// Allocations of all threads.
    pub calls_of_all: usize,
}

/// Runs `f` and counts.
pub fn measure<T>(f: impl FnOnce() -> T) -> (T, Usage) {
    let before = (LIVE.get(), CALLS.get());
    let of_all = CALLS_OF_ALL.load(Ordering::Relaxed);
    PEAK.set(before.0);
    let result = f();
    let usage = Usage {
        peak: (PEAK.get() - before.0) as usize,
        calls: CALLS.get() - before.1,
        calls_of_all: CALLS_OF_ALL.load(Ordering::Relaxed) - of_all,
    };
    (result, usage)
}
