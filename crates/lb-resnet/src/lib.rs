//! lb-resnet
pub mod model;
