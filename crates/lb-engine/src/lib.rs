//! Runs a quantized network in integers on an ordinary CPU.
//!
//! ```no_run
//! use std::sync::Arc;
//! use lb_engine::{Plan, Session, SessionOptions};
//!
//! let network = lb_format::read("resnet20-w4a4.lbq".as_ref())?;
//! let plan = Arc::new(Plan::new(&network)?); // weights packed, kernels chosen
//! let mut session = Session::new(plan, SessionOptions::default())?; // memory laid out
//! let pixels = vec![0u8; session.plan().image_bytes()]; // [3, 32, 32], raw bytes
//! let output = session.run(&pixels, 1)?;
//! println!("{:?}", output.labels().next());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here knows an architecture. `examples/small_vgg.rs` builds the graph of another network
//! by hand, packs it, reads it back and runs it:
//! `cargo run --release -p lb-engine --example small_vgg`.
//!
//! Codes of 1 to 8 bits are bytes, multiplied by signed 8-bit weights into 32-bit sums; codes of
//! 16 bits are summed in 64. Between a sum and the next code stands one formula ([`requant`]),
//! which every kernel evaluates with the same bits.
//!
//! | module | idea |
//! |---|---|
//! | [`fuse`] | the graph as operations on codes |
//! | [`plan`] | kernels chosen, weights packed, memory laid out |
//! | [`session`] | running it |
//! | [`timing`] | how long it takes, operation by operation |
//! | [`integer`], [`conv`], [`requant`] | a layer in integers |
//! | [`plane`], [`buffers`] | where values lie |
//! | [`kernel`] | the ways to run a convolution, best first |
//! | [`mod@reference`] | the one they are all tested against |
//! | [`simple`] | operations that multiply nothing |
//! | [`synthetic`] | made-up convolutions, for tests and benchmarks |

pub mod buffers;
pub mod conv;
mod error;
pub mod fuse;
pub mod integer;
pub mod kernel;
pub mod plan;
pub mod plane;
pub mod reference;
pub mod requant;
pub mod session;
pub mod simple;
pub mod synthetic;
pub mod timing;

pub use error::EngineError;
pub use plan::{LayerPlan, Plan};
pub use session::{Output, Session, SessionOptions};
pub use simple::PixelLayout;
