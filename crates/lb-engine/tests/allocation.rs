//! A session allocates nothing once it has seen a batch size.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::io::Write;
use std::sync::Arc;

use common::build::{Draw, small};
use counting::measure;
use lb_engine::{Plan, Session, SessionOptions};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

// Without the test harness, whose own thread may allocate meanwhile: the counts are of all threads.
fn main() {
    let plan = Arc::new(Plan::new(&small(1)).unwrap());
    let images = Draw(1).bytes(16 * plan.image_bytes());
    let images = |batch: usize| &images[..batch * plan.image_bytes()];
    let mut session = Session::new(plan.clone(), SessionOptions::default()).unwrap();
    let (_, first) = measure(|| session.run(images(16), 16).unwrap().labels().max());
    assert!(first.calls_of_all > 0, "the counter counts");
    for batch in [16, 1, 0, 7, 16] {
        let (_, usage) = measure(|| session.run(images(batch), batch).unwrap().labels().max());
        assert_eq!(usage.calls_of_all, 0, "batch {batch}: {usage:?}");
    }

    // With threads, each call hands one job to the pool. Rayon queues jobs from outside in blocks
    // of 63 and allocates (and frees) a block of about 1.5 KB for every 63 of them; the jobs
    // themselves live on stacks.
    let options = SessionOptions {
        threads: 2,
        ..SessionOptions::default()
    };
    let mut session = Session::new(plan.clone(), options).unwrap();
    for _ in 0..50 {
        session.run(images(16), 16).unwrap();
    }
    let calls = 1000;
    let (_, usage) = measure(|| {
        for _ in 0..calls {
            session.run(images(16), 16).unwrap();
        }
    });
    let _ = writeln!(
        std::io::stderr(),
        "2 threads: {} allocations in {calls} calls",
        usage.calls_of_all,
    );
    assert!(usage.calls_of_all <= calls / 20, "{usage:?}");
    println!("test nothing_is_allocated_after_the_first_call ... ok");
}
