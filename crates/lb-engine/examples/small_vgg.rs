//! A network of your own, without ResNet and without Burn: a small VGG, quantized to 4 bits, packed
//! into a file, read back and run.
//!
//!     cargo run --release -p lb-engine --example small_vgg
//!
//! Weights are made up here. Yours come from wherever you trained them: what this needs of a layer is
//! its float weight `[C_out, C_in, k_h, k_w]` and bias (BatchNorm folded into both), and of an
//! activation the largest value that it usually has.
//!
//! ```text
//! image → 8 bits
//!   → conv 16, ReLU → 4 bits → conv 16, ReLU → 4 bits → max pool 2   32×32 → 16×16
//!   → conv 32, ReLU → 4 bits → conv 32, ReLU → 4 bits → max pool 2   16×16 → 8×8
//!   → conv 64, ReLU → 8 bits → mean → 8 bits → linear → 10 logits
//! ```

use std::error::Error;
use std::sync::Arc;

use lb_engine::{Plan, Session, SessionOptions};
use lb_format::graph::{Graph, Op, Shape};
use lb_format::network::Recipe;
use lb_format::{
    Activation, Affine, BitWidth, FormatError, Layer, LayerKind, NetworkInfo, PackedTensor,
    QParams, QuantizedNetwork, Weight,
};

/// A float weight as signed codes of `bits` bits, one scale for each output channel:
/// `w ≈ scale · code`.
fn quantize(weight: &[f32], shape: &[usize], bits: BitWidth) -> Result<Weight, FormatError> {
    let range = bits.range(true);
    let row = weight.len() / shape[0];
    let (mut codes, mut affine) = (Vec::new(), Vec::new());
    for channel in weight.chunks_exact(row) {
        let largest = channel.iter().fold(0f32, |m, w| m.max(w.abs()));
        let map = Affine {
            scale: largest.max(1e-6) / range.hi as f32,
            zero_point: 0,
            offset: 0.0,
        };
        codes.extend(channel.iter().map(|&w| map.quantize(w, range)));
        affine.push(map);
    }
    Ok(Weight::Codes {
        codes: PackedTensor::pack(&codes, shape, bits, true)?,
        qparams: QParams {
            bits,
            signed: true,
            affine,
            levels: None,
        },
    })
}

/// Collects layers and activations while the graph grows: every method appends a node and gives its
/// index.
struct Vgg {
    layers: Vec<Layer>,
    activations: Vec<Activation>,
    graph: Graph,
    state: u64,
}

impl Vgg {
    /// Made-up weights, as a fresh network has them: in ±√(6 / inputs).
    fn weights(&mut self, shape: &[usize]) -> Vec<f32> {
        let reach = (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        let mut draw = || {
            // An LCG (Knuth, MMIX) is random enough here.
            self.state = (self.state)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 40) as f32 / (1u64 << 24) as f32
        };
        let n = shape.iter().product();
        (0..n).map(|_| reach * (2.0 * draw() - 1.0)).collect()
    }

    fn layer(&mut self, kind: LayerKind, shape: &[usize], bits: u8) -> Result<String, FormatError> {
        let name = format!("layer{}", self.layers.len());
        let weight = quantize(&self.weights(shape), shape, BitWidth::new(bits)?)?;
        self.layers.push(Layer {
            name: name.clone(),
            kind,
            weight,
            bias: vec![0.0; shape[0]],
        });
        Ok(name)
    }

    /// A 3×3 convolution that keeps the image's size.
    fn conv(
        &mut self,
        x: usize,
        [c_in, c_out]: [usize; 2],
        bits: u8,
    ) -> Result<usize, FormatError> {
        let kind = LayerKind::Conv {
            stride: 1,
            padding: 1,
        };
        let name = self.layer(kind, &[c_out, c_in, 3, 3], bits)?;
        Ok(self.graph.push(Op::conv(&name), &[x]))
    }

    /// Rounds to unsigned codes of `bits` bits, which reach from `lo` to `hi`.
    fn activation(
        &mut self,
        x: usize,
        relu: bool,
        bits: u8,
        [lo, hi]: [f32; 2],
    ) -> Result<usize, FormatError> {
        let bits = BitWidth::new(bits)?;
        let steps = bits.range(false).steps() as f32;
        let scale = (hi - lo) / steps;
        // Zero must be a code: padding is zero.
        let zero_point = (-lo / scale).round() as i32;
        let affine = Affine {
            scale,
            zero_point,
            offset: 0.0,
        };
        let name = format!("act{}", self.activations.len());
        self.activations.push(Activation {
            name: name.clone(),
            relu,
            dither: false,
            diffusion: None,
            qparams: Some(QParams::per_tensor(bits, false, affine)),
        });
        Ok(self.graph.push(Op::activation(&name), &[x]))
    }
}

fn network() -> Result<QuantizedNetwork, FormatError> {
    const IMAGE: usize = 0;
    let mut vgg = Vgg {
        layers: Vec::new(),
        activations: Vec::new(),
        graph: Graph::new(Shape::new(3, 32, 32)),
        state: 1,
    };
    // Normalised pixels lie in (0 − 0.5) / 0.25 to (1 − 0.5) / 0.25, see `mean` and `std` below.
    let mut x = vgg.activation(IMAGE, false, 8, [-2.0, 2.0])?;
    for (block, c_out) in [16, 32].into_iter().enumerate() {
        let c_in = if block == 0 { 3 } else { 16 };
        // The first layer sees the image and stays at 8 bits, as is usual.
        x = vgg.conv(x, [c_in, c_out], if block == 0 { 8 } else { 4 })?;
        x = vgg.activation(x, true, 4, [0.0, 4.0])?;
        x = vgg.conv(x, [c_out, c_out], 4)?;
        x = vgg.activation(x, true, 4, [0.0, 4.0])?;
        x = vgg.graph.push(Op::MaxPool { size: 2, stride: 2 }, &[x]);
    }
    x = vgg.conv(x, [32, 64], 4)?;
    x = vgg.activation(x, true, 8, [0.0, 8.0])?;
    x = vgg.graph.push(Op::GlobalAveragePool, &[x]);
    x = vgg.activation(x, false, 8, [0.0, 4.0])?;
    let linear = vgg.layer(LayerKind::Linear, &[10, 64], 8)?;
    vgg.graph.push(Op::linear(&linear), &[x]);
    Ok(QuantizedNetwork {
        info: NetworkInfo {
            arch: "small-vgg".into(),
            shortcut: String::new(),
            classes: (0..10).map(|c| format!("class {c}")).collect(),
            mean: [0.5; 3],
            std: [0.25; 3],
            trained_on: String::new(),
        },
        recipe: Recipe {
            widths: "W4A4, edge layers W8A8".into(),
            producer: "examples/small_vgg.rs".into(),
            ..Recipe::default()
        },
        layers: vgg.layers,
        activations: vgg.activations,
        graph: vgg.graph,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    // Written and read: both check every value and every shape, and name what is wrong.
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("small-vgg.lbq");
    lb_format::write(&path, &network()?)?;
    let size = std::fs::metadata(&path)?.len();
    let network = lb_format::read(&path)?;

    // A plan is made once and shared; each session has memory of its own.
    let plan = Arc::new(Plan::new(&network)?);
    println!(
        "{}, {}: {size} bytes packed, {} bytes of memory a thread",
        network.info.arch,
        plan.widths(),
        plan.memory()
    );
    for l in plan.layers() {
        let kernel = l.kernel.unwrap_or("-");
        let output = l.output.to_string();
        println!("  {:12} {output:10} {:>10} MACs  {kernel}", l.name, l.macs);
    }

    // Two images of raw bytes, all red, then all green, then all blue.
    let batch = 2;
    let pixels: Vec<u8> = (0..batch * plan.image_bytes())
        .map(|i| (i * i / 97) as u8)
        .collect();
    let mut session = Session::new(plan.clone(), SessionOptions::default())?;
    let output = session.run(&pixels, batch)?;
    let logits = output.logits().chunks_exact(plan.classes().len());
    for (i, (label, logits)) in output.labels().zip(logits).enumerate() {
        println!(
            "image {i}: {} with logit {:.3}",
            plan.classes()[label],
            logits[label]
        );
    }
    Ok(())
}
