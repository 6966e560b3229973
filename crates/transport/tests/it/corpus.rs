//! The fuzz corpus through the fuzz bodies, on the stable compiler.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
#[path = "../../fuzz/src/bodies.rs"]
mod bodies;

#[test]
fn the_fuzz_corpus_holds() {
    type Body = fn(&[u8]);
    let table: [(&str, Body); 4] = [
        ("replica_header", bodies::replica_header),
        ("trust", bodies::trust),
        ("redirect_chain", bodies::redirect_chain),
        ("node_cache", bodies::node_cache),
    ];
    for (target, body) in table {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut replayed = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            println!("{}", path.display());
            // The whole, and prefixes of it.
            for len in (0..=data.len()).rev().step_by(11) {
                body(&data[..len]);
            }
            replayed += 1;
        }
        assert!(replayed >= 10, "{target}: only {replayed} files");
    }
}
