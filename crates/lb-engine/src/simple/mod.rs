//! Operations that multiply nothing: images to codes, tables, shortcuts, pooling.

mod average_pool;
mod image;
mod max_pool;
mod shortcut;
mod table;

use lb_format::QParams;

pub use average_pool::Pool;
pub use image::{ImageTable, PixelLayout};
pub use max_pool::max_pool;
pub use shortcut::pad;
pub use table::CodeTable;

/// From a code counted from the smallest one to the code of other parameters.
fn recode(q: &QParams, real: f32, relu: bool) -> u16 {
    let real = if relu { real.max(0.0) } else { real };
    (q.channel(0).quantize(real, q.range()) - q.range().lo) as u16
}
