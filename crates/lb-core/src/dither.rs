//! Ordered dither of the image, tensor form. Its scalar twin is [`lb_format::dither`].

use burn::tensor::{Tensor, TensorData};
use lb_format::dither::dither;

/// `x + d · s`, with d the pattern.
///
/// # Shapes
/// - `x`: `[images, channels, height, width]`
/// - `scaled`: gives `d · s` of d, `[1, channels, height, width]`, on the device of `x`
pub fn add(x: Tensor<4>, scaled: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [_, channels, height, width] = x.dims();
    let rows = (0..channels).flat_map(|c| (0..height).map(move |y| (c, y)));
    let pattern: Vec<f32> = rows
        .flat_map(|(c, y)| (0..width).map(move |x| dither(c, y, x)))
        .collect();
    let pattern = TensorData::new(pattern, [1, channels, height, width]);
    let pattern = Tensor::from_data(pattern, &x.device());
    x + scaled(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn every_shade_keeps_its_mean() {
        let device = Device::flex();
        // Of two codes a step apart, each shade between is shown by as many of the upper one.
        for (shade, upper) in [(0.0, 0), (0.2, 1), (0.3, 1), (0.55, 2), (0.75, 3), (1.0, 4)] {
            let image = Tensor::<4>::full([2, 3, 4, 6], shade * 0.5, &device);
            let codes = (add(image, |d| d * 0.5) / 0.5).round();
            for colour in 0..3 {
                let plane = codes.clone().narrow(1, colour, 1);
                for block in [
                    plane.clone().narrow(2, 0, 2).narrow(3, 0, 2),
                    plane.narrow(2, 1, 2).narrow(3, 3, 2),
                ] {
                    let sum = block.sum().into_scalar::<f32>();
                    assert_eq!(sum, 2.0 * upper as f32, "{shade} of colour {colour}");
                }
            }
        }
    }
}
