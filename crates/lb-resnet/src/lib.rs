//! lb-resnet
