//! How long plans take, operation by operation: measured in turn, the best of several rounds.
//!
//! Whatever else runs on a machine makes things slower, never faster, so the least time of many is
//! the one that says most about the plan; and what disturbs a machine for a while disturbs all plans
//! of a round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{EngineError, LayerPlan, Plan, Session, SessionOptions};

/// Measures some plans, on one thread.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use lb_engine::{Plan, timing::Stopwatch};
/// # fn measure(a: Arc<Plan>, b: Arc<Plan>) -> Result<(), lb_engine::EngineError> {
/// # let pixels = vec![0u8; 16 * a.image_bytes()];
/// let mut stopwatch = Stopwatch::new([a, b])?;
/// for _ in 0..20 {
///     stopwatch.round(&pixels)?;
/// }
/// for (layer, time) in stopwatch.operations(0) {
///     println!("{}: {time:?} an image", layer.name);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Stopwatch(Vec<Measured>);

/// A plan and the least times that it took.
struct Measured {
    session: Session,
    image: Duration,
    operations: Vec<Duration>,
}

impl Stopwatch {
    /// For `plans`, of which nothing has been measured.
    ///
    /// # Errors
    /// If the operating system gives no memory or threads.
    pub fn new(plans: impl IntoIterator<Item = Arc<Plan>>) -> Result<Self, EngineError> {
        let measured = |plan: Arc<Plan>| {
            Ok(Measured {
                image: Duration::MAX,
                operations: vec![Duration::MAX; plan.layers().len()],
                session: Session::new(plan, SessionOptions::default())?,
            })
        };
        let all: Result<_, EngineError> = plans.into_iter().map(measured).collect();
        Ok(Self(all?))
    }

    /// One round: every plan on `images` (raw bytes, all plans of one image size), first image by
    /// image, then operation by operation.
    ///
    /// # Errors
    /// If `images` holds no whole number of images, or none.
    pub fn round(&mut self, images: &[u8]) -> Result<(), EngineError> {
        for m in &mut self.0 {
            let bytes = m.session.plan().image_bytes();
            let batch = images.len() / bytes;
            if batch == 0 || !images.len().is_multiple_of(bytes) {
                return Err(EngineError::Size {
                    what: "images",
                    found: images.len(),
                    expected: batch.max(1) * bytes,
                });
            }
            let batch_u32 = u32::try_from(batch).unwrap_or(u32::MAX);
            let start = Instant::now();
            for image in images.chunks_exact(bytes) {
                m.session.run(image, 1)?;
            }
            m.image = m.image.min(start.elapsed() / batch_u32);
            // Weights and buffers are in the cache now.
            for (best, (_, took)) in m
                .operations
                .iter_mut()
                .zip(m.session.profile(images, batch)?)
            {
                *best = (*best).min(took / batch_u32);
            }
        }
        Ok(())
    }

    /// Time of one image, alone in its batch, for plan number `plan`; [`Duration::MAX`] before the
    /// first round.
    ///
    /// # Panics
    /// If there is no such plan.
    pub fn image(&self, plan: usize) -> Duration {
        self.0[plan].image
    }

    /// Time of every operation for one image, in order; each at its best, so together they may take
    /// less than [`image`](Self::image). Some 30 ns of each are the clock's.
    ///
    /// # Panics
    /// If there is no such plan.
    pub fn operations(&self, plan: usize) -> Vec<(LayerPlan, Duration)> {
        let m = &self.0[plan];
        let layers = m.session.plan().layers();
        layers
            .into_iter()
            .zip(m.operations.iter().copied())
            .collect()
    }
}
