//! The fuzz targets' harnesses without a fuzzer: over their corpora and the routes files, and over random bytes.
//! See tests/fuzz/README.md.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

#[path = "../fuzz/src/lib.rs"]
mod harness;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// A kept input: its name, or `-`, and its bytes. `tests/fuzz/run` writes them and reads them, too.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let file = tests().join(format!("fuzz/corpus/{target}.txt"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.map(|line| {
        let (name, text) = line.split_once(' ').unwrap_or((line, ""));
        let bytes = bytes_of(text);
        assert_eq!(text_of(&bytes), text, "{target}: not as `tests/fuzz/run` writes it");
        (name.to_owned(), bytes)
    });
    entries.collect()
}

/// `\xHH` is a byte, `\\` a backslash, and everything else itself.
fn bytes_of(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = after;
        } else {
            let digits = rest.strip_prefix(b"x").and_then(|rest| rest.get(..2)).expect("\\xHH");
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
            rest = &rest[3..];
        }
    }
    bytes
}

fn text_of(bytes: &[u8]) -> String {
    let last = bytes.len().saturating_sub(1);
    let byte = |(at, byte): (usize, &u8)| match byte {
        b'\\' => "\\\\".to_owned(),
        b' ' if at == last => "\\x20".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().enumerate().map(byte).collect()
}

#[test]
fn the_corpora_hold() {
    for (target, _) in harness::HARNESSES {
        let mut entries = corpus(target);
        assert!(entries.len() > 10, "{target} has hardly a corpus");
        if target == "routes" {
            let routes =
                ["valid", "invalid"].iter().flat_map(|kind| files(&tests().join("routes").join(kind)));
            entries.extend(routes.map(|file| (file.display().to_string(), fs::read(&file).unwrap())));
        }
        for (name, bytes) in entries {
            // Shown when it does not hold.
            println!("{target}: {name} {}", text_of(&bytes));
            harness::run(target, &bytes);
        }
    }
}

/// A corpus is for every checkout: small. Each harness has one, and nothing else is there.
#[test]
fn the_corpora_are_small_and_all_there() {
    for (target, _) in harness::HARNESSES {
        let entries = corpus(target);
        let bytes: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(
            entries.len() <= 350 && bytes <= 150_000,
            "{target}: {} entries, {bytes} bytes",
            entries.len()
        );
        let named: Vec<&str> = entries.iter().map(|(name, _)| &**name).filter(|name| *name != "-").collect();
        assert!(named.iter().all(|name| name.contains('-')), "{target}: {named:?}");
    }
    let there: Vec<String> = files(&tests().join("fuzz/corpus"))
        .iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(there, harness::HARNESSES.map(|(target, _)| format!("{target}.txt")));
}

#[test]
fn inputs_are_kept_byte_for_byte() {
    let all: Vec<u8> = (0..=255).chain(*b"\\x20 # \\\\ ").collect();
    for bytes in [&b""[..], b" ", b"- a", b"\\", b"\\x41", b"a\nb\0", "\u{e4}".as_bytes(), &all] {
        let text = text_of(bytes);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.ends_with(' '), "{text}");
        assert_eq!(bytes_of(&text), bytes, "{text}");
    }
    assert_eq!(bytes_of(r"\x41\\x41 "), b"A\\x41 ");
}

proptest! {
    // What is found is put into the corpus, by hand.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_hold(data in prop::collection::vec(any::<u8>(), 0..300)) {
        for (name, _) in harness::HARNESSES {
            harness::run(name, &data);
        }
    }
}
