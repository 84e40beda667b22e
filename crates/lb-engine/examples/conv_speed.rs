//! Speed of every kernel on the layers of ResNet-20 and its wide sister, one thread:
//!
//!     cargo run --release -p lb-engine --example conv_speed [-- BITS [KERNEL…]]
//!
//! GMAC/s count multiply-accumulates of the direct algorithm, whatever the kernel does. Behind them
//! stands their share of what the CPU reaches in a loop of nothing but the kernel's instructions
//! (`kernel::peak`).

use std::time::Instant;

use lb_engine::kernel::available;
use lb_engine::kernel::peak::peaks;
use lb_engine::synthetic::{Inputs, Recipe, outputs};
use lb_format::graph::Shape;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bits = args.first().map_or(8, |b| b.parse().expect("bits"));
    let strided = |c: usize, side: usize| Recipe {
        c_out: 2 * c,
        stride: 2,
        residual: None,
        ..Recipe::body(c, side, bits)
    };
    let stem = Recipe {
        c_out: 16,
        input: Shape::new(3, 32, 32),
        residual: None,
        zero_point: true,
        weight_bits: 8,
        input_bits: 8,
        ..Recipe::body(16, 32, bits)
    };
    let shapes = [
        ("stem 3→16, 32×32", stem),
        ("16, 32×32", Recipe::body(16, 32, bits)),
        ("16→32, 32×32/2", strided(16, 32)),
        ("32, 16×16", Recipe::body(32, 16, bits)),
        ("32→64, 16×16/2", strided(32, 16)),
        ("64, 8×8", Recipe::body(64, 8, bits)),
        ("64, 30×30", Recipe::body(64, 30, bits)),
        ("128, 15×15", Recipe::body(128, 15, bits)),
        ("512, 4×4", Recipe::body(512, 4, bits)),
    ];
    let mut measured = Vec::new();
    for peak in peaks() {
        let gmacs = peak.macs as f64 / best(|| peak.run()) / 1e9;
        println!("peak of {:20} {gmacs:7.1} GMAC/s", peak.name);
        measured.push((peak, gmacs));
    }
    for kernel in available() {
        if args.len() > 1 && !args[1..].iter().any(|a| a == kernel.name()) {
            continue;
        }
        println!("{}, {bits} bits", kernel.name());
        for (name, recipe) in &shapes {
            let conv = recipe.conv();
            let Some(cost) = kernel.cost(&conv) else {
                println!("  {name:18} not supported");
                continue;
            };
            let (inputs, macs) = (Inputs::new(recipe, &conv), conv.macs());
            let prepared = kernel.prepare(conv);
            let (mut output, mut scratch) = outputs(&*prepared, 1);
            let time = best(|| inputs.run(&*prepared, &mut output, &mut scratch));
            let gmacs = macs as f64 / time / 1e9;
            let widest = recipe.weight_bits.max(recipe.input_bits);
            let share = measured
                .iter()
                .find(|(peak, _)| peak.bounds(kernel.name(), widest))
                .map_or(String::new(), |(peak, most)| {
                    format!(", {:3.0} % of {}", 100.0 * gmacs / most, peak.name)
                });
            println!(
                "  {name:18} {:9.2} µs  {gmacs:7.1} GMAC/s{share}  (modelled {:.1} µs)",
                time * 1e6,
                cost / 1e3
            );
        }
    }
}

/// Seconds of a run: the best of many short rounds, as the machine is shared.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..200 {
        let start = Instant::now();
        let n = 5;
        for _ in 0..n {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(n));
    }
    best
}
