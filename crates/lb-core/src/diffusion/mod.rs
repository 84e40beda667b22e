//! Error diffusion of the image, tensor form, and the weights that suit a network. Its scalar twin is
//! [`lb_format::diffusion`].

mod felt;

use burn::tensor::{Tensor, TensorData};
use lb_format::diffusion::{Diffuser, real, steps};
use lb_format::{Diffusion, QParams};

pub use felt::Felt;

/// `x` with what rounding left of values before, in steps of `scale`: rounded to the nearest code of `q`, no
/// value then lies halfway between two. No gradient reaches `x`, which is an image.
///
/// # Shapes
/// - `x`: `[images, 3, height, width]`
/// - output: as `x`
///
/// # Panics
/// If `x` has other channels, or cannot be read from its device.
pub fn add(x: Tensor<4>, scale: f32, q: &QParams, diffusion: &Diffusion) -> Tensor<4> {
    let [images, channels, height, width] = x.dims();
    assert_eq!(channels, 3, "an image of red, green and blue");
    let device = x.device();
    let values = x.detach().try_into_vec_as::<f32>();
    let mut values = values.expect("an image that its device gives back");
    let area = height * width;
    let mut row = vec![[0; 3]; width];
    let mut scratch = vec![0; Diffuser::scratch(width)];
    for image in values.chunks_exact_mut(3 * area) {
        let mut diffuser = Diffuser::new(diffusion, q.steps(), &mut scratch);
        for y in 0..height {
            let at = |c: usize, x: usize| c * area + y * width + x;
            let value = |x: usize| std::array::from_fn(|c| steps(image[at(c, x)], scale));
            diffuser.row(value, |x, _, v| row[x] = v);
            for (x, v) in row.iter().enumerate() {
                for (c, v) in v.iter().enumerate() {
                    image[at(c, x)] = real(*v, scale);
                }
            }
        }
    }
    let data = TensorData::new(values, [images, channels, height, width]);
    Tensor::from_data(data, &device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine;
    use burn::tensor::{Device, Distribution};
    use lb_format::{Affine, BitWidth};

    #[test]
    fn rounding_afterwards_gives_the_scalar_codes() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 3, 9, 11], Distribution::Normal(0.0, 1.0), &device);
        let (scale, zero_point) = (0.23, 7);
        let affine = Affine {
            scale,
            zero_point,
            offset: 0.0,
        };
        let q = QParams::per_tensor(BitWidth::new(4).unwrap(), false, affine);
        let diffusion = Diffusion {
            pixel: [[0; 3], [-120, 0, 0], [30, -80, 0]],
            left: [[-90, 20, 3], [5, -100, 7], [9, 1, -60]],
            above: [[[-40; 3]; 3], [[17; 3]; 3], [[-3; 3]; 3]],
        };
        let spread = add(x.clone(), scale, &q, &diffusion);
        let codes: Vec<f32> = affine::quantize(spread, &q).try_into_vec_as().unwrap();
        let values: Vec<f32> = x.try_into_vec_as().unwrap();
        let mut clamped = 0;
        for (image, codes) in values.chunks(3 * 99).zip(codes.chunks(3 * 99)) {
            let mut scratch = vec![0; Diffuser::scratch(11)];
            let mut diffuser = Diffuser::new(&diffusion, (-7, 8), &mut scratch);
            for y in 0..9 {
                let at = |x: usize, c: usize| c * 99 + y * 11 + x;
                let value = |x: usize| std::array::from_fn(|c| steps(image[at(x, c)], scale));
                diffuser.row(value, |x, n, _| {
                    for (c, n) in n.into_iter().enumerate() {
                        assert_eq!(codes[at(x, c)], (n + zero_point) as f32);
                        clamped += i32::from(n == -7 || n == 8);
                    }
                });
            }
        }
        assert!(clamped > 0, "some values are clamped");
    }
}
