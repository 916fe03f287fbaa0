//! `grow` on a checkpoint of gpt2-xl's shape, 48 to 96 blocks, against `cp` of as many bytes.
//!
//! ```sh
//! cargo bench --bench grow_xl -- /path/with/40GB [ROUNDS]
//! ```
//!
//! Each round times, in turn: `cp` of the grown weights followed by `sync` of the copy, then
//! `grow` (which syncs too) without and with certificate. Prints every time, medians, the ratio
//! to `cp`, and the peak resident memory of `grow`.
#![allow(clippy::print_stdout)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scale_ckpt::checkpoint::safetensors::TensorOut;
use scale_ckpt::checkpoint::{Dtype, Gpt2Config, layout, save};
use scale_ckpt::durable::StagedDir;
use scale_ckpt::error::Error;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(dir) = args.next().map(PathBuf::from) else {
        eprintln!("usage: cargo bench --bench grow_xl -- DIR [ROUNDS]   (DIR needs 40 GB)");
        return;
    };
    let rounds: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(3);
    let source = dir.join("xl");
    if !source.exists() {
        make_source(&source);
    }
    let (mut cp, mut plain, mut certified) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        plain.push(grow(&source, &dir.join("plain"), &["--no-certificate"]));
        certified.push(grow(&source, &dir.join("certified"), &[]));
        cp.push(copy(
            &dir.join("plain/model.safetensors"),
            &dir.join("copy.safetensors"),
        ));
        println!(
            "round {}: cp {:.1} s, grow {:.1} s, grow with certificate {:.1} s",
            round + 1,
            cp[round],
            plain[round].0,
            certified[round].0
        );
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let peak = |runs: &[(f64, u64)]| runs.iter().map(|run| run.1).max().unwrap_or(0) / 1024;
    let base = median(cp);
    println!("\ncp + sync                median {base:.1} s");
    for (name, runs) in [
        ("grow, no certificate", plain),
        ("grow, certified", certified),
    ] {
        let (memory, time) = (peak(&runs), median(runs.iter().map(|run| run.0).collect()));
        println!(
            "{name:<24} median {time:.1} s, {:.2} times cp, peak {memory} MiB",
            time / base
        );
    }
}

/// A checkpoint of 1.56B parameters; one block of noise serves for every tensor.
fn make_source(out: &Path) {
    let config = Gpt2Config::new(50257, 1024, 1600, 48, 25).expect("the shape of gpt2-xl");
    let mut state = 1_u64;
    let noise: Vec<f32> = (0..1 << 22)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.07
        })
        .collect();
    let noise = Dtype::F32.encode(&noise);
    let tensors = layout::params(&config)
        .into_iter()
        .map(|param| {
            let (bytes, noise) = (4 * param.numel(), noise.as_slice());
            TensorOut {
                name: param.name,
                dtype: Dtype::F32,
                shape: param.shape,
                append: Box::new(move |file| {
                    let mut left = bytes;
                    while left > 0 {
                        let piece = left.min(noise.len());
                        (&file.file)
                            .write_all(&noise[..piece])
                            .map_err(Error::io("write", &file.path))?;
                        left -= piece;
                    }
                    Ok(())
                }),
            }
        })
        .collect();
    let staged = StagedDir::new(out, false).expect("a new folder");
    save::save(&staged, &config, tensors, u64::MAX, &|_| {}).expect("6 GB of space");
    staged.publish().expect("6 GB of space");
}

/// Wall time in seconds and peak resident memory in KiB.
fn grow(source: &Path, out: &Path, flags: &[&str]) -> (f64, u64) {
    let _ = std::fs::remove_dir_all(out);
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_scale-ckpt"))
        .arg("grow")
        .arg(source)
        .args(["--to", "96", "--out"])
        .arg(out)
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is built");
    let peak = watch(child);
    (started.elapsed().as_secs_f64(), peak)
}

/// Waits for a child, reading its high-water mark of resident memory as it goes.
fn watch(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        });
        peak = peak.max(mark.unwrap_or(0));
        if let Some(exit) = child.try_wait().expect("a child") {
            assert!(exit.success(), "grow failed");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy(from: &Path, to: &Path) -> f64 {
    let _ = std::fs::remove_file(to);
    let started = Instant::now();
    let copied = Command::new("cp")
        .args([from, to])
        .status()
        .expect("cp exists");
    let synced = Command::new("sync").arg(to).status().expect("sync exists");
    assert!(copied.success() && synced.success());
    let elapsed = started.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(to);
    elapsed
}
