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

#[test]
fn the_corpora_hold() {
    for (name, _) in harness::HARNESSES {
        let mut entries = files(&tests().join("fuzz/corpus").join(name));
        assert!(entries.len() > 10, "{name} has hardly a corpus");
        if name == "routes" {
            entries.extend(
                ["valid", "invalid"].iter().flat_map(|kind| files(&tests().join("routes").join(kind))),
            );
        }
        for entry in entries {
            // Shown when it does not hold.
            println!("{}", entry.display());
            harness::run(name, &fs::read(&entry).unwrap());
        }
    }
}

/// A corpus is for every checkout: small.
#[test]
fn the_corpora_are_small() {
    for (name, _) in harness::HARNESSES {
        let entries = files(&tests().join("fuzz/corpus").join(name));
        let bytes: u64 = entries.iter().map(|entry| fs::metadata(entry).unwrap().len()).sum();
        assert!(entries.len() <= 350 && bytes <= 150_000, "{name}: {} entries, {bytes} bytes", entries.len());
    }
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
