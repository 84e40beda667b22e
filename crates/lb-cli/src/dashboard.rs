//! Burn's training dashboard, for terminals.

use std::sync::Arc;
use std::time::Instant;

use burn::train::Interrupter;
use burn::train::logger::TrainingProgressLogger;
use burn::train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};
use lb_resnet::train::{EpochMetrics, Monitor, Progress};

use crate::interrupt;

/// Draws loss, accuracy and learning rate; `q` in it asks the run to stop.
pub struct Dashboard {
    renderer: TuiMetricsRendererWrapper,
    interrupter: Interrupter,
    batch: usize,
    splitting: bool,
    start: Instant,
    steps: usize,
}

/// `(name, unit, higher is better)`
const METRICS: [(&str, &str, bool); 4] = [
    ("Loss", "", false),
    ("Accuracy", "%", true),
    ("Learning rate", "", false),
    ("Images/s", "", true),
];

impl Dashboard {
    /// For a run of `epochs` epochs in batches of `batch`, of which `done` are done.
    pub fn new(epochs: usize, done: usize, batch: usize) -> Self {
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for (name, unit, higher_is_better) in METRICS {
            renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: Arc::new(name.to_string()),
                description: None,
                attributes: MetricAttributes::Numeric(NumericAttributes {
                    unit: (!unit.is_empty()).then(|| unit.to_string()),
                    higher_is_better,
                }),
            });
        }
        renderer.start(epochs, done, None, None);
        Self {
            renderer,
            interrupter,
            batch,
            splitting: false,
            start: Instant::now(),
            steps: 0,
        }
    }

    fn go_on(&self) -> bool {
        !interrupt::requested() && !self.interrupter.should_stop()
    }
}

impl Monitor for Dashboard {
    fn step(&mut self, p: &Progress) -> bool {
        if !self.splitting {
            self.renderer.update_epoch(p.epoch);
            self.renderer.start_split("train", p.steps * self.batch);
            self.splitting = true;
        }
        self.steps += 1;
        let rate = (self.steps * self.batch) as f64 / self.start.elapsed().as_secs_f64();
        let values = [p.loss, p.accuracy * 100.0, p.learning_rate, rate];
        for ((name, ..), value) in METRICS.into_iter().zip(values) {
            self.renderer.update_train(state(name, value));
        }
        self.renderer.update_split(p.step * self.batch);
        self.go_on()
    }

    fn epoch(&mut self, m: &EpochMetrics) {
        self.renderer.end_split();
        self.splitting = false;
        if let Some(accuracy) = m.held_out_accuracy {
            self.renderer
                .update_valid(state("Accuracy", accuracy * 100.0));
        }
    }

    fn evaluating(&mut self, _: usize) -> bool {
        self.go_on()
    }
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_string()))
}

fn state(name: &str, value: f64) -> MetricState {
    let text = format!("{value:.4}");
    let entry = MetricEntry::new(id(name), SerializedEntry::new(text.clone(), text));
    MetricState::Numeric(entry, Some(NumericEntry::Value(value)))
}
