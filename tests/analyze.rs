//! `analyze`: what is known of blocks by construction comes out.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use sandbox::Sandbox;
use serde_json::Value;
use std::fs;
use support::fixture;

#[test]
fn blocks_that_add_nothing_are_seen_to() {
    let sandbox = Sandbox::with("hellaswag/model");
    let prose = fs::read_to_string(fixture("prose/val.txt")).unwrap();
    sandbox.write("t.txt", prose.chars().take(3000).collect::<String>());
    // Zero-residual blocks stand second and fourth.
    sandbox.run("grow ./m --to 4 --out grown").expect(0, &[]);
    let analyze = "analyze ./grown --text t.txt --context 32 --windows 4";
    let report: Value = serde_json::from_str(
        &sandbox
            .run(&format!("{analyze} --json"))
            .expect(0, &[])
            .stdout,
    )
    .unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    for (layer, adds) in [(0, true), (1, false), (2, true), (3, false)] {
        let block = &report["blocks"][layer];
        assert_eq!(block["layer"], layer);
        assert_eq!(number(&block["rms_update"]) > 0.0, adds, "{block}");
        assert_eq!(number(&block["skipped"]["mean"]) != 0.0, adds, "{block}");
        assert_eq!(number(&block["twice"]["mean"]) != 0.0, adds, "{block}");
        // Cosines of equal vectors are 1 within rounding of f32.
        assert_eq!(number(&block["influence"]).abs() > 1e-6, adds, "{block}");
    }
    assert_eq!(report["tokens"], 128);
    let angular = report["angular"].as_array().unwrap();
    let spans: Vec<_> = angular
        .iter()
        .map(|row| row.as_array().unwrap().len())
        .collect();
    assert_eq!(spans, [4, 3, 2, 1]);
    // Over both: what the first block turns.
    let (one, two) = (number(&angular[0][0]), number(&angular[0][1]));
    assert!(one > 0.0 && (one - two).abs() < 1e-6, "{one} {two}");
    let shown = sandbox.run(analyze).expect(0, &[]);
    assert!(shown.stdout.contains("loss if skipped"), "{}", shown.stdout);
}

#[test]
fn what_cannot_be_analysed_is_refused() {
    let sandbox = Sandbox::with("hellaswag/model");
    sandbox.write("t.txt", "Too short.");
    let analyze = "analyze ./m --text t.txt";
    sandbox.refuses(analyze, 3, &["fewer than context + 1"]);
    sandbox.refuses(
        &format!("{analyze} --context 9999"),
        2,
        &["reads 1 to 512 tokens"],
    );
    sandbox.refuses(&format!("{analyze} --windows 0"), 2, &["--windows"]);
    sandbox.refuses("analyze ./m --text nothing.txt", 3, &["nothing.txt"]);
    sandbox.refuses("analyze ./m", 2, &["--text"]);
}
