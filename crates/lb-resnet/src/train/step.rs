//! One step of stochastic gradient descent.

use burn::tensor::Tensor;

use super::pass::{Pass, Score};
use super::state::State;
use super::{TrainConfig, ema, learning_rate};
use crate::ResnetError;

/// Steps between reading losses from the device: reading waits for the device, and a GPU should
/// not have to wait for us.
const READ_EVERY: usize = 8;

pub(super) struct Stepper<'a> {
    config: &'a TrainConfig,
    steps: usize,
    /// Of steps that were not read yet.
    unread: Vec<Score>,
}

impl<'a> Stepper<'a> {
    pub(super) fn new(config: &'a TrainConfig, steps: usize) -> Self {
        Self {
            config,
            steps,
            unread: Vec::new(),
        }
    }

    /// Descends along the gradients of `pass`; the learning rate that was used.
    pub(super) fn step(&mut self, state: &mut State, pass: Pass) -> Result<f64, ResnetError> {
        let step = state.position.epoch * self.steps + state.position.step;
        let rate = learning_rate(self.config, self.steps, step);
        self.unread.push(pass.score);
        let net = state.net.clone();
        state.net = state.optimizer.step(rate, net, pass.gradients);
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
        if self.unread.is_empty() {
            return Ok(());
        }
        let failed = |e: &dyn std::fmt::Display| ResnetError::Device(e.to_string());
        // In two transfers, not two a step.
        let (losses, rights) = self.unread.drain(..).map(|s| (s.loss, s.right)).unzip();
        let losses: Vec<f32> = Tensor::cat(losses, 0)
            .try_into_vec_as()
            .map_err(|e| failed(&e))?;
        let rights: Vec<i64> = Tensor::cat(rights, 0)
            .try_into_vec_as()
            .map_err(|e| failed(&e))?;
        for (loss, right) in losses.into_iter().zip(rights) {
            if !loss.is_finite() {
                return Err(ResnetError::Invalid(format!(
                    "the loss became {loss} in epoch {}: use a smaller --lr",
                    state.position.epoch + 1
                )));
            }
            state.position.loss_sum += f64::from(loss);
            state.position.right += right as u64;
            state.position.read_steps += 1;
            state.position.read_images += self.config.batch as u64;
        }
        Ok(())
    }
}
