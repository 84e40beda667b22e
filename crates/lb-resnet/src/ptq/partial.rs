//! What refinement has done so far, in a file beside the one that it works on.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lb_format::network::Recipe;
use lb_format::{NetworkInfo, file};
use serde::{Deserialize, Serialize};

use super::{Options, Refinement, UnitReport, pack, unpack};
use crate::model::QuantNet;
use crate::{ResnetError, state_file};

/// The refined part of a network, as a file to resume from.
#[derive(Clone, Debug)]
pub struct Partial {
    path: PathBuf,
    of: Identity,
    info: NetworkInfo,
}

/// What a state is of; for anything else it is as good as absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    options: Options,
    refinement: Refinement,
    /// CRC-32 of the network as it was quantized, before any refinement, and of the images.
    quantized: u32,
    images: u32,
}

#[derive(Serialize, Deserialize)]
struct Header {
    of: Identity,
    reports: Vec<UnitReport>,
}

impl Partial {
    /// The state at `path` of refining `net`, quantized by `options`, as `refinement` says, on images
    /// of these `pixels`.
    ///
    /// # Errors
    /// If `net` cannot be read from its device.
    pub fn new(
        path: PathBuf,
        net: &QuantNet,
        info: &NetworkInfo,
        options: &Options,
        refinement: &Refinement,
        pixels: &[u8],
    ) -> Result<Self, ResnetError> {
        let packed = file::to_bytes(&pack(net, info.clone(), Recipe::default())?)?;
        Ok(Self {
            path,
            of: Identity {
                options: options.clone(),
                refinement: *refinement,
                quantized: crc32fast::hash(&packed),
                images: crc32fast::hash(pixels),
            },
            info: info.clone(),
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Saves the network and the reports of its refined units.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, net: &QuantNet, reports: &[UnitReport]) -> Result<(), ResnetError> {
        let network = pack(net, self.info.clone(), Recipe::default())?;
        let header = Header {
            of: self.of.clone(),
            reports: reports.to_vec(),
        };
        let bytes = file::to_bytes(&network)?;
        state_file::write(&self.path, &header, &[("network", &bytes)])
    }

    /// What was saved of this very work, if anything.
    ///
    /// # Errors
    /// If there is a state that cannot be read.
    pub fn load(
        &self,
        device: &Device,
    ) -> Result<Option<(QuantNet, Vec<UnitReport>)>, ResnetError> {
        let remedy = "delete it to start again";
        let Some((header, mut parts)) = state_file::read::<Header>(&self.path, remedy)? else {
            return Ok(None);
        };
        if header.of != self.of {
            return Ok(None);
        }
        let bytes = parts.need(&self.path, "network")?;
        let network = file::from_bytes(&bytes)
            .map_err(|e| ResnetError::checkpoint(&self.path, format!("{e}; {remedy}")))?;
        Ok(Some((unpack(&network, device)?, header.reports)))
    }

    /// Removes the file: the work is done.
    pub fn remove(&self) {
        // Nothing is lost if it stays.
        let _ = std::fs::remove_file(&self.path);
    }
}
