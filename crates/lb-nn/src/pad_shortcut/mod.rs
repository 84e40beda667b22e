//! The shortcut without parameters that changes shape, option A of He et al. 2015 (arXiv 1512.03385,
//! section 3.3).

#[cfg(feature = "flex")]
mod cpu;

use burn::tensor::{Tensor, s};
#[cfg(feature = "flex")]
use lb_core::host;

/// Every `stride`-th row and column of `x`, and channels of zeros before and behind, evenly (one more
/// behind, if it has to be):
///
/// ```text
/// y[n, before + c, i, j] = x[n, c, stride · i, stride · j]        before = ⌊(channels − C) / 2⌋
/// ```
///
/// # Shapes
/// - `x`: `[N, C, H, W]`
/// - output: `[N, channels, ⌈H / stride⌉, ⌈W / stride⌉]`
///
/// # Panics
/// If `channels` are fewer than `C`, or `stride` is 0.
pub fn pad_shortcut(x: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let [_, c, ..] = x.dims();
    assert!(
        stride > 0 && channels >= c,
        "a shortcut from {c} to {channels} channels at stride {stride}"
    );
    if stride == 1 && channels == c {
        return x;
    }
    #[cfg(feature = "flex")]
    if let Some(host) = host::on_host(&x) {
        return cpu::pad_shortcut(host, x.dims(), channels, stride);
    }
    in_burns_operators(x, channels, stride)
}

fn in_burns_operators(x: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let x = x.slice(s![.., .., 0..;stride, 0..;stride]);
    let [n, c, h, w] = x.dims();
    let (before, after) = ((channels - c) / 2, (channels - c).div_ceil(2));
    let device = x.device();
    let zeros = |c| Tensor::<4>::zeros([n, c, h, w], &device);
    let parts = [
        (before > 0).then(|| zeros(before)),
        Some(x),
        (after > 0).then(|| zeros(after)),
    ];
    Tensor::cat(parts.into_iter().flatten().collect(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn takes_every_second_pixel_and_pads_both_sides() {
        let x: Vec<f32> = (0..2 * 16).map(|i| i as f32).collect();
        let x = Tensor::<1>::from_data(x.as_slice(), &Device::flex()).reshape([1, 2, 4, 4]);
        let y = pad_shortcut(x, 4, 2);
        assert_eq!(y.dims(), [1, 4, 2, 2]);
        let y: Vec<f32> = y.try_to_vec_as().unwrap();
        assert_eq!(y[..4], [0.0; 4]);
        assert_eq!(y[4..12], [0.0, 2.0, 8.0, 10.0, 16.0, 18.0, 24.0, 26.0]);
        assert_eq!(y[12..], [0.0; 4]);
    }

    #[test]
    fn values_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for (c, channels, [h, w], stride) in [
            (3, 6, [8, 8], 2),
            (2, 7, [5, 8], 2),
            (3, 3, [7, 7], 3),
            (2, 5, [4, 3], 1),
            (2, 3, [4, 4], 2),
        ] {
            let normal = Distribution::Normal(0.0, 1.0);
            let x = Tensor::<4>::random([3, c, h, w], normal, &device).require_grad();
            let run = |ours: bool| {
                let y = match ours {
                    true => pad_shortcut(x.clone(), channels, stride),
                    false => in_burns_operators(x.clone(), channels, stride),
                };
                let grads = (y.clone() * y.clone()).sum().backward();
                (y.inner().into_data(), x.grad(&grads).unwrap().into_data())
            };
            assert_eq!(run(true), run(false), "{c} to {channels} at {stride}");
            let plain = pad_shortcut(x.clone().inner(), channels, stride);
            assert_eq!(plain.into_data(), run(true).0);
            let view = x.inner().transpose();
            let of_view = pad_shortcut(view.clone(), channels, stride);
            let expected = in_burns_operators(view, channels, stride);
            assert_eq!(of_view.into_data(), expected.into_data());
        }
    }
}
