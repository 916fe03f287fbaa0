//! Mistakes as people make them, and what they are told.
#![cfg(test)]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Whole {
    name: Option<String>,
    count: Option<NonZeroUsize>,
    #[serde(default)]
    train: Train,
    #[serde(default)]
    stage: Vec<Train>,
    #[serde(default)]
    scale: BTreeMap<String, f64>,
    #[serde(default)]
    range: [usize; 2],
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Train {
    lr: Option<f64>,
    tokens: Option<u64>,
    offset: Option<i64>,
    #[serde(default)]
    seeds: Vec<u64>,
    #[serde(default)]
    total: bool,
    shape: Option<Shape>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code)]
enum Shape {
    Linear,
    Cosine,
}

#[test]
fn mistakes_have_the_full_key_the_line_and_plain_words() {
    let table = r#"
train.lr = "3e-4" | 1 | train.lr: expected a number, found "3e-4" | write lr = 3e-4
train.lr = "fast" | 1 | train.lr: expected a number, found "fast" |
train.lr = [1] | 1 | train.lr: expected a number, found a list |
train.lr = true | 1 | train.lr: expected a number, found true |
train.tokens = "2B" | 1 | train.tokens: expected a whole number from 0, found "2B" | write tokens = 2_000_000_000
train.tokens = '1.5k' | 1 | train.tokens: expected a whole number from 0, found '1.5k' | write tokens = 1_500
train.tokens = "10,000" | 1 | train.tokens: expected a whole number | write tokens = 10000
train.tokens = -1 | 1 | train.tokens: expected a whole number from 0, found -1 |
train.tokens = 1.5 | 1 | train.tokens: expected a whole number from 0, found 1.5 |
train.tokens = 1e300 | 1 | train.tokens: expected a whole number from 0, found 1e300 |
train.tokens = nan | 1 | train.tokens: expected a whole number from 0, found nan |
count = 0 | 1 | count: expected a whole number from 1, found 0 |
train.seeds = 3 | 1 | train.seeds: expected a list, found 3 | write seeds = [3]
train.seeds = [1, "2"] | 1 | train.seeds.2: expected a whole number from 0, found "2" | write 2
train.total = "yes" | 1 | train.total: expected true or false, found "yes" | write total = true
train.total = 1 | 1 | train.total: expected true or false, found 1 |
train.shape = "cosin" | 1 | train.shape: `cosin` is none of linear, cosine | did you mean `cosine`?
train.shape = 3 | 1 | train.shape: expected a name in quotes, or a table, found 3 |
name = 3 | 1 | name: expected text in quotes, found 3 | write name = "3"
train = 3 | 1 | train: expected a table, found 3 | train = { key = value }, or [train]
scale = 0.5 | 1 | scale: expected a table, found 0.5 | or [scale]
scale.new = "0.5" | 1 | scale.new: expected a number, found "0.5" | write new = 0.5
range = [1] | 1 | range: expected a list of 2, found a list |
range = 3 | 1 | range: expected a list of 2, found 3 |
name = "x"\n[train]\nlrr = 3 | 3 | there is no key `train.lrr` | did you mean `lr`?
trian.lr = 3 | 1 | there is no key `trian` | did you mean `train`?
name = "x"\n\nzebra = 3 | 3 | there is no key `zebra` | known are name, count, train
[[stage]]\nlr = 1\n[[stage]]\nlr = "1" | 4 | stage.2.lr: expected a number, found "1" | write lr = 1
[[stage]]\ntokens = 1e3\n[[stage]]\ntoken = 1 | 4 | there is no key `stage.2.token` | did you mean `tokens`?
stage = 3 | 1 | stage: expected a list, found 3 |
"#;
    for row in table.trim().lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let text = cells[0].replace("\\n", "\n");
        let mistake = read::<Whole>(&text).unwrap_err();
        assert_eq!(mistake.line, Some(cells[1].parse().unwrap()), "{row}");
        let told = mistake.to_string();
        assert!(told.starts_with(cells[2]), "{row}: {told}");
        let hint = mistake.hint().unwrap_or_default();
        assert!(hint.contains(cells[3]), "{row}: {hint}");
        let rusty = [
            "f64", "u64", "usize", "sequence", "struct", "field", "variant",
        ];
        assert!(rusty.iter().all(|word| !told.contains(word)), "{told}");
    }
}

#[test]
fn whole_numbers_are_read_however_they_are_written() {
    let text =
        "count = 2.0\n[train]\ntokens = 1e9\noffset = 1_000e3\nseeds = [1.0, 2, 3e0]\nlr = 1e-3";
    let whole: Whole = read(text).unwrap();
    assert_eq!(whole.count.map(usize::from), Some(2));
    assert_eq!(whole.train.tokens, Some(1_000_000_000));
    assert_eq!(whole.train.offset, Some(1_000_000));
    assert_eq!(whole.train.seeds, [1, 2, 3]);
    let tables = tables(text).unwrap();
    let again: Whole = of_tables(&tables).unwrap();
    assert_eq!(again.train.tokens, Some(1_000_000_000));
}

#[test]
fn what_is_not_toml_is_shown_by_the_parser() {
    for text in [
        "name = ",
        "name = \"x",
        "[train\nlr = 1",
        "name = 1\nname = 2",
    ] {
        let mistake = read::<Whole>(text).unwrap_err();
        assert!(mistake.to_string().contains("line "), "{mistake}");
        assert!(tables(text).is_err());
    }
}

#[test]
fn keys_from_outside_are_printable() {
    let mistake = read::<Whole>("\"a\\u001b[31m\" = 3").unwrap_err();
    assert!(!mistake.to_string().contains('\u{1b}'), "{mistake:?}");
    let mistake = read::<Whole>("train.shape = \"\\u001b[31m\"").unwrap_err();
    assert!(!mistake.to_string().contains('\u{1b}'), "{mistake:?}");
}

fn set(text: &str, assignment: &str) -> crate::error::Result<toml::Table> {
    let mut root = text.parse().unwrap();
    Overrides(&[assignment.to_owned()]).apply(&mut root)?;
    Ok(root)
}

#[test]
fn assignments_that_cannot_be_carried_out_are_explained() {
    let two = "name = \"x\"\n[train]\nlr = 1\nseeds = [1]\n[[stage]]\nlr = 1\n[[stage]]\nlr = 2\n";
    for (assignment, told) in [
        (
            "stage.3.tokens=7",
            "there are 2 [[stage]], numbered from 1: stage.1.tokens to stage.2.tokens",
        ),
        ("stage.0.tokens=7", "there are 2 [[stage]]"),
        ("stage.x.tokens=7", "there are 2 [[stage]]"),
        ("stage.tokens=7", "there are 2 [[stage]]"),
        ("arm.1.name=x", "there is no [[arm]]"),
        ("name.first=x", "name is not a table"),
        ("train.seeds.1.x=1", "train.seeds is not a table"),
        ("train.lr", "no `=`"),
        ("=3", "no key"),
        ("train.=3", "no key"),
    ] {
        let error = set(two, assignment).unwrap_err();
        assert!(error.to_string().contains(told), "{assignment}: {error}");
        assert!(
            error.to_string().contains(&format!("--set {assignment}")),
            "{error}"
        );
    }
    let one = set("[[stage]]\nlr = 1\n", "stage.2.lr=3").unwrap_err();
    assert!(
        one.to_string()
            .contains("there is one [[stage]]: stage.1.lr"),
        "{one}"
    );
}

#[test]
fn assignments_reach_tables_lists_and_what_is_not_there_yet() {
    let root = set("[[stage]]\nlr = 1\n", "stage.1.lr=2").unwrap();
    assert_eq!(root["stage"][0]["lr"].as_integer(), Some(2));
    let root = set("", "blend.weights.0=0.5").unwrap();
    assert_eq!(root["blend"]["weights"]["0"].as_float(), Some(0.5));
    for (value, expected) in [
        ("fast", "fast"),
        ("\"a b\"", "a b"),
        ("a, b", "a, b"),
        ("~/x", "~/x"),
    ] {
        let root = set("", &format!("name={value}")).unwrap();
        assert_eq!(root["name"].as_str(), Some(expected));
    }
}

#[test]
fn tables_in_one_line_keep_brackets_and_quotes_whole() {
    let table = inline_table("a=1, b=word,c=[1,2], d={x=1,y=\"p,q\"},e=\"],\"").unwrap();
    assert_eq!(table["a"].as_integer(), Some(1));
    assert_eq!(table["b"].as_str(), Some("word"));
    assert_eq!(table["c"].as_array().unwrap().len(), 2);
    assert_eq!(table["d"]["y"].as_str(), Some("p,q"));
    assert_eq!(table["e"].as_str(), Some("],"));
    assert!(inline_table("").unwrap().is_empty());
    assert!(inline_table("a").is_err() && inline_table("=1").is_err());
}
