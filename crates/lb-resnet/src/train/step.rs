//! One step of stochastic gradient descent.

use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor};

use super::state::State;
use super::{TrainConfig, ema, learning_rate};
use crate::ResnetError;
use crate::batch::Batch;

/// Steps between reading losses from the device: reading waits for the device, and a GPU should
/// not have to wait for us.
const READ_EVERY: usize = 8;

pub(super) struct Stepper<'a> {
    config: &'a TrainConfig,
    steps: usize,
    criterion: CrossEntropyLoss,
    /// Loss and number of right predictions of steps that were not read yet.
    unread: Vec<(Tensor<1>, Tensor<1, Int>)>,
}

impl<'a> Stepper<'a> {
    pub(super) fn new(config: &'a TrainConfig, steps: usize, device: &Device) -> Self {
        let smoothing = (config.label_smoothing > 0.0).then_some(config.label_smoothing as f32);
        Self {
            config,
            steps,
            criterion: CrossEntropyLossConfig::new()
                .with_smoothing(smoothing)
                .init(device),
            unread: Vec::new(),
        }
    }

    /// Trains on `batch`; the learning rate that was used.
    pub(super) fn step(&mut self, state: &mut State, batch: Batch) -> Result<f64, ResnetError> {
        let step = state.position.epoch * self.steps + state.position.step;
        let rate = learning_rate(self.config, self.steps, step);
        let logits = state.net.forward(batch.images);
        let right = logits
            .clone()
            .argmax(1)
            .flatten::<1>(0, 1)
            .equal(batch.labels.clone());
        let loss = self.criterion.forward(logits, batch.labels);
        self.unread.push((loss.clone().detach(), right.int().sum()));
        let gradients = GradientsParams::from_grads(loss.backward(), &state.net);
        state.net = state.optimizer.step(rate, state.net.clone(), gradients);
        if let (Some(average), Some(decay)) = (state.average.take(), self.config.ema) {
            state.average = Some(ema::update(average, &state.net, decay, step));
        }
        state.position.step += 1;
        // The first loss is shown at once.
        if self.unread.len() >= READ_EVERY || state.position.read_steps == 0 {
            self.flush(state)?;
        }
        Ok(rate)
    }

    /// Reads the losses that are still on the device.
    pub(super) fn flush(&mut self, state: &mut State) -> Result<(), ResnetError> {
        let read = |e: &dyn std::fmt::Display| ResnetError::Device(e.to_string());
        for (loss, right) in self.unread.drain(..) {
            let loss = loss.try_into_scalar::<f32>().map_err(|e| read(&e))?;
            if !loss.is_finite() {
                return Err(ResnetError::Invalid(format!(
                    "the loss became {loss} in epoch {}: use a smaller --lr",
                    state.position.epoch + 1
                )));
            }
            let right = right.try_into_scalar::<i64>().map_err(|e| read(&e))?;
            state.position.loss_sum += f64::from(loss);
            state.position.right += right as u64;
            state.position.read_steps += 1;
            state.position.read_images += self.config.batch as u64;
        }
        Ok(())
    }
}
