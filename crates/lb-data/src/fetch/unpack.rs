//! The archive's data files into a folder that appears whole or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use super::check;
use crate::archive::for_each_member;
use crate::cifar::Cifar;
use crate::{DataError, Split};

/// Unpacks CIFAR-10's binary files beside the target, checks them, and renames.
pub(super) fn unpack(archive: &Path, dest_dir: &Path, folder: &Path) -> Result<(), DataError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".cifar10-");
    #[cfg(unix)]
    {
        // tempfile makes private folders; a data set is an ordinary one under the umask.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    let temporary = builder
        .tempdir_in(dest_dir)
        .map_err(DataError::io(dest_dir))?;
    let wanted = [
        Cifar::Ten.files(Split::Train),
        Cifar::Ten.files(Split::Test),
    ]
    .concat();
    for_each_member(archive, |member| {
        // Only these ten-odd names are written, flat: no member chooses its own place.
        let name = wanted
            .iter()
            .find(|&&w| member.name.file_name().is_some_and(|name| name == w));
        if let Some(name) = name {
            let path = temporary.path().join(name);
            let mut file = File::create(&path).map_err(DataError::io(&path))?;
            io::copy(member.data, &mut file).map_err(DataError::io(&path))?;
        }
        Ok(true)
    })?;
    check(temporary.path())?;
    std::fs::rename(temporary.path(), folder).map_err(DataError::io(folder))?;
    // Renamed away: there is nothing left to remove.
    let _ = temporary.keep();
    Ok(())
}
