//! The fuzz corpus through the fuzz bodies, on the stable compiler.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
#[path = "../../fuzz/src/txt.rs"]
mod bodies;

#[test]
fn s126_the_corpus_of_txt_records_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/txt_records");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        println!("{}", path.display());
        for len in 0..=data.len() {
            bodies::txt_records(&data[..len]);
        }
        replayed += 1;
    }
    assert!(replayed >= 10, "only {replayed} files");
}
