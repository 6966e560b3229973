//! The fuzz corpus through the fuzz bodies, on the stable compiler.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
#[path = "../../../fuzz/src/wire.rs"]
mod bodies;

/// Feeds every file of a target's corpus to its body.
pub(crate) fn each_file(target: &str, body: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of the corpus").path();
        println!("{}", path.display());
        body(&fs::read(&path).expect("a file of the corpus"));
        replayed += 1;
    }
    assert!(replayed >= 10, "only {replayed} files for {target}");
}

/// And every prefix of the small ones.
fn replay(target: &str, body: fn(&[u8])) {
    each_file(target, |data| {
        body(data);
        if data.len() <= 256 {
            for len in 0..data.len() {
                body(&data[..len]);
            }
        }
    });
}

#[test]
fn s070_the_corpus_of_zap_request_holds() {
    replay("zap_request", bodies::zap_request);
}

#[test]
fn s070_the_corpus_of_zap_response_holds() {
    replay("zap_response", bodies::zap_response);
}

#[test]
fn s070_the_corpus_of_zap_pairs_holds() {
    replay("zap_pairs", bodies::zap_pairs);
}

#[test]
fn s070_the_corpus_of_zap_encode_holds() {
    replay("zap_encode", bodies::zap_encode);
}
