//! Evaluation data in the forms that people have it in: every form of the same items gives the
//! same documents.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use sandbox::{Sandbox, rows};
use scale_ckpt::checkpoint::hub::NoProgress;
use scale_ckpt::eval::dataset::{self, Dataset, Hub, Source};
use scale_ckpt::eval::task::tasks_named;
use serde_json::{Value, json};
use support::fixture;

fn try_load(task: &str, data: &Path) -> scale_ckpt::Result<Dataset> {
    let hub = Hub {
        config: &|| unreachable!("the data is here"),
        progress: &NoProgress,
    };
    let task = &tasks_named(task).unwrap()[0];
    dataset::load(
        &**task,
        &Source::Path(data.to_owned()),
        None,
        None,
        false,
        &hub,
    )
}

fn load(task: &str, data: &Path) -> Dataset {
    try_load(task, data).unwrap_or_else(|e| panic!("{task}, {}: {e}", data.display()))
}

fn records(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// The same columns in another order, with others before and after them.
fn disordered(record: &Value) -> Value {
    let columns = record.as_object().unwrap().iter().rev();
    let mut turned = json!({ "": null, "extra": { "a": [1.5] } });
    for (key, value) in columns {
        turned[key] = value.clone();
    }
    turned["idx"] = json!(7);
    turned
}

#[test]
fn every_form_of_a_file_gives_the_same_items() {
    let sandbox = Sandbox::new();
    for (task, file, parquet) in [
        (
            "arc_easy",
            "eval/data/arc_easy.jsonl",
            "arc_easy_40.parquet",
        ),
        ("piqa", "eval/data/piqa.jsonl", "piqa_40.parquet"),
        (
            "winogrande",
            "eval/data/winogrande.jsonl",
            "winogrande_40.parquet",
        ),
        (
            "lambada_openai",
            "eval/data/lambada_openai.jsonl",
            "lambada_openai_40.parquet",
        ),
    ] {
        let wanted = load(task, &fixture(file)).docs;
        assert_eq!(wanted.len(), 40, "{task}");
        let records = records(file);
        let text = lines(&records);
        let mixed: Vec<Value> = records.iter().map(disordered).collect();
        sandbox.write("a.json", &text);
        sandbox.write("b.json", serde_json::to_string(&records).unwrap());
        sandbox.write(
            "c.json.gz",
            gzip(&serde_json::to_string_pretty(&records).unwrap()),
        );
        sandbox.write("d.jsonl.gz", gzip(&text));
        sandbox.write(
            "e.ndjson.zst",
            zstd::encode_all(text.as_bytes(), 1).unwrap(),
        );
        sandbox.write(
            "f.jsonl",
            format!("\u{feff}{}\r\n", text.replace('\n', "\r\n\r\n")),
        );
        sandbox.write("g.jsonl", [text.as_bytes(), &[0; 4096]].concat());
        sandbox.write("h.jsonl", lines(&mixed));
        sandbox.write("i.jsonl", lines(&mixed).replace("\"idx\":7", "\"idx\":NaN"));
        fs::copy(
            fixture("eval/data").join(parquet),
            sandbox.path("j.parquet"),
        )
        .unwrap();
        for entry in sandbox.entries() {
            assert!(
                load(task, &entry).docs == wanted,
                "{task}: {}",
                entry.display()
            );
        }
    }
}

#[test]
fn answers_are_taken_in_every_form_that_means_one_thing() {
    let sandbox = Sandbox::new();
    let choices = |labels: Value| json!({ "text": ["a", "b", "c"], "label": labels });
    let arc = |labels: Value, key: Value| json!({ "question": "q", "choices": choices(labels), "answerKey": key });
    let swag = |label: Value| {
        json!({ "ctx_a": "a", "ctx_b": "b", "activity_label": "c", "endings": ["a", "b", "c", "d"],
                "label": label })
    };
    let piqa = |label: Value| json!({ "goal": "g", "sol1": "a", "sol2": "b", "label": label });
    let gap = |answer: Value| json!({ "sentence": "a _ b", "option1": "x", "option2": "y", "answer": answer });
    let foundry =
        |gold: Value| json!({ "query": "C: a b", "choices": ["a", "b", "c", "d"], "gold": gold });
    for (task, record, gold) in [
        ("hellaswag", swag(json!(2)), 2),
        ("hellaswag", swag(json!(2.0)), 2),
        ("hellaswag", swag(json!("2")), 2),
        ("hellaswag", swag(json!("2.0")), 2),
        ("hellaswag", foundry(json!(3.0)), 3),
        ("hellaswag_completion", foundry(json!(3)), 3),
        ("piqa", piqa(json!("1")), 1),
        ("piqa", piqa(json!(1.0)), 1),
        ("winogrande", gap(json!(2)), 1),
        ("winogrande", gap(json!(1.0)), 0),
        ("winogrande", gap(json!("2")), 1),
        ("arc_easy", arc(json!(["A", "B", "C"]), json!("C")), 2),
        ("arc_easy", arc(json!(["1", "2", "3"]), json!("3")), 2),
        ("arc_easy", arc(json!(["1", "2", "3"]), json!(3)), 2),
        ("arc_easy", arc(json!([1, 2, 3]), json!("2.0")), 1),
        ("arc_challenge", arc(json!([1.0, 2.0, 3.0]), json!(1)), 0),
        // Numbers from 0 are numbers as well, where the labels are.
        ("arc_easy", arc(json!([0, 1, 2]), json!(1)), 1),
    ] {
        sandbox.write("d.jsonl", record.to_string());
        let found = load(task, &sandbox.path("d.jsonl"));
        assert_eq!(found.docs[0].gold, gold, "{task} {record}");
    }
    for (task, record, words) in [
        (
            "hellaswag",
            swag(json!(2.5)),
            "expected a label from 0 to 3, found 2.5",
        ),
        (
            "hellaswag",
            swag(json!("")),
            "found \"\", that is no answer: those of a test split",
        ),
        ("hellaswag", swag(json!(true)), "found true"),
        ("hellaswag", swag(json!([2])), "found [2]"),
        (
            "hellaswag",
            swag(Value::Null),
            "found null, that is no answer",
        ),
        (
            "piqa",
            piqa(json!(-1)),
            "expected a label from 0 to 1, found -1, that is no answer",
        ),
        (
            "winogrande",
            gap(json!("")),
            "expected an answer of 1 or 2, found \"\", that is no answer",
        ),
        (
            "winogrande",
            gap(json!(0)),
            "expected an answer of 1 or 2, found 0",
        ),
        // Which letter is 1, the first or the second?
        (
            "arc_easy",
            arc(json!(["A", "B", "C"]), json!("1")),
            "answerKey `1` is none of A, B, C",
        ),
        (
            "arc_easy",
            arc(json!(["A", "B", "C"]), json!("")),
            "is none of A, B, C, that is no answer",
        ),
        (
            "arc_easy",
            arc(json!(["A", null, "C"]), json!("A")),
            "expected a label such as",
        ),
    ] {
        sandbox.write("d.jsonl", format!("\n{record}"));
        let error = try_load(task, &sandbox.path("d.jsonl")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("d.jsonl:2: ") && text.contains(words),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("--skip-bad"), "{error}");
    }
    let mut missing = piqa(json!(1));
    missing.as_object_mut().unwrap().remove("label");
    sandbox.write("d.json", json!([piqa(json!(1)), missing]).to_string());
    let error = try_load("piqa", &sandbox.path("d.json"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("d.json:1, element 1: missing field `label`"),
        "{error}"
    );
}

#[test]
fn labels_of_a_table_may_be_floats_and_columns_any() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::writer::SerializedFileWriter;
    let sandbox = Sandbox::new();
    let schema = "message m { required double label; required binary goal (UTF8);
        required binary sol1 (UTF8); required binary sol2; required double score; }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let file = fs::File::create(sandbox.path("p.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..5 {
        let mut writer = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = ["x", "y"].map(|text| text.into()).into();
        match column {
            0 => writer
                .typed::<DoubleType>()
                .write_batch(&[1.0, 0.0], None, None),
            4 => writer
                .typed::<DoubleType>()
                .write_batch(&[0.5, f64::NAN], None, None),
            _ => writer
                .typed::<ByteArrayType>()
                .write_batch(&texts, None, None),
        }
        .unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let docs = load("piqa", &sandbox.path("p.parquet")).docs;
    assert_eq!(docs.iter().map(|doc| doc.gold).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn folders_of_exports_are_understood() {
    let sandbox = Sandbox::new();
    let wanted = load("arc_easy", &fixture("eval/data/arc_easy.jsonl")).docs;
    let all = records("eval/data/arc_easy.jsonl");
    let write = |name: &str, text: String| {
        fs::create_dir_all(sandbox.path(name).parent().unwrap()).unwrap();
        sandbox.write(name, text);
    };
    let other = lines(&all[..3]);
    // As the hub has them, in parts; with another configuration and another split beside.
    write("hub/ARC-Easy/test-00000-of-00002.jsonl", lines(&all[..25]));
    write("hub/ARC-Easy/test-00001-of-00002.jsonl", lines(&all[25..]));
    write("hub/ARC-Easy/train-00000-of-00001.jsonl", other.clone());
    write("hub/ARC-Challenge/test-00000-of-00001.jsonl", other.clone());
    write("hub/README.md", "about".into());
    // One file for each split, in two forms.
    write("splits/test.json", lines(&all));
    write("splits/test.jsonl", lines(&all));
    write("splits/train.json", other.clone());
    // The name of the data; other files do not matter.
    write("named/arc_easy.json.gz", String::new());
    sandbox.write("named/arc_easy.json.gz", gzip(&lines(&all)));
    write("named/test.jsonl", other);
    for folder in ["hub", "hub/ARC-Easy", "splits", "named"] {
        assert!(
            load("arc_easy", &sandbox.path(folder)).docs == wanted,
            "{folder}"
        );
    }
    let item = "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":1}";
    write("piqa/val.jsonl", item.into());
    write("piqa/test.jsonl", item.repeat(2));
    assert_eq!(load("piqa", &sandbox.path("piqa")).docs.len(), 1);
    write(
        "swag/hellaswag.jsonl",
        lines(&records("hellaswag/hellaswag_val_200.jsonl")),
    );
    for task in ["hellaswag", "hellaswag_completion"] {
        assert_eq!(load(task, &sandbox.path("swag")).docs.len(), 200, "{task}");
    }
    write("saved/test/data-00000-of-00001.arrow", "ARROW1".into());
    write("saved/dataset_dict.json", "{\"splits\": [\"test\"]}".into());
    write("empty/notes.md", String::new());
    for (data, words, hint) in [
        ("saved", "a folder of Arrow tables", "to_parquet"),
        (
            "saved/test/data-00000-of-00001.arrow",
            "an Arrow table",
            "to_parquet",
        ),
        (
            "empty",
            "no arc_easy.jsonl, .parquet or .txt in that folder, and none of its test split",
            "names a file",
        ),
        ("nowhere", "no such file or folder", "paths are relative"),
    ] {
        let error = try_load("arc_easy", &sandbox.path(data)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
}

#[test]
fn files_that_are_no_evaluation_data_are_named() {
    let sandbox = Sandbox::with("hellaswag/model");
    let item = r#"{"ctx":"a b","endings":["b","c","d","e"],"label":3}"#;
    let parquet = fs::read(fixture("data/lz4-raw.parquet")).unwrap();
    for (name, bytes) in [
        ("h.csv", b"ctx,label\n".to_vec()),
        ("table.jsonl", parquet.clone()),
        ("page.parquet", b"<!DOCTYPE html>".to_vec()),
        ("cut.parquet", parquet[..3000].to_vec()),
        ("gz.txt", gzip(item)),
        ("half.jsonl", item.replace("a b", "\\ud800").into_bytes()),
        ("list.jsonl", format!("[{item},\n{item}]").into_bytes()),
        (
            "one.json",
            item.replace(',', ",\n").replace('{', "{\n").into_bytes(),
        ),
        ("data.json", format!("{{\"data\":[{item}]}}").into_bytes()),
        (
            "rows.json",
            format!("{{\"features\":[{{\"a\":1}},{{}}],\"rows\":[{{\"row\":{item}}}]}}")
                .into_bytes(),
        ),
        (
            "long.json",
            format!("{{\"data\":[{item}{}]}}", format!(",{item}").repeat(20_000)).into_bytes(),
        ),
        ("pretty.jsonl", item.replace(',', ",\n").into_bytes()),
        ("cut.jsonl.gz", gzip(&item.repeat(30))[..60].to_vec()),
        (
            "pandas.json",
            b"{\"ctx\":{\"0\":\"a b\"},\"endings\":{\"0\":[]},\"label\":{\"0\":3}}".to_vec(),
        ),
    ] {
        sandbox.write(name, bytes);
    }
    let table = r#"
h.csv | h.csv: a table of separated values | hint: make JSON lines of it
table.jsonl | table.jsonl: a parquet table, though | hint: rename it to table.parquet
page.parquet | page.parquet: an HTML page
cut.parquet | cut.parquet: not a parquet file, or cut off | hint: copy or download
gz.txt | gz.txt: a gzip file, though | hint: rename it to gz.txt.gz
half.jsonl | half.jsonl:1: `\ud800` is half of a surrogate pair | hint: --skip-bad
list.jsonl | list.jsonl:1: | where the file's name ends in .json
one.json | one.json:1: an object that goes on over several lines
data.json | data.json:1: missing field | hint: the objects are in a list of it: jq -c '."data"[]'
rows.json | rows.json:1: missing field | jq -c '."rows"[]."row"'
long.json | long.json:1: missing field | jq -c '."data"[]'
pretty.jsonl | pretty.jsonl:1: an object that goes on over several lines | jq -c . FILE
cut.jsonl.gz | the gzip data is damaged or cut off
pandas.json | pandas.json:1: not an item, but a table | hint: these are columns, as pandas writes them
https://hub.example/datasets/Rowan/hellaswag | the address of a page | hint: leave --data hellaswag away
hf://datasets/Rowan/hellaswag | a reference to the hub | hint: leave --data hellaswag away
"#;
    for row in rows(table) {
        let eval = format!(
            "eval ./m --tasks hellaswag_completion --data hellaswag={}",
            row[0]
        );
        sandbox.refuses(&eval, 3, &row[1..]);
    }
}
