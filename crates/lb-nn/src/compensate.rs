//! Layers rounded so that the errors of their weights cancel ([`lb_core::compensate`]).

use burn::tensor::Tensor;
use lb_core::CoreError;
use lb_core::compensate::{LayerMoments, compensate};
use lb_format::QParams;

use crate::conv2d::gather;
use crate::{QuantConv2d, QuantLinear};

impl QuantConv2d {
    /// Adds what this layer is given, `[N, C_in, H, W]`, and what the float one makes of its own
    /// inputs, `[N, C_out, H', W']`.
    ///
    /// # Errors
    /// If they cannot be read from their device.
    pub fn gather(
        &self,
        moments: &mut LayerMoments,
        x: Tensor<4>,
        y: Tensor<4>,
    ) -> Result<(), CoreError> {
        let [_, _, kernel, _] = self.weight.dims();
        gather(moments, x, y, kernel, self.geometry())
    }

    /// This layer, with its `float` weight rounded anew; unchanged if it was left in float. `grid`
    /// as in [`compensate`], given the parameters so far as well.
    ///
    /// # Errors
    /// As [`compensate`].
    pub fn compensated(
        self,
        float: &Tensor<4>,
        moments: &LayerMoments,
        grid: impl Fn(Tensor<4>, &QParams) -> Result<QParams, CoreError>,
    ) -> Result<Self, CoreError> {
        let Some(q) = self.qparams() else {
            return Ok(self);
        };
        let found = compensate(float, moments, |w| grid(w, q))?;
        Ok(Self::on_grid(
            found.weight,
            found.qparams,
            found.bias,
            self.geometry(),
        ))
    }
}

impl QuantLinear {
    /// As of a [convolution](QuantConv2d::gather), `[N, in]` and `[N, out]`.
    ///
    /// # Errors
    /// The same.
    pub fn gather(
        &self,
        moments: &mut LayerMoments,
        x: Tensor<2>,
        y: Tensor<2>,
    ) -> Result<(), CoreError> {
        moments.add(x.transpose(), y.transpose())
    }

    /// As of a [convolution](QuantConv2d::compensated).
    ///
    /// # Errors
    /// The same.
    pub fn compensated(
        self,
        float: &Tensor<2>,
        moments: &LayerMoments,
        grid: impl Fn(Tensor<2>, &QParams) -> Result<QParams, CoreError>,
    ) -> Result<Self, CoreError> {
        let Some(q) = self.qparams() else {
            return Ok(self);
        };
        let found = compensate(float, moments, |w| grid(w, q))?;
        Ok(Self::on_grid(found.weight, found.qparams, found.bias))
    }
}
