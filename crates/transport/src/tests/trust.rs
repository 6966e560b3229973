//! Hosts, schemes and public suffixes.

use url::Url;

use crate::trust::{host_in_cluster, is_loopback_http, scheme_allowed};

#[test]
fn s002_hosts_and_clusters() {
    // (row, host, cluster, in the cluster)
    let table = [
        ("T-150", "n1.eu.partial.to", "eu.partial.to", true),
        ("T-151", "eu.partial.to", "eu.partial.to", true),
        ("T-152", "EU.PARTIAL.TO", "eu.partial.to", true),
        ("T-153", "n1.eu.partial.to", "EU.PARTIAL.TO", true),
        ("T-154", "evil.com", "eu.partial.to", false),
        ("T-155", "evileu.partial.to", "eu.partial.to", false),
        ("T-156", "partial.to", "eu.partial.to", false),
        ("T-157", "127.0.0.1", "127.0.0.1:9999", true),
        ("T-158", "other.com", "127.0.0.1:9999", false),
        ("T-159", "node1.eu.partial.to:8443", "eu.partial.to", true),
        ("T-160", "node1.eu.partial.to:8443", "eu.partial.to:443", true),
        ("T-161", "eu.partial.to:8443", "eu.partial.to", true),
        ("T-162", "evil.com:443", "eu.partial.to:443", false),
        ("T-163", "anything.io", "io", false),
        ("T-164", "io", "io", true),
        ("T-165", "victim.co.uk", "co.uk", false),
        ("T-166", "acquired.entire.io", "entire.io", true),
        ("T-167", "entire.io", "entire.io", true),
        ("T-168", "a.b.entire.io", "entire.io", true),
        ("T-169", "evil.127.0.0.1", "127.0.0.1", false),
        ("T-170", "127.0.0.1", "127.0.0.1", true),
        ("T-236", ".cluster.example", "cluster.example", false),
        ("T-236", "a..cluster.example", "cluster.example", false),
        ("T-237", "::1", "[::1]", true),
        ("T-237", "::1", "[::1]:8080", true),
        ("T-237", "::1", "::1", true),
        ("T-237", "[::1]:443", "0:0:0:0:0:0:0:1", true),
        ("T-238", "evil.github.io", "github.io", false),
        ("SV-C01", "evil.io", "io", false),
        ("SV-C02", "io", "io", true),
        ("SV-C03", "evil.co.uk", "co.uk", false),
        ("SV-C04", "n1.acme.co.uk", "acme.co.uk", true),
        ("SV-C05", "n2.us.acme.co.uk", "eu.acme.co.uk", false),
        ("SV-C06", "evil.github.io", "github.io", false),
        ("SV-C07", "n1.acme.github.io", "acme.github.io", true),
        ("SV-C08", "foo.compute.amazonaws.com", "compute.amazonaws.com", false),
        ("SV-C09", "x.foo.compute.amazonaws.com", "compute.amazonaws.com", false),
        ("SV-C10", "evil.s3.amazonaws.com", "amazonaws.com", false),
        ("SV-C11", "n1.mesh.amazonaws.com", "mesh.amazonaws.com", true),
        ("SV-C12", "evil.kawasaki.jp", "kawasaki.jp", false),
        ("SV-C13", "x.evil.kawasaki.jp", "kawasaki.jp", false),
        ("SV-C14", "n1.city.kawasaki.jp", "city.kawasaki.jp", true),
        ("SV-C15", "n1.foo.ck", "foo.ck", false),
        ("SV-C16", "n1.acme.foo.ck", "acme.foo.ck", true),
        ("SV-C17", "n1.svc.cluster.local", "svc.cluster.local", true),
        ("SV-C18", "evil.local", "local", false),
        ("SV-C19", "x.home.arpa", "home.arpa", false),
        ("SV-C20", "n1.mesh.home.arpa", "mesh.home.arpa", true),
        ("SV-C21", "a.herokuapp.com", "herokuapp.com", false),
        ("SV-C22", "n1.cluster.internal", "cluster.internal", true),
        // Ours: nothing is in no cluster, and a port is digits.
        ("", "cluster.example", "", false),
        ("", "", "", false),
        ("", "cluster.example:x", "cluster.example", false),
        ("", "n1.xn--bcher-kva.example", "b\u{fc}cher.example", true),
        ("", "b\u{fc}cher.example", "b\u{fc}cher.example", false),
        ("", "::ffff:127.0.0.1", "127.0.0.1", false),
    ];
    for (row, host, cluster, expected) in table {
        assert_eq!(host_in_cluster(host, cluster), expected, "{row}: {host} in {cluster}");
    }
}

#[test]
fn plain_http_to_this_machine() {
    let table = [
        ("T-119", "http://cluster.example", false),
        ("T-120", "http://localhost.example", false),
        ("T-121", "http://192.0.2.1", false),
        ("T-122", "http://localhost", true),
        ("T-123", "http://LOCALHOST:8080", true),
        ("T-124", "http://127.0.0.1", true),
        ("T-125", "http://[::1]", true),
        ("T-126", "https://127.0.0.1", false),
        ("", "http://127.255.255.254", true),
        ("", "http://x.localhost", false),
        ("", "http://[::ffff:127.0.0.1]", false),
    ];
    for (row, url, expected) in table {
        assert_eq!(is_loopback_http(&Url::parse(url).unwrap()), expected, "{row}: {url}");
    }
}

#[test]
fn the_scheme_rule_is_this_table() {
    // (url, loopback allowed, https seen, may be used)
    let table = [
        ("https://h.example", false, false, true),
        ("https://h.example", true, true, true),
        ("http://h.example", true, false, false),
        ("http://127.0.0.1", true, false, true),
        ("http://127.0.0.1", false, false, false),
        ("http://127.0.0.1", true, true, false),
        ("http://localhost:1", true, false, true),
        ("ftp://127.0.0.1", true, false, false),
        ("file:///etc/passwd", true, false, false),
        ("data:text/plain,x", true, false, false),
    ];
    for (url, loopback, seen, expected) in table {
        let url = Url::parse(url).unwrap();
        assert_eq!(scheme_allowed(&url, loopback, seen), expected, "{url} {loopback} {seen}");
    }
}

#[test]
fn s001_no_other_code_compares_hosts() {
    fn visit(directory: &std::path::Path, look: &mut dyn FnMut(&str, &str)) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                visit(&path, look);
            } else if name.ends_with(".rs") && name != "trust.rs" {
                look(&name, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut seen = 0;
    for source in ["src", "../git-remote-entire/src"] {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        visit(&source, &mut |name, text| {
            seen += 1;
            for line in text.split("#[cfg(test)]").next().unwrap_or_default().lines() {
                let of_a_host =
                    ["host", "cluster", "domain", "authority"].iter().any(|word| line.contains(word));
                let by_its_end = ["ends_with(", "strip_suffix(", "rsplit_once('.'", "psl::"];
                assert!(
                    !of_a_host || !by_its_end.iter().any(|call| line.contains(call)),
                    "{name} judges a host by its end, which is for trust.rs: {line}"
                );
            }
        });
    }
    assert!(seen > 40, "{seen} files");
}
