//! How an image of few codes is rounded.

use std::fmt;
use std::str::FromStr;

use lb_format::BitWidth;
use serde::{Deserialize, Deserializer, Serialize};

/// How an image of few codes is rounded. Methods that fit no layer to what it is given round to the nearest
/// whatever is chosen: a layer that is not fitted takes a pattern of dither for part of the picture, and with
/// diffusion they have not been measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRounding {
    /// Each value for itself. (That of files that say nothing of it.)
    #[default]
    Nearest,
    /// After a pattern is added ([`lb_format::dither`]); of at most 4 bits.
    Dither,
    /// Errors passed on to where the network feels them least ([`lb_format::diffusion`]); of at most 5 bits.
    Diffusion,
}

impl ImageRounding {
    /// What [`lb_resnet`](crate) does unless told otherwise.
    pub const BEST: Self = Self::Diffusion;

    /// How an image of `bits` is rounded: with more bits than are named above, to the nearest, as what lies
    /// between two codes is then hardly worth showing.
    pub(super) fn of(self, bits: BitWidth) -> Self {
        let most = match self {
            Self::Nearest => 0,
            Self::Dither => 4,
            Self::Diffusion => 5,
        };
        match bits.get() <= most {
            true => self,
            false => Self::Nearest,
        }
    }

    /// What was done to the image, behind a comma; nothing of rounding to the nearest.
    pub(super) fn remark(self) -> &'static str {
        match self {
            Self::Nearest => "",
            Self::Dither => ", image dithered",
            Self::Diffusion => ", image diffused",
        }
    }
}

impl fmt::Display for ImageRounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Dither => "dither",
            Self::Diffusion => "diffusion",
        })
    }
}

impl FromStr for ImageRounding {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "nearest" => Ok(Self::Nearest),
            "dither" => Ok(Self::Dither),
            "diffusion" => Ok(Self::Diffusion),
            _ => Err(format!(
                "image rounding `{s}` is unknown: use nearest, dither or diffusion"
            )),
        }
    }
}

/// By its name, or, in older files, whether there is dither.
impl<'de> Deserialize<'de> for ImageRounding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Dither(bool),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Dither(true) => Ok(Self::Dither),
            Written::Dither(false) => Ok(Self::Nearest),
            Written::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}
