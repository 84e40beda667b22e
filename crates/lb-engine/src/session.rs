//! Running a plan: memory of its own. Once a batch size has been seen, one thread allocates
//! nothing; with several, rayon allocates a block of jobs every some dozen calls.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aligned_vec::{AVec, ConstAlign};
use rayon::prelude::*;

use crate::buffers::{self, Buffer};
use crate::conv::{Io, Values};
use crate::fuse::ValueId;
use crate::kernel::sums_apart;
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
        let run = |worker: usize, bytes_of: &[u8], logits: &mut [f32]| {
            let mut worker = workers[worker].lock().expect("a kernel panicked");
            let pixels = Pixels {
                bytes: bytes_of,
                layout,
                each: bytes,
            };
            worker.run(plan, pixels, logits);
        };
        // Groups no larger than each thread's share; threads take some groups at a time.
        let group = plan.group.min(batch.div_ceil(workers.len())).max(1);
        let share = (batch / (4 * workers.len()))
            .next_multiple_of(group)
            .max(group);
        let run_share = |worker: usize, images: &[u8], logits: &mut [f32]| {
            let logits = logits.chunks_mut(group * classes);
            for (logits, images) in logits.zip(images.chunks(group * bytes)) {
                run(worker, images, logits);
            }
        };
        match &self.pool {
            Some(pool) if batch > 1 => pool.install(|| {
                let logits = self.logits.par_chunks_mut(share * classes);
                let images = images.par_chunks(share * bytes);
                logits.zip(images).for_each(|(logits, images)| {
                    let worker = rayon::current_thread_index().expect("this is a pool's thread");
                    run_share(worker, images, logits);
                });
            }),
            _ => run_share(0, images, &mut self.logits),
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
                worker.step(&self.plan, step, self.pixels(image), 0..1);
                let plane = self.plan.values[step.out].plane;
                let values = read(&worker.buffers, &self.plan, step.out, 0);
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
            let pixels = self.pixels(group);
            worker.steps(&self.plan, pixels, &mut |worker, step, images| {
                let start = Instant::now();
                worker.step(&self.plan, &self.plan.steps[step], pixels, images);
                times[step] += start.elapsed();
            });
        }
        Ok(self.plan.layers().into_iter().zip(times).collect())
    }
}

impl Session {
    fn pixels<'a>(&self, bytes: &'a [u8]) -> Pixels<'a> {
        Pixels {
            bytes,
            layout: self.layout,
            each: self.plan.image_bytes(),
        }
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

/// The bytes of some images.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    bytes: &'a [u8],
    layout: PixelLayout,
    each: usize,
}

impl<'a> Pixels<'a> {
    fn count(&self) -> usize {
        self.bytes.len() / self.each
    }

    fn image(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.each..(i + 1) * self.each]
    }
}

impl Worker {
    fn new(plan: &Plan) -> Self {
        Self {
            buffers: plan.assignment.buffers.iter().map(Buffer::new).collect(),
            sums: vec![0.0; plan.sums],
            sum_scratch: vec![0; plan.sum_scratch],
            scratch: buffers::bytes(plan.scratch),
            pooled: vec![0.0; plan.pooled],
        }
    }

    /// Runs up to [`Plan::group`] images.
    fn run(&mut self, plan: &Plan, pixels: Pixels, logits: &mut [f32]) {
        self.steps(plan, pixels, &mut |worker, step, images| {
            worker.step(plan, &plan.steps[step], pixels, images);
        });
        for (i, row) in logits.chunks_exact_mut(plan.classes().len()).enumerate() {
            let Values::F32(values) = read(&self.buffers, plan, plan.logits, i) else {
                unreachable!("logits are real");
            };
            let plane = plan.values[plan.logits].plane;
            row.copy_from_slice(&values[plane.at(0, 0)..][..row.len()]);
        }
    }

    /// Calls `run` with every step and the images to run it for, in order: image by image while
    /// weights stay in the cache, then all images step by step.
    fn steps(
        &mut self,
        plan: &Plan,
        pixels: Pixels,
        run: &mut dyn FnMut(&mut Self, usize, Range<usize>),
    ) {
        for i in 0..pixels.count() {
            for step in 0..plan.together_from {
                run(self, step, i..i + 1);
            }
        }
        for step in plan.together_from..plan.steps.len() {
            run(self, step, 0..pixels.count());
        }
    }

    /// One step, for some images of the group.
    fn step(&mut self, plan: &Plan, step: &Step, pixels: Pixels, images: Range<usize>) {
        // The output is no input's buffer (`Assignment`), so it can be taken out meanwhile.
        let slot = plan.slot(step.out);
        let mut taken = std::mem::replace(&mut self.buffers[slot], Buffer::Taken);
        match &step.run {
            Operation::Conv { run, sum, .. } if run.likes_together(images.len()) => {
                let first = images.start;
                if let Some(sum) = sum {
                    let apart = self.sums.chunks_mut(sums_apart(run.conv()));
                    for (i, sums) in images.clone().zip(apart) {
                        let input = read(&self.buffers, plan, step.inputs[0], i);
                        sum.run(run.conv(), input, &mut self.sum_scratch, sums);
                    }
                }
                let io = self.io(plan, step, first, &mut taken);
                run.run_together(io, images.len());
            }
            _ => {
                for i in images {
                    self.step_of_one(plan, step, pixels, i, &mut taken);
                }
            }
        }
        self.buffers[slot] = taken;
    }

    fn step_of_one(
        &mut self,
        plan: &Plan,
        step: &Step,
        pixels: Pixels,
        i: usize,
        taken: &mut Buffer,
    ) {
        let need = &plan.values[step.out];
        let (to, place) = (need.plane, need.place(i));
        if let Operation::Image(table) = &step.run {
            let out = taken.image_mut(&to, place);
            let image = (pixels.image(i), pixels.layout);
            return table.run(image, &mut self.sum_scratch, &to, out);
        }
        let from = plan.values[step.inputs[0]].plane;
        let x = read(&self.buffers, plan, step.inputs[0], i);
        match &step.run {
            Operation::Image(_) => unreachable!("see above"),
            Operation::Table(table) => table.run((&from, x), (&to, taken.image_mut(&to, place))),
            Operation::Pad { stride } => {
                simple::pad(*stride, (&from, x), (&to, taken.image_mut(&to, place)));
            }
            Operation::MaxPool { size, stride } => {
                let out = taken.image_mut(&to, place);
                simple::max_pool(*size, *stride, (&from, x), (&to, out));
            }
            Operation::Pool(pool) => {
                let out = taken.image_mut(&to, place);
                pool.run((&from, x), &mut self.pooled, (&to, out));
            }
            Operation::Conv { run, sum, .. } => {
                if let Some(sum) = sum {
                    sum.run(run.conv(), x, &mut self.sum_scratch, &mut self.sums);
                }
                run.run(self.io(plan, step, i, taken));
            }
        }
    }

    /// The buffers of a convolution, from image `i` on.
    fn io<'a>(&'a mut self, plan: &Plan, step: &Step, i: usize, out: &'a mut Buffer) -> Io<'a> {
        let need = &plan.values[step.out];
        Io {
            input: read(&self.buffers, plan, step.inputs[0], i),
            residual: (step.inputs.get(1)).map(|&r| read(&self.buffers, plan, r, i)),
            sums: &self.sums,
            output: out.image_mut(&need.plane, need.place(i)),
            scratch: &mut self.scratch,
        }
    }
}

/// The values of image `i` of the group.
fn read<'a>(buffers: &'a [Buffer], plan: &Plan, value: ValueId, i: usize) -> Values<'a> {
    let need = &plan.values[value];
    buffers[plan.slot(value)].image(&need.plane, need.place(i))
}
