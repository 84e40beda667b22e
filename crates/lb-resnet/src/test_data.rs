//! What tests share. Only compiled for them.

use lb_format::NetworkInfo;

use crate::model::Shortcut;

/// Metadata of a ten-class network.
pub fn info(arch: &str, shortcut: Shortcut) -> NetworkInfo {
    NetworkInfo {
        arch: arch.into(),
        shortcut: shortcut.to_string(),
        classes: (0..10).map(|c| format!("class {c}")).collect(),
        mean: [0.5; 3],
        std: [0.25; 3],
        trained_on: String::new(),
    }
}
