//! Whole connections against peers that say anything: the bodies of the fuzz targets `zap_conn_server` and
//! `zap_conn_client`, on the stable compiler (testing §4, L3, L4).

use proptest::collection::vec;
use proptest::prelude::*;

use crate::wire::corpus::each_file;

#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
#[path = "../../fuzz/src/conn.rs"]
mod conn;
#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
#[path = "../../fuzz/src/script.rs"]
mod script;

/// One step, as `script::Input` reads it: mostly what keeps a connection alive for a while.
fn step() -> impl Strategy<Value = Vec<u8>> {
    let short = || vec(any::<u8>(), 0..20).prop_map(|bytes| [vec![bytes.len() as u8], bytes].concat());
    prop_oneof![
        2 => short().prop_map(|bytes| [vec![0], bytes].concat()),
        4 => Just(vec![1]),
        6 => Just(vec![2]),
        6 => (any::<u8>(), short()).prop_map(|(method, body)| [vec![3, method], body].concat()),
        8 => (any::<u8>(), short()).prop_map(|(kind, body)| [vec![4, kind], body].concat()),
        1 => any::<[u8; 2]>().prop_map(|[kind, len]| vec![5, kind, len]),
        1 => (any::<[u8; 2]>(), short()).prop_map(|([high, low], body)| [vec![6, high, low], body].concat()),
        1 => any::<u8>().prop_map(|end| vec![7, end]),
    ]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let steps = (any::<[u8; 2]>(), vec(step(), 0..40))
        .prop_map(|(settings, steps)| [settings.to_vec(), steps.concat()].concat());
    // And any bytes at all.
    prop_oneof![9 => steps, 1 => vec(any::<u8>(), 0..500)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn s070_s078_a_server_holds_against_any_caller(input in input()) {
        conn::zap_conn_server(&input);
    }

    #[test]
    fn s070_s042_s043_a_client_holds_against_any_peer(input in input()) {
        conn::zap_conn_client(&input);
    }
}

#[test]
fn s070_the_corpus_of_zap_conn_server_holds() {
    each_file("zap_conn_server", conn::zap_conn_server);
}

#[test]
fn s070_the_corpus_of_zap_conn_client_holds() {
    each_file("zap_conn_client", conn::zap_conn_client);
}
