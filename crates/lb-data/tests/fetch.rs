//! The download against a local server that behaves well, badly, or not at all.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{cifar10_record, gzip, tar, write};
use lb_data::fetch::{ARCHIVE_NAME, FetchOptions};
use lb_data::{DataError, DataSource};
use md5::{Digest, Md5};

/// How the server answers one request, in order; the last one repeats.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// As a good server: 200, or 206 and 416 to a range.
    Good,
    /// Announces everything, sends this many bytes, closes.
    CutAfter(usize),
    /// 200 with the whole file, whatever was asked.
    IgnoreRange,
    /// 206, but from another offset than asked.
    WrongRange,
    Status(u16),
}

struct Server {
    url: String,
    /// The `Range` header of each request.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    fn start(body: Vec<u8>, answers: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cifar.tar.gz", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = ranges.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let n = seen.lock().unwrap().len();
                let answer = answers[n.min(answers.len() - 1)];
                // A client that hangs up early is part of the tests.
                let _ = respond(stream.unwrap(), &body, answer, &seen);
            }
        });
        Self { url, ranges }
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn respond(
    mut stream: TcpStream,
    body: &[u8],
    answer: Answer,
    seen: &Mutex<Vec<Option<String>>>,
) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.trim().to_owned());
        }
    }
    seen.lock().unwrap().push(range.clone());
    let start: Option<usize> =
        range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let total = body.len();
    let mut send = |status: &str, extra: &str, announced: usize, bytes: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n{extra}\r\n"
        )?;
        stream.write_all(bytes)
    };
    let from = |start: usize| {
        let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
        (range, &body[start..])
    };
    match (answer, start) {
        (Answer::Status(code), _) => send(&format!("{code} So"), "", 0, b""),
        (Answer::Good, Some(start)) if start >= total => {
            let extra = format!("Content-Range: bytes */{total}\r\n");
            send("416 Range Not Satisfiable", &extra, 0, b"")
        }
        (Answer::Good, Some(start)) => {
            let (extra, rest) = from(start);
            send("206 Partial Content", &extra, rest.len(), rest)
        }
        (Answer::WrongRange, Some(start)) => {
            let (extra, rest) = from(start / 2);
            send("206 Partial Content", &extra, rest.len(), rest)
        }
        (Answer::CutAfter(n), Some(start)) => {
            let (extra, rest) = from(start);
            send(
                "206 Partial Content",
                &extra,
                rest.len(),
                &rest[..n.min(rest.len())],
            )
        }
        (Answer::CutAfter(n), None) => send("200 OK", "", total, &body[..n.min(total)]),
        (Answer::Good | Answer::IgnoreRange | Answer::WrongRange, _) => {
            send("200 OK", "", total, body)
        }
    }
}

/// A small archive in the layout of the official one, with pixels that gzip cannot shrink.
fn archive() -> Vec<u8> {
    let mut state = 1u32;
    let mut batch = |label: u8| {
        let mut record = cifar10_record(label, 0);
        for byte in &mut record[1..] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        record
    };
    let mut members: Vec<(String, Vec<u8>)> = (1..=5)
        .map(|i| (format!("cifar-10-batches-bin/data_batch_{i}.bin"), batch(i)))
        .collect();
    members.push(("cifar-10-batches-bin/test_batch.bin".into(), batch(9)));
    members.push(("cifar-10-batches-bin/readme.html".into(), b"hi".to_vec()));
    let members: Vec<_> = members
        .iter()
        .map(|(n, b)| (n.as_str(), b.clone()))
        .collect();
    gzip(&tar(&members))
}

fn hex_md5(bytes: &[u8]) -> String {
    Md5::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn options(url: &str, body: &[u8]) -> FetchOptions {
    FetchOptions {
        url: url.into(),
        md5: hex_md5(body),
        attempts: 3,
        pause: Duration::from_millis(1),
        timeout: Duration::from_secs(5),
    }
}

fn fetch(options: &FetchOptions, dest: &Path) -> Result<Vec<(u64, Option<u64>)>, DataError> {
    let mut steps = Vec::new();
    let mut progress = |done, total| steps.push((done, total));
    let folder = options.fetch(dest, &mut progress, &AtomicBool::new(false))?;
    assert_eq!(folder, dest.join("cifar10"));
    let data = DataSource::open(folder.to_str().unwrap())?.load_both()?;
    assert_eq!(data.train.labels(), [1, 2, 3, 4, 5]);
    assert_eq!(data.test.labels(), [9]);
    Ok(steps)
}

fn names(dest: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dest).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn whole_download() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(body.clone(), &[Answer::Good]);
    let dest = dest.path().join("new/datasets");
    let steps = fetch(&options(&server.url, &body), &dest).unwrap();
    let total = body.len() as u64;
    assert_eq!(steps.first(), Some(&(0, Some(total))));
    assert_eq!(steps.last(), Some(&(total, Some(total))));
    assert_eq!(names(&dest), ["cifar-10-binary.tar.gz", "cifar10"]);
    assert_eq!(names(&dest.join("cifar10")).len(), 6, "data files only");

    // What is there is used: no further request, and not even a server is needed.
    fetch(&options(&server.url, &body), &dest).unwrap();
    std::fs::remove_dir_all(dest.join("cifar10")).unwrap();
    fetch(&options(&server.url, &body), &dest).unwrap();
    assert_eq!(server.ranges(), [None]);
}

#[test]
fn a_cut_connection_is_resumed() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(
        body.clone(),
        &[
            Answer::CutAfter(5_000),
            Answer::CutAfter(3_000),
            Answer::Good,
        ],
    );
    let steps = fetch(&options(&server.url, &body), dest.path()).unwrap();
    let range = |n: u32| Some(format!("bytes={n}-"));
    assert_eq!(server.ranges(), [None, range(5_000), range(8_000)]);
    assert!(steps.contains(&(5_000, Some(body.len() as u64))));
    assert!(steps.is_sorted(), "progress never goes back");
}

#[test]
fn a_later_run_resumes() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(
        body.clone(),
        &[
            Answer::CutAfter(5_000),
            Answer::CutAfter(0),
            Answer::CutAfter(0),
            Answer::Good,
        ],
    );
    let mut options = options(&server.url, &body);
    options.attempts = 3;
    let error = fetch(&options, dest.path()).unwrap_err();
    assert!(matches!(error, DataError::Network { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("Run the same command again to resume")
    );
    assert_eq!(names(dest.path()), ["cifar-10-binary.tar.gz.part"]);
    fetch(&options, dest.path()).unwrap();
    assert_eq!(server.ranges().last(), Some(&Some("bytes=5000-".into())));
}

#[test]
fn a_connection_that_breaks_often_but_moves_on_gets_there() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(body.clone(), &[Answer::CutAfter(1_500)]);
    fetch(&options(&server.url, &body), dest.path()).unwrap();
    assert!(server.ranges().len() > 10);
}

#[test]
fn servers_without_ranges_start_over() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    for answers in [
        &[Answer::CutAfter(5_000), Answer::IgnoreRange][..],
        &[Answer::CutAfter(5_000), Answer::WrongRange, Answer::Good],
    ] {
        let dest = dest.path().join(format!("{}", answers.len()));
        let answers: &'static [Answer] = Box::leak(answers.to_vec().into_boxed_slice());
        let server = Server::start(body.clone(), answers);
        fetch(&options(&server.url, &body), &dest).unwrap();
        assert_eq!(server.ranges()[1], Some("bytes=5000-".into()));
    }
}

#[test]
fn a_part_that_is_whole_or_too_long() {
    let body = archive();
    let server = Server::start(body.clone(), &[Answer::Good]);
    for extra in [&b""[..], b"too much"] {
        let dest = tempfile::tempdir().unwrap();
        let part = dest.path().join(format!("{ARCHIVE_NAME}.part"));
        write(&part, &[&body, extra].concat());
        fetch(&options(&server.url, &body), dest.path()).unwrap();
    }
    assert_eq!(server.ranges().len(), 3, "416; then 416 and a new start");
}

#[test]
fn a_wrong_checksum_is_said_and_put_aside() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(body.clone(), &[Answer::Good]);
    let mut options = options(&server.url, &body);
    let right = std::mem::replace(&mut options.md5, "0".repeat(32));
    let error = fetch(&options, dest.path()).unwrap_err().to_string();
    let expected = format!("expected md5 {}, got {right}", "0".repeat(32));
    assert!(error.contains(&expected), "{error}");
    assert_eq!(names(dest.path()), ["cifar-10-binary.tar.gz.part.bad"]);

    // The same for an archive that somebody put there.
    write(&dest.path().join(ARCHIVE_NAME), b"something else");
    let error = fetch(&options, dest.path()).unwrap_err().to_string();
    assert!(error.contains("tar.gz.bad"), "{error}");
    assert_eq!(server.ranges().len(), 1);
}

#[test]
fn statuses() {
    let body = archive();
    let server = Server::start(body.clone(), &[Answer::Status(404)]);
    let dest = tempfile::tempdir().unwrap();
    let error = fetch(&options(&server.url, &body), dest.path()).unwrap_err();
    assert!(
        matches!(error, DataError::HttpStatus { status: 404, .. }),
        "{error}"
    );
    assert_eq!(server.ranges().len(), 1, "no use in trying again");
    assert!(names(dest.path()).is_empty());

    let server = Server::start(body.clone(), &[Answer::Status(503), Answer::Good]);
    fetch(&options(&server.url, &body), dest.path()).unwrap();
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    drop(listener);
    let dest = tempfile::tempdir().unwrap();
    let error = fetch(&options(&url, b""), dest.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DataError::Network { .. }), "{text}");
    let archive = dest.path().join(ARCHIVE_NAME).display().to_string();
    for way in ["--data synthetic", "--data PATH", &archive] {
        assert!(text.contains(way), "{text}");
    }
    assert!(names(dest.path()).is_empty());

    // The offline way that the message names: the archive put there by hand.
    let body = crate::archive();
    write(&dest.path().join(ARCHIVE_NAME), &body);
    fetch(&options(&url, &body), dest.path()).unwrap();
}

#[test]
fn cancelling_keeps_the_part() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    let server = Server::start(body.clone(), &[Answer::CutAfter(4_000), Answer::Good]);
    let cancel = AtomicBool::new(false);
    let mut progress = |done: u64, _: Option<u64>| cancel.store(done > 0, Ordering::Relaxed);
    let result = options(&server.url, &body).fetch(dest.path(), &mut progress, &cancel);
    assert!(matches!(result, Err(DataError::Cancelled)));
    assert_eq!(names(dest.path()), ["cifar-10-binary.tar.gz.part"]);
    fetch(&options(&server.url, &body), dest.path()).unwrap();
}

#[test]
fn something_in_the_way_is_left_alone() {
    let (body, dest) = (archive(), tempfile::tempdir().unwrap());
    write(&dest.path().join("cifar10/mine.txt"), b"precious");
    let server = Server::start(body.clone(), &[Answer::Good]);
    let error = fetch(&options(&server.url, &body), dest.path()).unwrap_err();
    assert!(matches!(error, DataError::InTheWay { .. }), "{error}");
    assert!(dest.path().join("cifar10/mine.txt").exists());
    assert!(server.ranges().is_empty());
}

#[test]
fn an_archive_without_data_leaves_nothing_behind() {
    let body = gzip(&tar(&[(
        "data_batch_1.bin",
        cifar10_record(1, 1)[..50].to_vec(),
    )]));
    let dest = tempfile::tempdir().unwrap();
    let server = Server::start(body.clone(), &[Answer::Good]);
    assert!(fetch(&options(&server.url, &body), dest.path()).is_err());
    assert_eq!(names(dest.path()), ["cifar-10-binary.tar.gz"]);
}
