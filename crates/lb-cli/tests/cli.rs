//! The command as people and scripts see it: exit codes, messages, files.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn lb(folder: &Path, line: &str) -> Output {
    lb_with(folder, line, &[])
}

fn lb_with(folder: &Path, line: &str, environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(line.split(' '))
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap()
}

fn json_lines(o: &Output) -> Vec<serde_json::Value> {
    assert!(o.status.success(), "{}", stderr(o));
    let lines = String::from_utf8_lossy(&o.stdout);
    let parse = |l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"));
    lines.lines().map(parse).collect()
}

/// Calibrates the built-in network in `folder`; its packed files.
fn calibrated(folder: &Path, options: &str) -> Vec<String> {
    let o = lb(folder, &format!("calibrate --samples 32 --json {options}"));
    let files = json_lines(&o);
    (files.iter())
        .map(|l| l["file"].as_str().unwrap().to_string())
        .collect()
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
fn bfloat16_is_refused_where_it_would_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let line = "train --data synthetic --epochs 1 --bf16 --backend ndarray";
    let o = lb(dir.path(), line);
    assert_eq!(o.status.code(), Some(1));
    assert!(
        stderr(&o).contains("for the CPU (flex) only"),
        "{}",
        stderr(&o)
    );
    assert!(!dir.path().join("runs").exists());
}

/// As in `lb data info | head -1`.
#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["data", "info", "--data", "synthetic"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(141), "{}", stderr(&o));
    assert!(!stderr(&o).contains("panicked"), "{}", stderr(&o));
}

#[test]
fn misunderstandings_exit_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for (line, said) in [
        ("calibrate --bits 9", "1 to 8 or 16"),
        ("eval --engine float", "sim"),
        ("bench --seconds 0", "seconds"),
        ("bench --threads 0", "1..=1024"),
        ("calibrate --method brcq", "lbtorch"),
        ("calibrate --levels powers", "uniform or apot"),
        ("calibrate --activation-levels apot", "uniform or fitted"),
        ("calibrate --target-size 80", "80kB"),
        ("calibrate --target-drop 101", "percentage points"),
        ("calibrate --target-latency 1kB", "150us"),
        ("analyze --bits 9", "1 to 8 or 16"),
        ("analyze --samples 0", "1..="),
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
    let o = lb(dir.path(), "calibrate --bits 4,w1a2 --samples 32 --json");
    let lines = json_lines(&o);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["widths"], "W4A4, edge layers W8A8");
    let file = dir.path().join(lines[0]["file"].as_str().unwrap());
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert_eq!(lines[0]["bytes"], bytes);
    assert!(bytes < 165_000, "{bytes}");
    assert_eq!(lines[0]["layers"].as_array().unwrap().len(), 20);
    assert_eq!(lines[0]["arithmetic"], "simulated");
    let d = |i: usize, key: &str| lines[i]["divergence"][key].as_f64().unwrap();
    assert_eq!((d(0, "images"), d(1, "images")), (32.0, 32.0));
    assert!(0.0 < d(0, "kl") && d(0, "kl") < d(1, "kl"), "{lines:?}");

    let again = lb(dir.path(), "calibrate --bits 4 --samples 32 --out again");
    assert!(again.status.success(), "{}", stderr(&again));
    let twin = dir.path().join("again").join(file.file_name().unwrap());
    assert_eq!(std::fs::read(&twin).unwrap(), std::fs::read(&file).unwrap());

    let o = lb(dir.path(), &format!("eval {} --json", twin.display()));
    let row = &json_lines(&o)[0];
    assert_eq!(row["arithmetic"], "integer");
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

#[test]
fn images_beyond_the_cache_are_left_out_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let o = lb(dir.path(), "calibrate --bits 4 --samples 24 --cache 3MB");
    assert!(o.status.success(), "{}", stderr(&o));
    let said = "refined on 11 of 24 calibration images";
    assert!(stderr(&o).contains(said), "{}", stderr(&o));
    let o = lb(dir.path(), "calibrate --bits 4 --samples 24 --cache 1MB");
    assert_eq!(o.status.code(), Some(1));
    assert!(
        stderr(&o).contains("allow at least 2097152 bytes"),
        "{}",
        stderr(&o)
    );
}

#[test]
fn packed_files_are_evaluated_in_integers_and_simulated_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = &calibrated(dir.path(), "--bits 4")[0];
    let eval = |rest: &str| lb(dir.path(), &format!("eval {file} --json {rest}"));
    let integer = &json_lines(&eval("--threads 2"))[0];
    assert_eq!(integer["arithmetic"], "integer");
    assert_eq!(integer["threads"], 2);
    assert!(!integer["kernel"].as_str().unwrap().is_empty());
    let simulated = &json_lines(&eval("--engine sim"))[0];
    assert_eq!(simulated["arithmetic"], "simulated");
    assert!(simulated["kernel"].is_null() && simulated["threads"].is_null());
    let right = |row: &serde_json::Value| row["metrics"]["correct"].as_i64().unwrap();
    // A tenth of a point of 2,000 images.
    assert!((right(integer) - right(simulated)).abs() <= 2);

    let forced = [("LB_KERNEL", "scalar")];
    let o = lb_with(dir.path(), &format!("eval {file} --json"), &forced);
    let scalar = &json_lines(&o)[0];
    assert_eq!(scalar["kernel"], "scalar");
    assert_eq!(scalar["metrics"], integer["metrics"]);
    let unknown = [("LB_KERNEL", "abacus")];
    for line in ["eval", "inspect", "bench --no-float"] {
        let o = lb_with(dir.path(), &format!("{line} {file}"), &unknown);
        assert_eq!(o.status.code(), Some(1), "{line}");
        let e = stderr(&o);
        assert!(e.contains("abacus") && e.contains("scalar"), "{line}: {e}");
    }
}

#[test]
fn additive_powers_of_two_run_in_integers_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = &calibrated(dir.path(), "--bits 4 --levels apot")[0];
    assert!(file.ends_with("w4a4-e8-gptq-apot.lbq"), "{file}");
    let eval = |rest: &str| {
        let o = lb(dir.path(), &format!("eval {file} --json{rest}"));
        json_lines(&o).remove(0)
    };
    let (integer, simulated) = (eval(""), eval(" --engine sim"));
    assert_eq!(integer["arithmetic"], "integer");
    let widths = integer["widths"].as_str().unwrap();
    assert!(
        widths.starts_with("W4A4 apot, edge layers W8A8"),
        "{widths}"
    );
    let right = |row: &serde_json::Value| row["metrics"]["correct"].as_i64().unwrap();
    assert!((right(&integer) - right(&simulated)).abs() <= 2);
    let o = lb(dir.path(), &format!("inspect {file}"));
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    let levels = |layer: &str| -> String {
        let line = said.lines().find(|l| l.contains(layer)).unwrap();
        line.split('|').nth(4).unwrap().trim().into()
    };
    assert_eq!(levels("blocks.0.conv1"), "apot", "{said}");
    assert_eq!(levels("stem"), "uniform", "{said}");
    for (options, said) in [
        ("--bits 8", "2 to 6 bits, not 8"),
        ("--bits w1a4", "2 to 6 bits, not 1"),
        ("--bits 4 --method brecq", "--method brecq"),
        ("--target-size 80kB", "target"),
    ] {
        let o = lb(dir.path(), &format!("calibrate --levels apot {options}"));
        assert_eq!(o.status.code(), Some(1), "{options}");
        assert!(stderr(&o).contains(said), "{options}: {}", stderr(&o));
    }
    let tune = format!("finetune {file} --data synthetic");
    let o = lb(dir.path(), &tune);
    assert_eq!(o.status.code(), Some(1));
    let e = stderr(&o);
    assert!(e.contains("layer `") && e.contains("--levels apot"), "{e}");
}

#[test]
fn activations_on_fitted_levels_run_in_integers_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = &calibrated(dir.path(), "--bits w2a4 --activation-levels fitted")[0];
    assert!(file.ends_with("w2a4-e8-gptq-fitted.lbq"), "{file}");
    let eval = |rest: &str| {
        let o = lb(dir.path(), &format!("eval {file} --json{rest}"));
        json_lines(&o).remove(0)
    };
    let (integer, simulated) = (eval(""), eval(" --engine sim"));
    assert_eq!(integer["arithmetic"], "integer");
    let widths = integer["widths"].as_str().unwrap();
    assert!(widths.contains("activation levels fitted"), "{widths}");
    let right = |row: &serde_json::Value| row["metrics"]["correct"].as_i64().unwrap();
    assert!((right(&integer) - right(&simulated)).abs() <= 2);
    let o = lb(dir.path(), &format!("inspect {file}"));
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    let levels = |activation: &str| -> String {
        let named = |l: &&str| l.split('|').nth(1).is_some_and(|n| n.trim() == activation);
        let line = said.lines().find(named).unwrap();
        line.split('|').nth(3).unwrap().trim().into()
    };
    let inner = levels("blocks.0.act1");
    assert!(inner.starts_with("0 ") && inner.ends_with(" 127"), "{said}");
    assert_eq!(inner.split(' ').count(), 16, "{said}");
    assert_eq!(levels("input"), "uniform", "{said}");
    for (options, said) in [
        ("--bits 4 --method minmax", "--method minmax"),
        ("--bits 4,8", "2 to 6 bits, not 8"),
        ("--target-size 80kB", "target"),
    ] {
        let line = format!("calibrate --activation-levels fitted {options}");
        let o = lb(dir.path(), &line);
        assert_eq!(o.status.code(), Some(1), "{options}");
        assert!(stderr(&o).contains(said), "{options}: {}", stderr(&o));
    }
}

#[test]
fn an_image_of_few_bits_is_diffused_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let of = |options: &str, name: &str| {
        let file = &calibrated(dir.path(), &format!("--bits 2 --edge-bits same{options}"))[0];
        assert!(file.ends_with(name), "{file}");
        let o = lb(dir.path(), &format!("eval {file} --json"));
        let integer = json_lines(&o).remove(0);
        assert_eq!(integer["arithmetic"], "integer");
        let inspected = lb(dir.path(), &format!("inspect {file}"));
        let table = String::from_utf8_lossy(&inspected.stdout).into_owned();
        let image = table.lines().find(|l| l.starts_with("| input ")).unwrap();
        let widths = integer["widths"].as_str().unwrap();
        let found = ["diffused", "dithered"].into_iter().filter(|word| {
            let found = image.contains(&format!("| 2, {word} |"));
            assert_eq!(widths.contains(&format!("image {word}")), found, "{widths}");
            found
        });
        found.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of("", "w2a2-all-gptq.lbq"), "diffused");
    let dither = " --image-rounding dither";
    assert_eq!(of(dither, "w2a2-all-gptq-dither.lbq"), "dithered");
    let nearest = " --image-rounding nearest";
    assert_eq!(of(nearest, "w2a2-all-gptq-nearest.lbq"), "");
    assert_eq!(of(" --method mse", "w2a2-all-mse.lbq"), "");
}

#[test]
fn what_integers_cannot_run_is_simulated_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = &calibrated(dir.path(), "--bits 8 --method lbtorch")[0];
    let o = lb(dir.path(), &format!("eval {file} --json"));
    assert_eq!(json_lines(&o)[0]["arithmetic"], "simulated");
    let e = stderr(&o);
    assert!(e.contains("note: ") && e.contains("simulated"), "{e}");

    let o = lb(dir.path(), &format!("eval {file} --engine int"));
    assert_eq!(o.status.code(), Some(1));
    let e = stderr(&o);
    assert!(e.contains(file) && e.contains("--engine sim"), "{e}");

    let o = lb(dir.path(), &format!("bench {file} --no-float"));
    assert_eq!(o.status.code(), Some(1));
    let e = stderr(&o);
    assert!(e.contains(file) && e.contains("nothing to measure"), "{e}");

    let o = lb(dir.path(), &format!("inspect {file}"));
    assert!(o.status.success(), "{}", stderr(&o));
    let said = String::from_utf8_lossy(&o.stdout);
    assert!(said.contains("does not run"), "{said}");
}

#[test]
fn bench_gives_a_line_for_every_cell() {
    let dir = tempfile::tempdir().unwrap();
    let files = calibrated(dir.path(), "--bits 4,8");
    let line = format!(
        "bench {} runs/demo/quantized/none.lbq --no-float",
        files.join(" ")
    );
    let o = lb(dir.path(), &line);
    assert!(stderr(&o).contains("none.lbq"), "{}", stderr(&o));

    let line = "--batch 1,3 --threads 1,2 --seconds 0.001 --layers --json";
    let lines = json_lines(&lb(dir.path(), &format!("bench {line}")));
    let (layers, cells): (Vec<_>, Vec<_>) = lines.iter().partition(|l| l.get("layer").is_some());
    // Two files at 2 × 2 settings, and float at each batch.
    assert_eq!(cells.len(), 2 * 4 + 2);
    for c in &cells {
        for key in ["network", "widths", "kernel", "data", "cpu", "version"] {
            assert!(!c[key].as_str().unwrap().is_empty(), "{key}: {c}");
        }
        let number = |key: &str| c[key].as_f64().unwrap();
        let (least, most) = (number("images_per_s_min"), number("images_per_s_max"));
        let rate = number("images_per_s");
        assert!(0.0 < least && least <= rate && rate <= most, "{c}");
        assert!(number("ms") > 0.0 && number("rounds") >= 3.0, "{c}");
    }
    let of = |arithmetic: &str| {
        cells
            .iter()
            .filter(|c| c["arithmetic"] == arithmetic)
            .count()
    };
    assert_eq!((of("integer"), of("float")), (8, 2));
    let streams = |batch: usize, threads: usize| {
        let at = |c: &&&serde_json::Value| c["batch"] == batch && c["threads"] == threads;
        let mut found = cells
            .iter()
            .filter(at)
            .filter(|c| c["arithmetic"] == "integer");
        found.next().unwrap()["streams"].as_u64().unwrap()
    };
    // One image is never split: single ones take turns on sessions side by side.
    assert_eq!((streams(1, 1), streams(1, 2), streams(3, 2)), (1, 2, 1));

    let shares: f64 = layers.iter().map(|l| l["share"].as_f64().unwrap()).sum();
    assert!((shares - 2.0).abs() < 1e-6, "{shares}");
    let stem = layers.iter().find(|l| l["layer"] == "stem").unwrap();
    assert_eq!(stem["output"], "16×32×32");
    assert!(stem["gmac_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn inspect_prints_the_graph_and_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let file = &calibrated(dir.path(), "--bits w2a4 --residual-bits 8")[0];
    let forced = [("LB_KERNEL", "scalar")];
    let o = lb_with(dir.path(), &format!("inspect {file}"), &forced);
    assert!(o.status.success(), "{}", stderr(&o));
    let said = String::from_utf8_lossy(&o.stdout);
    let row = |operation: &str| -> Vec<&str> {
        let line = said.lines().find(|l| l.contains(operation));
        let line = line.unwrap_or_else(|| panic!("no {operation} in {said}"));
        line.split('|').map(str::trim).collect()
    };
    assert_eq!(
        row("convolution blocks.0.conv1")[4..7],
        ["16×32×32", "real", "scalar"]
    );
    assert_eq!(
        row("activation blocks.0.input")[4..7],
        ["16×32×32", "4", ""]
    );
    assert_eq!(row("activation stem_act")[5], "8");
    assert_eq!(row("shortcut, stride 2, 64 channels")[4], "64×8×8");
    assert_eq!(row("linear linear")[4], "10×1×1");
}

#[test]
fn analysis_has_a_line_for_every_place_and_width() {
    let dir = tempfile::tempdir().unwrap();
    let lines = json_lines(&lb(dir.path(), "analyze --bits 8,2 --samples 8 --json"));
    // 20 weights and 20 activations of ResNet-20.
    assert_eq!(lines.len(), 2 * 40);
    let sum = |bits: u64| -> f64 {
        let of = lines.iter().filter(|l| l["bits"] == bits);
        of.map(|l| l["kl"].as_f64().unwrap()).sum()
    };
    assert!(sum(2) > 10.0 * sum(8), "{} {}", sum(2), sum(8));
    for l in &lines {
        assert_eq!(
            (&l["images"], &l["arithmetic"]),
            (&8.into(), &"simulated".into())
        );
        let weight = l["kind"] == "weight";
        assert_eq!(l["bytes"].is_u64(), weight, "{l}");
        assert_eq!(l["us_by_input_bits"].is_object(), weight, "{l}");
        if weight {
            assert!(l["us_by_input_bits"]["2"].as_f64().unwrap() > 0.0, "{l}");
        }
    }
    // The same again, but for times.
    let line = "analyze --bits 2,8 --samples 8 --no-time --json";
    let again = json_lines(&lb(dir.path(), line));
    for (a, b) in lines.iter().zip(&again) {
        assert!(b["us_by_input_bits"].is_null());
        assert_eq!(
            (&a["place"], &a["bits"], &a["kl"]),
            (&b["place"], &b["bits"], &b["kl"])
        );
    }
    let o = lb(dir.path(), "analyze --bits 2,8 --samples 8");
    let said = String::from_utf8_lossy(&o.stdout);
    assert!(
        said.contains("blocks.8.conv2") && said.contains("simulated"),
        "{said}"
    );
    let o = lb(dir.path(), "analyze --method lbtorch --samples 8");
    assert_eq!(o.status.code(), Some(1));
    assert!(stderr(&o).contains("float"), "{}", stderr(&o));
}

#[test]
fn targets_are_met_or_the_nearest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = |rest: &str| {
        lb(
            dir.path(),
            &format!("calibrate --samples 24 --bits 2,4,8 --refine 0 {rest}"),
        )
    };
    let targets = "--target-size 120kB,0.2MB --target-drop 50 --target-latency 1s --json";
    let lines = json_lines(&run(targets));
    // Widths are chosen by plain rounding, and the network is refined afterwards.
    let methods: Vec<&serde_json::Value> = lines.iter().map(|l| &l["options"]["method"]).collect();
    assert_eq!(methods, ["gptq", "gptq", "mse", "gptq"]);
    let targets: Vec<&str> = lines
        .iter()
        .map(|l| l["target"]["target"].as_str().unwrap())
        .collect();
    assert_eq!(targets, ["120kB", "0.2MB", "drop50", "1s"]);
    let bytes = |i: usize| lines[i]["bytes"].as_u64().unwrap();
    let kl = |i: usize| lines[i]["divergence"]["kl"].as_f64().unwrap();
    assert!(bytes(0) <= 120_000 && bytes(0) > 100_000, "{}", bytes(0));
    assert!(bytes(1) <= 200_000 && bytes(1) > bytes(0));
    assert!(kl(1) < kl(0));
    assert!(kl(0) < lines[0]["target"]["predicted_kl"].as_f64().unwrap());
    let flips = lines[2]["divergence"]["flips"].as_u64().unwrap();
    assert!(flips * 2 <= 24 && bytes(2) < bytes(1), "{flips}");
    // A second is enough for the most bits everywhere.
    assert_eq!(lines[3]["target"]["mean_weight_bits"], 8.0);
    assert!(lines[3]["target"]["us"].as_f64().unwrap() < 1e6);

    let file = dir.path().join(lines[0]["file"].as_str().unwrap());
    let name = file.file_name().unwrap().to_string_lossy();
    assert!(name.starts_with("resnet20-mixed-120kB-w"), "{name}");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes(0));
    let o = lb(dir.path(), &format!("eval {} --json", file.display()));
    let row = &json_lines(&o)[0];
    assert_eq!(row["arithmetic"], "integer");
    assert!(
        row["widths"].as_str().unwrap().starts_with("mixed W"),
        "{row}"
    );
    let o = lb(dir.path(), &format!("inspect {}", file.display()));
    let said = String::from_utf8_lossy(&o.stdout);
    assert!(said.contains("quantized:     mixed W"), "{said}");

    // At a mean of activation bits, with moves, and for people.
    let line = "--bits 2,4 --refine 1 --target-size 120kB,1kB --mean-activation-bits 3";
    let o = lb(dir.path(), &format!("calibrate --samples 8 {line}"));
    let said = String::from_utf8_lossy(&o.stdout);
    assert!(
        said.contains("predicted") && said.contains("A3.0"),
        "{said}"
    );
    // The second target cannot be met, and the first one is written all the same.
    assert_eq!(o.status.code(), Some(1));
    assert!(stderr(&o).contains("1kB"), "{}", stderr(&o));

    let few = lb(
        dir.path(),
        "calibrate --samples 24 --bits 1 --target-drop 0",
    );
    for (o, said) in [
        (
            run("--target-size 10kB"),
            "smallest file of these widths has",
        ),
        (run("--target-latency 1ns"), "fastest widths of these take"),
        (few, "of 24 calibration images"),
        (
            run("--target-size 90kB --mean-activation-bits 1.5"),
            "an activation value has 2.00",
        ),
        (run("--mean-activation-bits 3"), "--target-size"),
        (run("--target-size 90kB --method lbtorch"), "another method"),
        (run("--target-drop 5 --method brecq"), "--method gptq"),
    ] {
        assert_eq!(o.status.code(), Some(1), "{said}");
        assert!(stderr(&o).contains(said), "{said}: {}", stderr(&o));
    }
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
    let config = std::fs::read(dir.path().join("run/config.json")).unwrap();
    let o = lb(dir.path(), &format!("{line} --resume --lr 0.3"));
    assert!(
        stderr(&o).contains("other than asked for"),
        "{}",
        stderr(&o)
    );
    let after = std::fs::read(dir.path().join("run/config.json")).unwrap();
    assert_eq!(config, after);
}
