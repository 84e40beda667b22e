//! Running a plan: memory of its own, no allocation once a batch size has been seen.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aligned_vec::{AVec, ConstAlign};
use rayon::prelude::*;

use crate::buffers::{self, Buffer};
use crate::conv::{Io, Values};
use crate::plan::{Operation, Plan, Step};
use crate::simple::{self, PixelLayout};
use crate::{EngineError, LayerPlan};

/// How a session runs.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Threads that share the images of a batch. One image is always one thread's: to serve single
    /// images on several cores, give each thread a session of one plan.
    pub threads: usize,
    /// How the bytes of an image lie.
    pub layout: PixelLayout,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            layout: PixelLayout::Planar,
        }
    }
}

/// A plan with the memory to run it.
///
/// `Send`, so that a service can keep one a thread; sessions of one plan share its weights.
pub struct Session {
    plan: Arc<Plan>,
    layout: PixelLayout,
    workers: Vec<Mutex<Worker>>,
    pool: Option<rayon::ThreadPool>,
    logits: Vec<f32>,
}

/// What [`Session::run`] found.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    logits: &'a [f32],
    classes: usize,
}

impl<'a> Output<'a> {
    /// Logits, `[batch, classes]`, row by row.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// The class of the largest logit of each image; of equals the first.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        self.logits.chunks_exact(self.classes).map(|row| {
            let mut best = 0;
            for (c, logit) in row.iter().enumerate() {
                if *logit > row[best] {
                    best = c;
                }
            }
            best
        })
    }
}

impl Session {
    /// A session of `plan`.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn new(plan: Arc<Plan>, options: SessionOptions) -> Result<Self, EngineError> {
        let threads = options.threads.max(1);
        let pool = match threads {
            1 => None,
            _ => Some(
                (rayon::ThreadPoolBuilder::new().num_threads(threads).build()).map_err(|e| {
                    EngineError::Threads {
                        threads,
                        problem: e.to_string(),
                    }
                })?,
            ),
        };
        Ok(Self {
            workers: (0..threads)
                .map(|_| Mutex::new(Worker::new(&plan)))
                .collect(),
            layout: options.layout,
            pool,
            logits: Vec::new(),
            plan,
        })
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Runs `batch` images of raw bytes, one after the other, laid out as the options said.
    ///
    /// # Errors
    /// If `images` is not `batch` images long.
    pub fn run(&mut self, images: &[u8], batch: usize) -> Result<Output<'_>, EngineError> {
        let (bytes, classes) = (self.plan.image_bytes(), self.plan.classes().len());
        check_images(images, batch, bytes)?;
        self.logits.resize(batch * classes, 0.0);
        let (plan, layout, workers) = (&self.plan, self.layout, &self.workers);
        let run = |worker: usize, images: &[u8], logits: &mut [f32]| {
            let mut worker = workers[worker].lock().expect("a kernel panicked");
            worker.run(plan, layout, images, logits);
        };
        match &self.pool {
            Some(pool) if batch > plan.group => pool.install(|| {
                let logits = self.logits.par_chunks_mut(plan.group * classes);
                let images = images.par_chunks(plan.group * bytes);
                logits.zip(images).for_each(|(logits, images)| {
                    let worker = rayon::current_thread_index().expect("this is a pool's thread");
                    run(worker, images, logits);
                });
            }),
            _ => {
                let logits = self.logits.chunks_mut(plan.group * classes);
                for (logits, images) in logits.zip(images.chunks(plan.group * bytes)) {
                    run(0, images, logits);
                }
            }
        }
        Ok(Output {
            logits: &self.logits,
            classes,
        })
    }

    /// Runs `batch` images on one thread and shows `see` what every operation of every image wrote:
    /// its number (as in [`Plan::layers`]), the image's number, and its values `[C, H, W]`, codes
    /// counted from the smallest one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn trace(
        &mut self,
        images: &[u8],
        batch: usize,
        see: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), EngineError> {
        let bytes = self.plan.image_bytes();
        check_images(images, batch, bytes)?;
        let mut worker = self.workers[0].lock().expect("a kernel panicked");
        for (i, image) in images.chunks_exact(bytes).enumerate() {
            for (s, step) in self.plan.steps.iter().enumerate() {
                worker.step(&self.plan, step, (self.layout, image), 0);
                let (plane, _) = self.plan.values[step.out];
                let values = worker.buffers[self.plan.slot(step.out)].image(&plane, 0);
                let mut seen = Vec::with_capacity(plane.channels * plane.height * plane.width);
                for c in 0..plane.channels {
                    for y in 0..plane.height {
                        seen.extend((0..plane.width).map(|x| values.real(plane.at(y, x) + c)));
                    }
                }
                see(s, i, &seen);
            }
        }
        Ok(())
    }

    /// Runs `batch` images on one thread and gives the time that each operation took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile(
        &mut self,
        images: &[u8],
        batch: usize,
    ) -> Result<Vec<(LayerPlan, Duration)>, EngineError> {
        let bytes = self.plan.image_bytes();
        check_images(images, batch, bytes)?;
        let mut times = vec![Duration::ZERO; self.plan.steps.len()];
        let mut worker = self.workers[0].lock().expect("a kernel panicked");
        for group in images.chunks(self.plan.group * bytes) {
            for (time, step) in times.iter_mut().zip(&self.plan.steps) {
                let start = Instant::now();
                for (i, image) in group.chunks_exact(bytes).enumerate() {
                    worker.step(&self.plan, step, (self.layout, image), i);
                }
                *time += start.elapsed();
            }
        }
        Ok(self.plan.layers().into_iter().zip(times).collect())
    }
}

fn check_images(images: &[u8], batch: usize, bytes: usize) -> Result<(), EngineError> {
    match batch.checked_mul(bytes) {
        Some(expected) if expected == images.len() => Ok(()),
        expected => Err(EngineError::Size {
            what: "images",
            found: images.len(),
            expected: expected.unwrap_or(usize::MAX),
        }),
    }
}

/// One thread's memory.
struct Worker {
    buffers: Vec<Buffer>,
    sums: Vec<f32>,
    sum_scratch: Vec<i32>,
    scratch: AVec<u8, ConstAlign<64>>,
    pooled: Vec<f32>,
}

impl Worker {
    fn new(plan: &Plan) -> Self {
        let buffers = (plan.assignment.buffers.iter())
            .map(|(plane, kind)| Buffer::new(plane, *kind, plan.group));
        Self {
            buffers: buffers.collect(),
            sums: vec![0.0; plan.sums],
            sum_scratch: vec![0; plan.sum_scratch],
            scratch: buffers::bytes(plan.scratch),
            pooled: vec![0.0; plan.scratch.div_ceil(4)],
        }
    }

    /// Runs up to [`Plan::group`] images.
    fn run(&mut self, plan: &Plan, layout: PixelLayout, images: &[u8], logits: &mut [f32]) {
        for step in &plan.steps {
            for (i, image) in images.chunks_exact(plan.image_bytes()).enumerate() {
                self.step(plan, step, (layout, image), i);
            }
        }
        let (plane, _) = plan.values[plan.logits];
        let buffer = &self.buffers[plan.slot(plan.logits)];
        for (i, row) in logits.chunks_exact_mut(plan.classes().len()).enumerate() {
            let Values::F32(values) = buffer.image(&plane, i) else {
                unreachable!("logits are real");
            };
            row.copy_from_slice(&values[plane.at(0, 0)..][..row.len()]);
        }
    }

    /// One step, for image `i` of the group.
    fn step(&mut self, plan: &Plan, step: &Step, (layout, image): (PixelLayout, &[u8]), i: usize) {
        let slot = plan.slot(step.out);
        let Some(&input) = step.inputs.first() else {
            let Operation::Image(table) = &step.run else {
                unreachable!("only images read no value");
            };
            let (plane, _) = plan.values[step.out];
            let out = self.buffers[slot].image_mut(&plane, i);
            return table.run(image, layout, &plane, out);
        };
        let (from, to) = (plan.values[input].0, plan.values[step.out].0);
        // The output is no input's buffer (`Assignment`), so it can be taken out meanwhile.
        let mut taken = std::mem::replace(&mut self.buffers[slot], Buffer::Taken);
        let out = taken.image_mut(&to, i);
        let x = self.buffers[plan.slot(input)].image(&from, i);
        match &step.run {
            Operation::Image(_) => unreachable!("images read no value"),
            Operation::Table(table) => table.run((&from, x), (&to, out)),
            Operation::Pad { stride } => simple::pad(*stride, (&from, x), (&to, out)),
            Operation::MaxPool { size, stride } => {
                simple::max_pool(*size, *stride, (&from, x), (&to, out));
            }
            Operation::Pool(pool) => pool.run((&from, x), &mut self.pooled, (&to, out)),
            Operation::Conv { run, sum, .. } => {
                if let Some(sum) = sum {
                    sum.run(run.conv(), x, &mut self.sum_scratch, &mut self.sums);
                }
                let residual = (step.inputs.get(1)).map(|&r| {
                    let plane = plan.values[r].0;
                    self.buffers[plan.slot(r)].image(&plane, i)
                });
                run.run(Io {
                    input: x,
                    residual,
                    sums: &self.sums,
                    output: out,
                    scratch: &mut self.scratch,
                });
            }
        }
        self.buffers[slot] = taken;
    }
}
