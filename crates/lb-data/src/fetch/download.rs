//! One file over HTTP, continued where it broke off.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode, header};

use super::FetchOptions;
use crate::DataError;
use crate::limits::MAX_DOWNLOAD_BYTES;

/// Why a try ended before the file was whole.
enum Stop {
    /// Worth another try.
    Broken(String),
    Final(DataError),
}

/// Downloads to `part`, appending to what is there. The file is whole when this returns, as far
/// as the server tells; the checksum decides. `archive` is for messages.
pub(super) fn download(
    options: &FetchOptions,
    part: &Path,
    archive: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
    cancel: &AtomicBool,
) -> Result<(), DataError> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(options.timeout))
        .timeout_resolve(Some(options.timeout))
        .timeout_recv_response(Some(options.timeout))
        .timeout_per_read(Some(options.timeout))
        .build()
        .into();
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(part)
        .map_err(DataError::io(part))?;
    // Two downloads into one file would mix.
    file.try_lock().map_err(|e| DataError::Io {
        path: part.into(),
        source: match e {
            TryLockError::WouldBlock => io::Error::other("another download is writing this file"),
            TryLockError::Error(e) => e,
        },
    })?;

    let (mut best, mut failures) = (length(&file, part)?, 0);
    loop {
        let stop = match attempt(&agent, options, &mut file, part, archive, progress, cancel) {
            Ok(()) => return file.sync_all().map_err(DataError::io(part)),
            Err(stop) => stop,
        };
        let reason = match stop {
            Stop::Final(error) => return Err(error),
            Stop::Broken(reason) => reason,
        };
        // A connection that breaks often but moves on is fine; one that does not is given up.
        let now = length(&file, part)?;
        if now > best {
            (best, failures) = (now, 0);
        }
        failures += 1;
        if failures >= options.attempts {
            if now == 0 {
                // Nothing to resume: leave no empty file behind.
                let _ = std::fs::remove_file(part);
            }
            return Err(DataError::Network {
                url: options.url.clone(),
                reason,
                archive: archive.into(),
            });
        }
        wait(options.pause, cancel)?;
    }
}

fn attempt(
    agent: &Agent,
    options: &FetchOptions,
    file: &mut File,
    part: &Path,
    archive: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
    cancel: &AtomicBool,
) -> Result<(), Stop> {
    let io_error = |e| Stop::Final(DataError::io(part)(e));
    let have = length(file, part).map_err(Stop::Final)?;
    // Byte ranges count bytes as sent, so they must not be compressed on the way.
    let mut request = agent
        .get(&options.url)
        .header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(|e| match e {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Stop::Final(DataError::Network {
            url: options.url.clone(),
            reason: e.to_string(),
            archive: archive.into(),
        }),
        e => Stop::Broken(e.to_string()),
    })?;
    let status = response.status();
    let restart = |file: &mut File| file.set_len(0).map_err(io_error);
    let (mut done, total) = match status {
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((start, total)) if start == have => (have, total),
            _ => {
                restart(file)?;
                return Err(Stop::Broken("the server sent another range".into()));
            }
        },
        // The server ignores ranges: what is here would be sent again.
        StatusCode::OK => {
            restart(file)?;
            (0, content_length(response.headers()))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // All of it may be here already, if the last run ended between download and check.
            if super::md5_hex(part).is_ok_and(|md5| md5.eq_ignore_ascii_case(&options.md5)) {
                return Ok(());
            }
            restart(file)?;
            return Err(Stop::Broken(
                "the part on disk was longer than the file".into(),
            ));
        }
        s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Stop::Broken(format!("the server answered {s}")));
        }
        s => {
            if have == 0 {
                let _ = std::fs::remove_file(part);
            }
            return Err(Stop::Final(DataError::HttpStatus {
                url: options.url.clone(),
                status: s.as_u16(),
                archive: archive.into(),
            }));
        }
    };
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; 1 << 16];
    progress(done, total);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Stop::Final(DataError::Cancelled));
        }
        let n = match body.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Stop::Broken(e.to_string())),
        };
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(io_error)?;
        done += n as u64;
        if done > MAX_DOWNLOAD_BYTES {
            restart(file)?;
            return Err(Stop::Final(DataError::TooLarge {
                path: part.into(),
                limit: MAX_DOWNLOAD_BYTES,
                unit: "bytes in one download",
            }));
        }
        progress(done, total);
    }
    match total {
        Some(total) if done < total => Err(Stop::Broken(format!(
            "the connection closed after {done} of {total} bytes"
        ))),
        _ => Ok(()),
    }
}

fn length(file: &File, path: &Path) -> Result<u64, DataError> {
    let mut file = file;
    file.seek(SeekFrom::End(0)).map_err(DataError::io(path))
}

/// Sleeps, but not through a cancellation.
fn wait(pause: Duration, cancel: &AtomicBool) -> Result<(), DataError> {
    let end = Instant::now() + pause;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(DataError::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// `bytes START-END/TOTAL` → start and, unless it is `*`, total.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let parse = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, value.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(parse("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(parse("bytes 100-199/*"), Some((100, None)));
        for bad in [
            "bytes */200",
            "items 0-1/2",
            "bytes",
            "bytes x-1/2",
            "bytes 99999999999999999999-1/2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
