//! Base URLs of replicas, and the header that lists them.

use peerage_tests::alloc::measure;
use proptest::prelude::*;
use url::Url;

use crate::replicas::{MAX_REPLICAS, Replica, parse};
use crate::trust::{host_in_cluster, scheme_allowed};
use crate::{Config, ConfigError, NodeConfig, Proxy};

/// What becomes of a replica URL in a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    In,
    /// A usable URL, outside.
    Out,
    /// No usable URL.
    Drop,
}

#[test]
fn s003_s004_s005_replica_urls_and_clusters() {
    use Verdict::{Drop, In, Out};
    #[rustfmt::skip]
    let table = [
        ("SV-U01", "https://cluster.example", "cluster.example", In),
        ("SV-U02", "https://n1.cluster.example", "cluster.example", In),
        ("SV-U03", "https://a.b.c.cluster.example", "cluster.example", In),
        ("SV-U04", "https://n1.cluster.example:8443", "cluster.example:9000", In),
        ("SV-U05", "HTTPS://N1.CLUSTER.EXAMPLE", "Cluster.Example", In),
        ("SV-U06", "https://n1.cluster.example/", "cluster.example", In),
        ("SV-U07", "https://n1.cluster.example/et/x", "cluster.example", In),
        ("SV-U08", "https://xn--caf-dma.cluster.example", "cluster.example", In),
        ("SV-U09", "https://n_1.cluster.example", "cluster.example", In),
        ("SV-U10", "https://1.2.3.4.cluster.example", "cluster.example", In),
        ("SV-U11", "https://foreign.example", "cluster.example", Out),
        ("SV-U12", "https://example", "cluster.example", Out),
        ("SV-U13", "https://evilcluster.example", "cluster.example", Out),
        ("SV-U14", "https://evil-cluster.example", "cluster.example", Out),
        ("SV-U15", "https://cluster.example.evil.test", "cluster.example", Out),
        ("SV-U16", "https://evil.test/.cluster.example", "cluster.example", Out),
        ("SV-U17", "https://cluster.example.", "cluster.example", Drop),
        ("SV-U18", "https://n1.cluster.example.", "cluster.example", Drop),
        ("SV-U19", "https://n1.cluster.example..", "cluster.example", Drop),
        ("SV-U20", "https://.cluster.example", "cluster.example", Drop),
        ("SV-U21", "https://n1..cluster.example", "cluster.example", Drop),
        ("SV-U22", "https://-n1.cluster.example", "cluster.example", Drop),
        ("SV-U23", "https://*.cluster.example", "cluster.example", Drop),
        ("SV-U24", "https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.cluster.example", "cluster.example", Drop),
        ("SV-U25", "https://user:pw@n1.cluster.example", "cluster.example", Drop),
        ("SV-U26", "https://n1.cluster.example@evil.test", "cluster.example", Drop),
        ("SV-U27", "https://evil.test\\@n1.cluster.example", "cluster.example", Drop),
        ("SV-U28", "https://evil.test%2Fn1.cluster.example", "cluster.example", Drop),
        ("SV-U29", "https://evil.test%23.cluster.example", "cluster.example", Drop),
        ("SV-U30", "https://n1%2ecluster.example", "cluster.example", Drop),
        ("SV-U31", "https://evil.test#.cluster.example", "cluster.example", Drop),
        ("SV-U32", "https://evil.test?.cluster.example", "cluster.example", Drop),
        ("SV-U33", "https://n1.cluster.example;evil.test", "cluster.example", Drop),
        ("SV-U34", "https://n1.cluster.example&evil.test", "cluster.example", Drop),
        ("SV-U35", "https:/n1.cluster.example", "cluster.example", Drop),
        ("SV-U36", "https:n1.cluster.example", "cluster.example", Drop),
        ("SV-U37", "https:///n1.cluster.example", "cluster.example", Drop),
        ("SV-U38", "https:\\\\n1.cluster.example", "cluster.example", Drop),
        ("SV-U39", "//n1.cluster.example", "cluster.example", Drop),
        ("SV-U40", "n1.cluster.example", "cluster.example", Drop),
        ("SV-U41", "ftp://n1.cluster.example", "cluster.example", Drop),
        ("SV-U42", "ws://n1.cluster.example", "cluster.example", Drop),
        ("SV-U43", "entire://n1.cluster.example", "cluster.example", Drop),
        ("SV-U44", "file:///etc/passwd", "cluster.example", Drop),
        ("SV-U45", "javascript:alert(1)", "cluster.example", Drop),
        ("SV-U46", "data:text/plain,x", "cluster.example", Drop),
        ("SV-U47", "https://n1.cluster.example:0", "cluster.example", Drop),
        ("SV-U48", "https://n1.cluster.example:65536", "cluster.example", Drop),
        ("SV-U49", "https://n1.cluster.example:99999999999", "cluster.example", Drop),
        ("SV-U50", "https://n1.cluster.example:-1", "cluster.example", Drop),
        ("SV-U51", "https://n1.cluster.example:+443", "cluster.example", Drop),
        ("SV-U52", "https://n1.cluster.example:443x", "cluster.example", Drop),
        ("SV-U53", "https://n1.cluster.example:", "cluster.example", Drop),
        ("SV-U54", "https://n1.cluster.example:0443", "cluster.example", Drop),
        ("SV-U55", "https://n1.cluster.example:80:443", "cluster.example", Drop),
        ("SV-U56", "https://n1.cluster\u{3002}example", "cluster.example", Drop),
        ("SV-U57", "https://n1.cluster\u{ff0e}example", "cluster.example", Drop),
        ("SV-U58", "https://n1.cluster\u{2024}example", "cluster.example", Drop),
        ("SV-U59", "https://cluster.ex\u{430}mple", "cluster.example", Drop),
        ("SV-U60", "https://n1.cluster.exam\u{200b}ple", "cluster.example", Drop),
        ("SV-U61", "https://evil.test\u{ff0f}.cluster.example", "cluster.example", Drop),
        ("SV-U62", "https://n1.xn--cluster-.example", "cluster.example", Drop),
        ("SV-U63", "https://xn--a.cluster.example", "cluster.example", Drop),
        ("SV-U64", "https://n1.clus\tter.example", "cluster.example", Drop),
        ("SV-U65", "https://n1.cluster.example\n", "cluster.example", Drop),
        ("SV-U66", " https://n1.cluster.example", "cluster.example", Drop),
        ("SV-U67", "https://n1.cluster.example\t.evil.test", "cluster.example", Drop),
        ("SV-U68", "https://n1.cluster.example\0.evil.test", "cluster.example", Drop),
        ("SV-U69", "https://n1.cluster.example%00.evil.test", "cluster.example", Drop),
        ("SV-U70", "https://n1.cluster.example\r\nHost: evil", "cluster.example", Drop),
        ("SV-U71", "https://127.0.0.1:8443", "127.0.0.1", In),
        ("SV-U72", "https://evil.127.0.0.1", "127.0.0.1", Drop),
        ("SV-U73", "https://127.0.0.1.evil.test", "127.0.0.1", Out),
        ("SV-U74", "https://127.1", "127.0.0.1", Drop),
        ("SV-U75", "https://2130706433", "127.0.0.1", Drop),
        ("SV-U76", "https://0x7f.0.0.1", "127.0.0.1", Drop),
        ("SV-U77", "https://0177.0.0.1", "127.0.0.1", Drop),
        ("SV-U78", "https://127.0.0.01", "127.0.0.1", Drop),
        ("SV-U79", "https://cluster.example.0x7f", "cluster.example", Drop),
        ("SV-U80", "https://[::ffff:127.0.0.1]", "127.0.0.1", Out),
        ("SV-U81", "https://[0:0:0:0:0:0:0:1]:8443", "[::1]", In),
        ("SV-U82", "https://[::1]", "127.0.0.1", Out),
        ("SV-U83", "https://[fe80::1%25eth0]", "[fe80::1]", Drop),
        ("SV-U84", "https://[::1%25.cluster.example]", "cluster.example", Drop),
        ("SV-U85", "https://[::1].cluster.example", "cluster.example", Drop),
        ("SV-U86", "https://[::1", "[::1]", Drop),
        ("SV-U87", "https://::1", "[::1]", Drop),
        ("SV-U88", "https://localhost", "localhost", In),
        ("SV-U89", "https://evil.localhost", "localhost", Out),
        ("SV-U90", "https://localhost", "127.0.0.1", Out),
        ("SV-U91", "https://169.254.169.254", "cluster.example", Out),
    ];
    for (row, raw, cluster, expected) in table {
        let verdict = match Replica::parse(raw) {
            None => Drop,
            Some(replica) if host_in_cluster(replica.url().host_str().unwrap(), cluster) => In,
            Some(_) => Out,
        };
        assert_eq!(verdict, expected, "{row}: {raw:?} in {cluster}");
    }
}

#[test]
fn sv_u06_u07_a_replica_has_an_origin_and_may_have_a_prefix() {
    let replica = Replica::parse("https://n1.cluster.example/et/x").unwrap();
    assert_eq!(replica.origin(), "https://n1.cluster.example");
    assert_eq!(replica.as_str(), "https://n1.cluster.example/et/x", "transport T-233 keeps the prefix");
    assert_eq!(Replica::parse("https://n1.cluster.example/").unwrap().as_str(), "https://n1.cluster.example");
}

#[test]
fn a_host_in_the_cluster_may_still_have_the_wrong_scheme() {
    // (row, URL)
    let table = [("SV-U92", "http://n1.cluster.example"), ("SV-U93", "http://localhost.cluster.example")];
    for (row, raw) in table {
        let replica = Replica::parse(raw).unwrap();
        assert!(host_in_cluster(replica.url().host_str().unwrap(), "cluster.example"), "{row}");
        assert!(!scheme_allowed(replica.url(), true, false), "{row}");
    }
}

#[test]
fn a_cluster_host_that_is_none_is_a_configuration_error() {
    // (row, cluster host)
    let table = [
        ("SV-U94", "cluster.example."),
        ("SV-U95", "*.cluster.example"),
        ("SV-U95", "http://cluster.example"),
        ("SV-U95", ""),
        ("", "cluster.example:"),
        ("", "a b"),
    ];
    for (row, cluster) in table {
        let nodes = NodeConfig { cluster_host: Some(cluster.to_owned()), ..NodeConfig::default() };
        let error = Proxy::new(Config::new(nodes, "/et/r")).unwrap_err();
        assert!(matches!(error, ConfigError::ClusterHost { .. }), "{row}: {cluster:?}: {error}");
    }
}

#[test]
fn the_header_is_a_list_of_base_urls() {
    let big = format!("https://{}", "x".repeat(8 * 1024 * 1024));
    // (row, header lines, replicas)
    type Row<'a> = (&'static str, Vec<&'a [u8]>, &'static [&'static str]);
    let table: Vec<Row<'_>> = vec![
        ("T-141", vec![b""], &[]),
        ("T-142", vec![b"   "], &[]),
        ("T-143", vec![b",,,"], &[]),
        ("T-144", vec![b"https://n1.c.to"], &["https://n1.c.to"]),
        (
            "T-145",
            vec![b"https://n1.c.to,https://n2.c.to,https://n3.c.to"],
            &["https://n1.c.to", "https://n2.c.to", "https://n3.c.to"],
        ),
        ("T-146", vec![b" https://n1.c.to ,\thttps://n2.c.to\n"], &["https://n1.c.to", "https://n2.c.to"]),
        ("T-147", vec![b"https://n1.c.to,,https://n2.c.to,"], &["https://n1.c.to", "https://n2.c.to"]),
        (
            "T-148",
            vec![b"https://n1.c.to:8443,https://n2.c.to"],
            &["https://n1.c.to:8443", "https://n2.c.to"],
        ),
        (
            "T-149",
            vec![b"http://127.0.0.1:10001,http://127.0.0.1:10002"],
            &["http://127.0.0.1:10001", "http://127.0.0.1:10002"],
        ),
        (
            "T-061",
            vec![b"https://n1.eu.cluster.example,https://n2.eu.cluster.example:8443"],
            &["https://n1.eu.cluster.example", "https://n2.eu.cluster.example:8443"],
        ),
        ("T-061", vec![b""], &[]),
        ("SV-X01", vec![b"https://n1.cluster.example,evil.test"], &["https://n1.cluster.example"]),
        (
            "SV-X02",
            vec![b"https://n1.cluster.example , ,,\thttps://n2.cluster.example"],
            &["https://n1.cluster.example", "https://n2.cluster.example"],
        ),
        ("SV-X03", vec![b" , ,"], &[]),
        ("SV-X03", vec![], &[]),
        (
            "SV-X05",
            vec![b"https://n1.cluster.example,HTTPS://N1.Cluster.Example:443,https://n1.cluster.example/"],
            &["https://n1.cluster.example"],
        ),
        ("SV-X07", vec![big.as_bytes()], &[]),
        (
            "SV-X08",
            vec![b"https://n1.cluster.example", b"https://n2.cluster.example"],
            &["https://n1.cluster.example", "https://n2.cluster.example"],
        ),
        (
            "SV-X09",
            vec![b"https://n\xff.cluster.example,https://n2.cluster.example"],
            &["https://n2.cluster.example"],
        ),
        ("", vec![b"https://n1.c.to?x=1,https://n2.c.to#f,https://n3.c.to"], &["https://n3.c.to"]),
    ];
    for (row, lines, expected) in table {
        let found: Vec<String> = parse(lines).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn gb11_t235_sv_x06_ten_thousand_items_are_cut_and_cost_nothing() {
    let header: Vec<String> = (0..10_000).map(|n| format!("https://n{n}.c.example")).collect();
    let header = header.join(",");
    let (mut long, mut short) = (Vec::new(), Vec::new());
    let of_long = measure(|| long = parse([header.as_bytes()])).bytes_total;
    let of_short = measure(|| short = parse([&header.as_bytes()[..2048]])).bytes_total;
    assert_eq!(long.len(), MAX_REPLICAS);
    assert_eq!((long[31].as_str(), &long), ("https://n31.c.example", &short));
    // What lies behind the limits is not even copied: 8 KiB at most are.
    assert!(of_long <= of_short + 16 * 1024, "{of_long} bytes against {of_short}");
}

#[test]
fn an_item_that_the_limit_cuts_in_two_is_no_item() {
    let first = format!("https://{}.c.example", "a".repeat(40));
    let mut header = first.clone();
    while header.len() + 30 < 8 * 1024 {
        // Blank items fill the header.
        header.push_str(" ,");
    }
    let fits = 8 * 1024 - header.len();
    let exact = format!("{header}https://{}", "b".repeat(fits - 8));
    assert_eq!(exact.len(), 8 * 1024);
    assert_eq!(parse([exact.as_bytes()]).len(), 2, "an item that ends at the limit counts");
    assert_eq!(parse([format!("{exact}b").as_bytes()]).len(), 1, "one byte more and it is cut");
    assert_eq!(parse([format!("{exact},x").as_bytes()]).len(), 2, "the comma shows that it was whole");
}

proptest! {
    #[test]
    fn a_replica_reads_back_as_itself(raw in "https?://[a-z0-9.:\\[\\]@%/-]{0,40}") {
        if let Some(replica) = Replica::parse(&raw) {
            prop_assert_eq!(Replica::parse(replica.as_str()), Some(replica.clone()));
            prop_assert!(replica.url().username().is_empty() && replica.url().query().is_none());
        }
    }

    #[test]
    fn any_bytes_are_some_list(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
        prop_assert!(parse(lines.iter().map(Vec::as_slice)).len() <= MAX_REPLICAS);
    }

    #[test]
    fn being_in_a_cluster_needs_its_name_at_the_end(host in "[a-z0-9.-]{1,30}", cluster in "[a-z0-9.-]{1,20}") {
        if host_in_cluster(&host, &cluster) {
            let ends_there = host.ends_with(&format!(".{cluster}"));
            let url = Url::parse(&format!("https://{host}"));
            prop_assert!((host == cluster || ends_there) && url.is_ok());
        }
    }
}
