//! The images that networks are measured on.

use anyhow::{Result, ensure};
use lb_data::{DataError, ImageSet, Split, SyntheticConfig};

use super::contender::Contender;
use crate::engine::check_size;
use crate::model_file;

/// Images that single ones are taken from in turn.
const LEAST: usize = 128;

/// Images, and what they are.
pub struct Pixels {
    /// As many as the largest batch at least; a small set is repeated.
    pub set: ImageSet,
    /// For people.
    pub described: String,
}

impl Pixels {
    /// Test images of the data that `spec` or the first network names, else synthetic ones.
    ///
    /// # Errors
    /// If `spec` cannot be read, or a network takes images of another size.
    pub fn load(spec: Option<&str>, contenders: &[Contender], most: usize) -> Result<Self> {
        let n = most.max(LEAST);
        let (all, made_up) = match model_file::data(spec, &contenders[0].info) {
            Ok(source) => (source.load(Split::Test)?, false),
            Err(e) if is_absent(&e) => {
                let config = SyntheticConfig {
                    test: n,
                    ..SyntheticConfig::default()
                };
                (config.generate(Split::Test)?, true)
            }
            Err(e) => return Err(e),
        };
        ensure!(!all.is_empty(), "{}: holds no test images", all.source());
        let indices: Vec<usize> = (0..n).map(|i| i % all.len()).collect();
        let set = all.subset(&indices);
        for c in contenders {
            if let Some(plan) = c.plan() {
                check_size(&c.network, plan, &set)?;
            }
        }
        let described = match made_up {
            true => format!(
                "{} (no data set was found; speed is the same)",
                all.source()
            ),
            false => set.source().to_string(),
        };
        Ok(Self { set, described })
    }
}

/// Whether no data was named and none lies in the default place.
fn is_absent(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref(), Some(DataError::NoDefault { .. }))
}
