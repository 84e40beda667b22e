//! lb-nn
