//! Text, shards and evaluation data in the forms that people have them in, and what is said of
//! those that are not read.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;
use std::io::Write;

use flate2::write::GzEncoder;
use sandbox::{RECIPE, Sandbox, rows, with_recipe};
use serde_json::{Value, json};
use support::fixture;

fn documents() -> Vec<Value> {
    let expected = fs::read(fixture("data/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let documents = expected["documents"].as_array().unwrap();
    documents
        .iter()
        .map(|text| json!({ "id": 1, "text": text }))
        .collect()
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zstd frame with one raw block, and the window that a descriptor says.
fn zstd_frame(window: u8, text: &[u8]) -> Vec<u8> {
    let header = (text.len() as u32) << 3 | 1;
    let start = [0x28, 0xb5, 0x2f, 0xfd, 0, window];
    [&start[..], &header.to_le_bytes()[..3], text].concat()
}

/// The documents as parquet in the compression that old Hadoop tools call LZ4, which pyarrow
/// reads and no longer writes.
fn lz4_parquet(path: &std::path::Path) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    let schema = "message m { required binary text (UTF8); }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::LZ4)
        .build();
    let file = fs::File::create(path).unwrap();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(file, schema, properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = documents();
    let texts: Vec<ByteArray> = texts
        .iter()
        .map(|d| d["text"].as_str().unwrap().into())
        .collect();
    column
        .typed::<ByteArrayType>()
        .write_batch(&texts, None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn texts_in_every_form_give_the_same_shard() {
    let sandbox = Sandbox::new();
    let documents = documents();
    let text = lines(&documents);
    let list = serde_json::to_string(&documents).unwrap();
    let pretty = serde_json::to_string_pretty(&documents).unwrap();
    sandbox.write("lines.json", &text);
    sandbox.write("lines.json.gz", gzip(&text));
    sandbox.write(
        "lines.json.zst",
        zstd::encode_all(text.as_bytes(), 1).unwrap(),
    );
    sandbox.write("list.json", &list);
    sandbox.write(
        "pretty.json",
        format!("\u{feff}{}\r\n", pretty.replace('\n', "\r\n")),
    );
    sandbox.write("list.json.gz", gzip(&list));
    sandbox.write("a.jsonl.bz2", bzip2(text.as_bytes()));
    let (first, rest) = text.split_at(text.find('\n').unwrap() + 1);
    sandbox.write(
        "members.jsonl.bz2",
        [bzip2(first.as_bytes()), bzip2(rest.as_bytes())].concat(),
    );
    // Zeros between members and after them, as tapes and some copies leave them.
    let padded = [gzip(first), vec![0; 700], gzip(rest), vec![0; 100_000]].concat();
    sandbox.write("padded.jsonl.gz", padded);
    sandbox.write("long.jsonl.zst", zstd_frame(21 << 3, text.as_bytes()));
    // Several frames, with one to be skipped before them.
    let frames = [
        b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
        zstd::encode_all(first.as_bytes(), 3).unwrap(),
        zstd::encode_all(rest.as_bytes(), 3).unwrap(),
    ];
    sandbox.write("frames.jsonl.zst", frames.concat());
    sandbox.write("zeros.jsonl", [text.as_bytes(), &[0; 3000]].concat());
    sandbox.write(
        "nan.jsonl",
        text.replace("\"id\":1", "\"id\":NaN,\"more\":[-Infinity]"),
    );
    let nested = |record: &Value| json!({ "doc": { "text": record["text"], "n": 1 }, "text": 3 });
    sandbox.write(
        "nested.jsonl",
        lines(&documents.iter().map(nested).collect::<Vec<_>>()),
    );
    let dotted = |record: &Value| json!({ "doc.text": record["text"], "doc": { "text": "no" } });
    sandbox.write(
        "dotted.json",
        lines(&documents.iter().map(dotted).collect::<Vec<_>>()),
    );
    for name in [
        "brotli.parquet",
        "lz4-raw.parquet",
        "nested.parquet",
        "long-window.jsonl.zst",
    ] {
        fs::copy(fixture("data").join(name), sandbox.path(name)).unwrap();
    }
    lz4_parquet(&sandbox.path("lz4.parquet"));
    let expected = fs::read(fixture("data/llmc.bin")).unwrap();
    for input in [
        "lines.json",
        "lines.json.gz",
        "lines.json.zst",
        "list.json",
        "pretty.json",
        "list.json.gz",
        "a.jsonl.bz2",
        "members.jsonl.bz2",
        "padded.jsonl.gz",
        "long.jsonl.zst",
        "long-window.jsonl.zst",
        "frames.jsonl.zst",
        "zeros.jsonl",
        "nan.jsonl",
        "nested.jsonl --field doc.text",
        "dotted.json --field doc.text",
        "brotli.parquet",
        "lz4-raw.parquet",
        "lz4.parquet",
        "nested.parquet --field doc.text",
        "nested.parquet --field meta.text",
    ] {
        let args = format!("data prepare {input} --out out --val-fraction 0 --force");
        let outcome = sandbox.run(&args).expect(0, &[]);
        let said = outcome.stdout.contains("508 tokens of 12 documents");
        assert!(said, "{input}: {}", outcome.stdout);
        assert!(
            sandbox.read("out/out_train_000001.bin") == expected,
            "{input}"
        );
        let padding = outcome.stderr.contains("3000 zero bytes at its end");
        assert_eq!(
            padding,
            input == "zeros.jsonl",
            "{input}: {}",
            outcome.stderr
        );
    }
}

#[test]
fn zeros_at_the_end_are_no_text() {
    let sandbox = Sandbox::new();
    let text = "Some text.\n<|endoftext|>More of it.\n";
    sandbox.write("plain.txt", text);
    sandbox.write("zeros.txt", [text.as_bytes(), &[0; 5000]].concat());
    let prepare = |name: &str| {
        let args = format!("data prepare {name} --out out --val-fraction 0 --force");
        let outcome = sandbox.run(&args).expect(0, &[]);
        (sandbox.read("out/out_train_000001.bin"), outcome.stderr)
    };
    let (plain, _) = prepare("plain.txt");
    let (zeros, said) = prepare("zeros.txt");
    assert!(plain == zeros);
    assert!(said.contains("zeros.txt: 5000 zero bytes"), "{said}");
    let gpt2 = scale_ckpt::data::Tokenizer::gpt2();
    let of =
        |name: &str| scale_ckpt::data::Tokens::from_files(&[sandbox.path(name)], &gpt2).unwrap();
    assert_eq!(of("plain.txt").sha256(), of("zeros.txt").sha256());
}

#[test]
fn what_of_a_folder_is_left_out_is_said() {
    let sandbox = Sandbox::new();
    for part in 0..20 {
        let line = json!({ "text": format!("text of part {part}") });
        fs::create_dir_all(sandbox.path("in/data")).unwrap();
        sandbox.write(
            &format!("in/data/part-{part:02}.json.gz"),
            gzip(format!("{line}\n")),
        );
    }
    sandbox.write("in/LICENSE.txt", "You may. ".repeat(2000));
    sandbox.write("in/README.md", "about");
    sandbox.write("in/dataset_info.json", "{\"splits\": 1}");
    sandbox.write("in/settings.json", "{\n  \"a\": 1\n}\n");
    sandbox.write("in/.gitattributes", "* lfs");
    sandbox.write("in/a.csv", "a,b\n");
    let prepare = "data prepare in --out out --val-fraction 0 --force";
    let outcome = sandbox.run(prepare).expect(
        0,
        &[
            "note: in: left out: 1 file (a.csv); 3 files (LICENSE.txt, dataset_info.json, settings.json) about the data",
        ],
    );
    assert!(
        outcome.stdout.contains("of 20 documents"),
        "{}",
        outcome.stdout
    );
    assert!(
        !outcome.stderr.contains("gitattributes"),
        "{}",
        outcome.stderr
    );
    // Named itself, a licence is a text like others.
    let licence = "data prepare in/LICENSE.txt --out l --val-fraction 0";
    sandbox.run(licence).expect(0, &[]);
    // Most of the files, and most of the bytes.
    for file in 0..21 {
        sandbox.write(&format!("in/{file}.csv"), "a,b\n");
    }
    let words = [
        "in: most of the folder would be left out, 22 of 42 files",
        "22 files (0.csv, 1.csv, 10.csv, ...)",
        "hint: make JSON lines of it",
        "in/*.txt",
    ];
    sandbox.refuses("data prepare in --out out2", 3, &words);
    fs::create_dir(sandbox.path("big")).unwrap();
    sandbox.write("big/a.txt", "text ".repeat(10));
    sandbox.write("big/b.txt", "text ".repeat(10));
    sandbox.write("big/c.jsonl.xz", [1; 5000]);
    let words = [
        "1 of 3 files and 5.00 kB of 5.10 kB",
        "hint: unpack it first: xz",
    ];
    sandbox.refuses("data prepare big --out out2", 3, &words);
    // Nothing but what is not read.
    fs::create_dir(sandbox.path("none")).unwrap();
    sandbox.write("none/a.arrow", "ARROW1");
    sandbox.write("none/LICENSE.txt", "You may.");
    let words = [
        "none: a folder without .txt",
        "1 file (a.arrow)",
        "hint: write it as parquet",
    ];
    sandbox.refuses("data prepare none --out out2", 3, &words);
}

#[test]
fn a_recipes_folder_is_looked_at_as_well() {
    let sandbox = with_recipe(&RECIPE.replace("10240", "512"));
    fs::create_dir_all(sandbox.path("texts/deep")).unwrap();
    sandbox.write("texts/a.txt", sandbox.read("train.txt"));
    sandbox.write("texts/LICENSE.txt", "You may.");
    sandbox.write("texts/notes.md", "notes");
    let recipe = RECIPE.replace("10240", "512").replace("train.txt", "texts");
    sandbox.write("r.toml", &recipe);
    let said = "note: texts: left out: 1 file (notes.md); 1 file (LICENSE.txt) about the data, \
                no text of it; folders, which are not searched (deep)";
    sandbox.run("train r.toml").expect(0, &[said]);
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    for part in 0..5 {
        sandbox.write(
            &format!("texts/part-{part}.jsonl.gz"),
            gzip("{\"text\": \"x\"}"),
        );
    }
    let words = [
        "texts: most of the folder would be left out",
        "hint: make shards of it first",
    ];
    sandbox.refuses("train r.toml", 3, &words);
    fs::remove_file(sandbox.path("texts/a.txt")).unwrap();
    let words = ["texts: a folder without .txt, .bin or .npy files; there are 5 files"];
    sandbox.refuses("train r.toml", 3, &words);
    for name in ["a.csv", "a.json", "a.jsonl.bz2"] {
        sandbox.write(name, "text");
    }
    for (data, words) in [
        (
            "https://hub.example/datasets/a/b",
            "scale-ckpt data prepare hf://datasets/a/b",
        ),
        (
            "hf://datasets/a/b",
            "scale-ckpt data prepare hf://datasets/a/b",
        ),
        ("a.csv", "pandas"),
        ("a.json", "make shards of it first"),
        ("a.jsonl.bz2", "make shards of it first"),
        ("train.txt.gz", "train.txt.gz: no such file or folder"),
        ("b.csv", "b.csv: no such file or folder"),
    ] {
        sandbox.write(
            "r.toml",
            recipe.replace("\"texts\"", &format!("\"{data}\"")),
        );
        sandbox.refuses("train r.toml", 3, &[words]);
    }
    for (name, bytes, words) in [
        (
            "t.txt",
            &gzip("text")[..],
            "hint: rename it to t.txt.gz, and make shards of it",
        ),
        ("t.txt", b"<!DOCTYPE html><html>", "an HTML page"),
        ("t.txt", b"\xff\xfet\0e\0", "UTF-16"),
        ("t.bin", b"PK\x03\x04 and more", "a zip archive"),
    ] {
        sandbox.write(name, bytes);
        sandbox.write(
            "r.toml",
            recipe.replace("\"texts\"", &format!("\"{name}\"")),
        );
        sandbox.refuses("train r.toml", 3, &[&format!("{name}: "), words]);
    }
}

#[test]
fn files_are_named_for_what_they_are() {
    let sandbox = Sandbox::new();
    let parquet = fs::read(fixture("data/snappy.parquet")).unwrap();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n";
    let one = "{\n  \"text\": \"a\",\n  \"more\": 1\n}\n";
    let wrong_crc = {
        let mut bytes = gzip("{\"text\": \"a\"}\n");
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        bytes
    };
    for (name, bytes) in [
        ("table.jsonl", parquet.clone()),
        ("gz.txt", gzip("text")),
        ("zst.jsonl", zstd::encode_all(&b"text"[..], 1).unwrap()),
        ("gz.jsonl.zst", gzip("text")),
        ("page.jsonl", b"\n<!doctype html>\n<html>".to_vec()),
        (
            "page.parquet",
            b"<html><body>Sign in</body></html>".to_vec(),
        ),
        ("page.json.gz", gzip("<html>")),
        ("pointer.parquet", lfs.into()),
        ("pointer.txt", lfs.into()),
        ("table.json.gz", gzip(&parquet)),
        ("utf16.jsonl", b"\xff\xfe{\0\"\0".to_vec()),
        ("bare16.txt", b"t\0e\0x\0t\0 \0o\0f\0".to_vec()),
        ("crc.jsonl.gz", wrong_crc),
        ("wide.jsonl.zst", zstd_frame(22 << 3, b"{}")),
        (
            "dictionary.jsonl.zst",
            b"\x28\xb5\x2f\xfd\x01\0\x07\x01\0\0abc".to_vec(),
        ),
        ("pretty.jsonl", one.into()),
        (
            "lists.jsonl",
            b"[{\"text\": \"a\"}]\n[{\"text\": \"b\"}]\n".to_vec(),
        ),
        (
            "lists.json",
            b"[{\"text\": \"a\"}]\n[{\"text\": \"b\"}]\n".to_vec(),
        ),
        ("comma.json", b"[{\"text\":\"a\"},]".to_vec()),
        ("cut.json", b"[{\"text\": \"a\"}, {\"te".to_vec()),
        ("one.json", one.into()),
        ("rows.json", b"{\"data\": [{\"text\": \"a\"}]}".to_vec()),
        (
            "pandas.json",
            b"{\"text\": {\"0\": \"a\", \"1\": \"b\"}}".to_vec(),
        ),
        ("strings.json", b"[\"a\", \"b\"]".to_vec()),
        (
            "list.jsonl",
            b"[{\"text\": \"a\"},\n {\"text\": \"b\"}]\n".to_vec(),
        ),
        (
            "half.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"\\ud800 b\"}\n".to_vec(),
        ),
        (
            "holes.jsonl",
            b"{\"text\": \"a\"}\n\0\0\0\0\n{\"text\": \"a\"}\n".to_vec(),
        ),
        (
            "keys.jsonl",
            b"{\"content\": \"a\", \"meta\": {\"texts\": 1}}\n".to_vec(),
        ),
        ("a.csv", b"text\na\n".to_vec()),
        ("a.tsv.gz", gzip("text\na\n")),
        ("a.jsonl.xz", b"\xfd7zXZ\0".to_vec()),
        ("a.tar.gz", gzip("x")),
        ("data-00000-of-00001.arrow", b"ARROW1\0\0".to_vec()),
        ("books.txt", b"a".to_vec()),
    ] {
        sandbox.write(name, bytes);
    }
    let table = r#"
table.jsonl | table.jsonl: a parquet table, though its name ends in .jsonl | hint: rename it to table.parquet
gz.txt | gz.txt: a gzip file, though its name ends in .txt | hint: rename it to gz.txt.gz
zst.jsonl | a zstd file | hint: rename it to zst.jsonl.zst
gz.jsonl.zst | gz.jsonl.zst: a gzip file, though its name ends in .zst | hint: rename it to gz.jsonl.gz
page.jsonl | page.jsonl: an HTML page | hint: it may be an error or log-in page
page.parquet | page.parquet: an HTML page
page.json.gz | page.json.gz: what is compressed in it is an HTML page
pointer.parquet | pointer.parquet: a pointer of git LFS | hint: fetch the file: git lfs pull
pointer.txt | pointer.txt: a pointer of git LFS
table.json.gz | what is compressed in it is a parquet table
utf16.jsonl | utf16.jsonl: not UTF-8 at byte 0: it begins as UTF-16 does | iconv
bare16.txt | bare16.txt: zero bytes between the letters, as in UTF-16 | iconv
crc.jsonl.gz | the gzip data is damaged or cut off | hint: copy or download
wide.jsonl.zst | the zstd window is larger than 2 GiB, the largest that is read | hint: write it again with a smaller window
dictionary.jsonl.zst | compressed with a zstd dictionary | hint: unpack it first
cut.json | cut.json:1, element 1: the file ends before its list does | hint: it is cut off
one.json | one.json:1: an object that goes on over several lines | jq -c . FILE
pretty.jsonl | pretty.jsonl:1: an object that goes on over several lines | jq -c . FILE
lists.jsonl | lists.jsonl:1: invalid type: sequence | jq -c '.[]' FILE
lists.json | lists.json: something follows the list | jq -c '.[]' FILE
comma.json | comma.json:1, element 1: no object after a comma: a comma after the last element
rows.json | rows.json:1: no key `text`; there are data | hint: the objects are in a list of it: jq
pandas.json | pandas.json:1: invalid type: map | hint: these are columns, as pandas writes them
strings.json | strings.json:1, element 0: invalid type: string "a", expected an object
list.jsonl | list.jsonl:1: | one list of objects is read where the file's name ends in .json
half.jsonl | half.jsonl:2: `\ud800` is half of a surrogate pair | --skip-bad
holes.jsonl | holes.jsonl:2: 4 zero bytes where an object was expected
keys.jsonl | keys.jsonl:1: no key `text`; there are content, meta.texts
keys.jsonl --field contents | keys.jsonl:1: no key `contents` | hint: did you mean --field content?
a.csv | a.csv: a table of separated values | hint: make JSON lines of it, for example with pandas
a.tsv.gz | a.tsv.gz: a table of separated values
a.jsonl.xz | a.jsonl.xz: compressed with xz, which is not read | hint: unpack it first: xz
a.tar.gz | a.tar.gz: an archive
data-00000-of-00001.arrow | an Arrow table, which is not read | to_parquet
https://hub.example/datasets/a/b/tree/main/x | the address of a page | hint: give hf://datasets/a/b/x
hub.example/datasets/a/b | the address of a page | hint: give hf://datasets/a/b
hf://a/b | a reference to the hub | hint: a dataset is written hf://datasets/org/name
book.txt | book.txt: no such file or folder | hint: did you mean books.txt?
nowhere/at/all | nowhere/at/all: no such file or folder | there is no folder nowhere/at
org/dataset | org/dataset: no such file or folder | hint: a dataset on the hub is written hf://datasets/org/dataset
"#;
    for row in rows(table) {
        sandbox.refuses(&format!("data prepare {} --out out", row[0]), 3, &row[1..]);
    }
    // A surrogate of its own is counted where bad documents are.
    let skipping = "data prepare half.jsonl --out out --val-fraction 0 --skip-bad";
    let outcome = sandbox.run(skipping).expect(0, &[]);
    assert!(
        outcome.stdout.contains("left out: 1 bad"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn ids_of_another_width_are_not_trained_on() {
    let sandbox = with_recipe(&RECIPE.replace("10240", "512"));
    let ids: Vec<u32> = (0..3000).map(|i| (i * i + 7 * i) % 500).collect();
    let of = |bytes: fn(u32) -> Vec<u8>| ids.iter().flat_map(|&id| bytes(id)).collect::<Vec<_>>();
    let header = |magic: i32| {
        let mut header = vec![0; 1024];
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..8].copy_from_slice(&1_i32.to_le_bytes());
        header[8..12].copy_from_slice(&3000_i32.to_le_bytes());
        [header, of(|id| (id as u16).to_le_bytes().to_vec())].concat()
    };
    let recipe = RECIPE.replace("10240", "512").replace("train.txt", "t.bin");
    sandbox.write("r.toml", &recipe);
    for (bytes, words) in [
        (of(|id| id.to_le_bytes().to_vec()), "t.bin: ids of 32 bits"),
        (
            of(|id| u64::from(id).to_le_bytes().to_vec()),
            "t.bin: ids of 64 bits",
        ),
        (of(|id| vec![id as u8 & 127]), "t.bin: ids of 8 bits"),
        (
            "Some text of a book, not ids. ".repeat(100).into(),
            "t.bin: text, not token ids",
        ),
        (vec![0; 8192], "t.bin: nothing but zeros"),
        (
            of(|id| (id as u16).to_le_bytes().to_vec())[..5999].to_vec(),
            "no whole number of tokens",
        ),
        (
            header(20_240_522),
            "an llm.c file of another kind: it begins with 20240522",
        ),
        (header(20_240_520_i32.swap_bytes()), "big-endian"),
        (
            [
                &header(20_240_520)[..1024],
                &of(|id| id.to_le_bytes().to_vec()),
            ]
            .concat(),
            "t.bin: ids of 32 bits",
        ),
        (
            [header(20_240_520), vec![7; 6000]].concat(),
            "hint: the file has trailing bytes, or its ids are of another width",
        ),
    ] {
        sandbox.write("t.bin", bytes);
        sandbox.refuses("train r.toml", 3, &[words, "hint: "]);
    }
    for bytes in [
        of(|id| (id as u16).to_le_bytes().to_vec()),
        header(20_240_520),
    ] {
        sandbox.write("t.bin", bytes);
        sandbox
            .run("train r.toml")
            .expect(0, &["training: 2 steps"]);
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn the_same_data_twice_is_told() {
    let sandbox = with_recipe(&RECIPE.replace("10240", "512"));
    fs::create_dir(sandbox.path("t")).unwrap();
    for name in ["a", "b", "c"] {
        let text = format!("one {name}<|endoftext|>two {name}<|endoftext|>three {name}");
        sandbox.write(&format!("t/{name}.txt"), text);
    }
    let prepare = "data prepare t/a.txt t/../t/a.txt t/b.txt --val-docs 3 --out";
    let said = "note: t/../t/a.txt is named more than once, and is read once";
    sandbox.run(&format!("{prepare} twice")).expect(0, &[said]);
    let once = "data prepare t/a.txt t/b.txt --val-docs 3 --out";
    let outcome = sandbox.run(&format!("{once} once")).expect(0, &[]);
    assert!(!outcome.stderr.contains("note:"), "{}", outcome.stderr);
    for split in ["train", "val"] {
        let shard = |folder: &str| {
            let mut names = fs::read_dir(sandbox.path(folder)).unwrap().flatten();
            let shard = names.find(|e| e.file_name().to_string_lossy().contains(split));
            fs::read(shard.unwrap().path()).unwrap()
        };
        assert_eq!(shard("twice"), shard("once"), "{split}");
    }
    sandbox.write("t/copy.txt", sandbox.read("t/b.txt"));
    let said = "warning: t/b.txt and t/copy.txt hold the same bytes";
    sandbox
        .run("data prepare t --out copies --val-docs 1")
        .expect(0, &[said]);
    let recipe = RECIPE.replace("10240", "512");
    fs::create_dir(sandbox.path("u")).unwrap();
    sandbox.write("u/val2.txt", sandbox.read("val.txt"));
    for (train, said) in [
        (
            "./val.txt",
            "warning: val.txt is in both data.train and data.val",
        ),
        (
            "u/*.txt",
            "warning: u/val2.txt of data.train and val.txt of data.val hold the same bytes",
        ),
        (
            "train.txt\", \"./train.txt",
            "./train.txt is named more than once",
        ),
    ] {
        sandbox.write("r.toml", recipe.replace("train.txt", train));
        sandbox.run("train r.toml").expect(0, &[said]);
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}
