//! Classifies raw images with a packed network: all that a deployment needs, and nothing else.
//!
//!     classify FILE.lbq [--interleaved] < PIXELS
//!
//! Standard input holds one image after the other as raw bytes, `[3, H, W]` (all red, all green,
//! all blue) or with `--interleaved` `[H, W, 3]`. For each image, as soon as it is there, a line
//! with the label and its logit. `LB_KERNEL` chooses kernels.
//!
//!     cargo build --release -p lb-engine --example classify

use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use lb_engine::{PixelLayout, Plan, Session, SessionOptions};

const USAGE: &str = "usage: classify FILE.lbq [--interleaved] < PIXELS";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (file, layout) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [file] if !file.starts_with('-') => (file, PixelLayout::Planar),
        [file, "--interleaved"] | ["--interleaved", file] => (file, PixelLayout::Interleaved),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match classify(file, layout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn classify(file: &str, layout: PixelLayout) -> Result<(), Box<dyn std::error::Error>> {
    let plan = Arc::new(Plan::new(&lb_format::read(file.as_ref())?)?);
    let options = SessionOptions {
        layout,
        ..SessionOptions::default()
    };
    let mut session = Session::new(plan.clone(), options)?;
    let mut image = vec![0; plan.image_bytes()];
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for number in 0.. {
        match fill(&mut input, &mut image)? {
            0 => break,
            n if n == image.len() => {}
            n => {
                let (shape, expected) = (plan.input(), image.len());
                return Err(
                    format!("image {number} has {n} bytes, expected {expected} ({shape})").into(),
                );
            }
        }
        let found = session.run(&image, 1)?;
        let label = found.labels().next().expect("one image has one label");
        let said = writeln!(
            output,
            "{} {}",
            plan.classes()[label],
            found.logits()[label]
        );
        match said {
            // Whoever reads has read enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            said => said?,
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the input ends; how much was read.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut full = 0;
    while full < buffer.len() {
        match input.read(&mut buffer[full..]) {
            Ok(0) => break,
            Ok(n) => full += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(full)
}
