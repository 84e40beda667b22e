//! What a forward pass shows to those who look inside.

use burn::tensor::Tensor;

/// Which value of a network is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What a convolution or linear layer is given.
    LayerInput,
    /// The real-valued output of a convolution or linear layer, before its activation.
    Layer,
    /// What an activation is given.
    ActInput,
    /// What it makes of it; of a quantized one, values on its grid.
    ActOutput,
}

/// Receives a value's kind, the path of its layer or activation, and the value `[N, C, H, W]`;
/// gives the value that the network goes on with, which is the same one for who only looks.
pub type Trace<'a> = &'a mut dyn FnMut(Seen, &str, Tensor<4>) -> Tensor<4>;

/// Who looks inside, if anybody does. Where nobody does, parts are computed together.
pub(super) enum Look<'a> {
    Nobody,
    Trace(Trace<'a>),
}

impl Look<'_> {
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// Shows a value; that which the network goes on with.
    pub fn see(&mut self, seen: Seen, name: &str, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Nobody => x,
            Self::Trace(trace) => trace(seen, name, x),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{FloatNet, Shortcut};
    use burn::tensor::{Device, Distribution, Tensor};

    #[test]
    fn looking_changes_nothing() {
        let device = Device::flex().autodiff();
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([6, 3, 32, 32], normal, &device);
        for shortcut in [Shortcut::A, Shortcut::B] {
            let arch = "resnet8".parse().unwrap();
            let net = FloatNet::init(arch, shortcut, 10, 3, &device);
            let run = |looked: bool| {
                let y = match looked {
                    true => net.forward_traced(x.clone(), &mut |_, _, x| x),
                    false => net.forward(x.clone()),
                };
                let grads = (y.clone() * y.clone()).sum().backward();
                let of = |(_, layer): (_, &lb_nn::ConvBn)| {
                    let weight = layer.conv.weight.val().grad(&grads).unwrap();
                    (
                        weight.into_data(),
                        layer.bn.beta.val().grad(&grads).unwrap().into_data(),
                    )
                };
                let gradients: Vec<_> = net.convolutions().into_iter().map(of).collect();
                (y.inner().into_data(), gradients)
            };
            assert!(run(true) == run(false), "{shortcut}");
        }
    }
}
