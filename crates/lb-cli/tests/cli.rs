//! The command as people and scripts see it: exit codes, messages, files.

use std::path::Path;
use std::process::{Command, Output};

fn lb(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn without_data_nothing_is_substituted() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["train", "data info"] {
        let o = lb(dir.path(), line);
        assert_eq!(o.status.code(), Some(1), "{line}");
        let e = stderr(&o);
        assert!(
            e.contains("lb data fetch cifar10") && e.contains("--data synthetic"),
            "{line}: {e}"
        );
    }
}

#[test]
fn misunderstandings_exit_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for (line, said) in [
        ("calibrate --bits 9", "1 to 8 or 16"),
        ("calibrate --method brcq", "lbtorch"),
        ("train --arch vgg", "resnet20-wide"),
        ("train --shortcut c", "1×1 convolution"),
    ] {
        let o = lb(dir.path(), line);
        assert_eq!(o.status.code(), Some(2), "{line}");
        assert!(stderr(&o).contains(said), "{line}: {}", stderr(&o));
    }
}

#[test]
fn the_built_in_network_is_calibrated_and_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let o = lb(dir.path(), "calibrate --bits 4,w2a8 --samples 32 --json");
    assert!(o.status.success(), "{}", stderr(&o));
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&o.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["widths"], "W4A4, edge layers W8A8");
    let file = dir.path().join(lines[0]["file"].as_str().unwrap());
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert_eq!(lines[0]["bytes"], bytes);
    assert!(bytes < 165_000, "{bytes}");
    assert_eq!(lines[0]["layers"].as_array().unwrap().len(), 20);

    let again = lb(dir.path(), "calibrate --bits 4 --samples 32 --out again");
    assert!(again.status.success(), "{}", stderr(&again));
    let twin = dir.path().join("again").join(file.file_name().unwrap());
    assert_eq!(std::fs::read(&twin).unwrap(), std::fs::read(&file).unwrap());

    let o = lb(dir.path(), &format!("eval {} --json", twin.display()));
    assert!(o.status.success(), "{}", stderr(&o));
    let row: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(row["arithmetic"], "simulated");
    assert_eq!(row["metrics"]["total"], 2000);
    let accuracy = row["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.9, "{accuracy}");

    let mut damaged = std::fs::read(&twin).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&twin, damaged).unwrap();
    let o = lb(dir.path(), &format!("inspect {}", twin.display()));
    assert_eq!(o.status.code(), Some(1));
    let e = stderr(&o);
    assert!(
        e.contains(&twin.display().to_string()) && e.contains("checksum"),
        "{e}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_run_and_resume_goes_on() {
    use std::time::{Duration, Instant};
    let dir = tempfile::tempdir().unwrap();
    let line = "train --arch resnet8 --data synthetic --batch 16 --epochs 50 --run run";
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(line.split(' '))
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !dir.path().join("run/config.json").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "the run did not start"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(dir.path().join("run/state.safetensors").exists());

    let o = lb(dir.path(), line);
    assert_eq!(o.status.code(), Some(1));
    assert!(stderr(&o).contains("--resume"), "{}", stderr(&o));
    let o = lb(dir.path(), &format!("{line} --resume --lr 0.3"));
    assert!(
        stderr(&o).contains("other than asked for"),
        "{}",
        stderr(&o)
    );
}
