//! What the helper reads in messages of protocol v2 without being part of the dialogue: whether it is one,
//! which command it is, and one feature that it takes out (helper spec §6, §10).

use crate::pktline::{self, Kind, PacketError};

/// The pkt-line that some servers send before a v2 advertisement too, and its flush.
const PREAMBLE: &[u8] = b"001e# service=git-upload-pack\n0000";
const PREAMBLE_WITHOUT_LF: &[u8] = b"001d# service=git-upload-pack0000";

/// Whether this is an advertisement of protocol v2: its first packet says so.
pub fn is_v2(advertisement: &[u8]) -> bool {
    let mut rest = without_preamble(advertisement);
    matches!(pktline::take(&mut rest), Ok(Some((Kind::Data, b"version 2\n" | b"version 2"))))
}

/// The advertisement without the service announcement of v0 that some servers put before it.
pub fn without_preamble(advertisement: &[u8]) -> &[u8] {
    [PREAMBLE, PREAMBLE_WITHOUT_LF]
        .iter()
        .find_map(|preamble| advertisement.strip_prefix(*preamble))
        .unwrap_or(advertisement)
}

/// The command of a request: the first `command=` before a flush. `None` too where the packets before it are
/// broken.
pub fn command(request: &[u8]) -> Option<&[u8]> {
    let mut rest = request;
    loop {
        let (kind, payload) = pktline::take(&mut rest).ok()??;
        match kind {
            Kind::Flush => return None,
            Kind::Data => {
                if let Some(value) = payload.strip_prefix(b"command=") {
                    return Some(value.strip_suffix(b"\n").unwrap_or(value));
                }
            }
            Kind::Delimiter | Kind::ResponseEnd => {}
        }
    }
}

/// Takes one feature out of the `fetch=` line of an advertisement (helper spec §6.1).
///
/// # Errors
///
/// Packets that are none, and a second `fetch=` line (as [`PacketError::BadLength`] of its digits).
pub fn without_fetch_feature(advertisement: &[u8], feature: &str) -> Result<Vec<u8>, PacketError> {
    let mut out = Vec::with_capacity(advertisement.len());
    let mut rest = advertisement;
    let mut seen = false;
    loop {
        let before = rest;
        let Some((kind, payload)) = pktline::take(&mut rest)? else { return Ok(out) };
        let raw = before.get(..before.len() - rest.len()).unwrap_or_default();
        let value = payload.strip_prefix(b"fetch=").filter(|_| kind == Kind::Data);
        let Some(value) = value else {
            out.extend_from_slice(raw);
            continue;
        };
        if std::mem::replace(&mut seen, true) {
            let digits = *raw.first_chunk().unwrap_or(&[0; 4]);
            return Err(PacketError::BadLength { digits });
        }
        let (value, end) = match value.strip_suffix(b"\n") {
            Some(value) => (value, b"\n".as_slice()),
            None => (value, b"".as_slice()),
        };
        let words: Vec<&[u8]> = value.split(|byte| *byte == b' ').collect();
        let kept: Vec<&[u8]> = words.iter().copied().filter(|word| *word != feature.as_bytes()).collect();
        if kept.len() == words.len() {
            out.extend_from_slice(raw);
        } else if kept.is_empty() {
            pktline::put(&mut out, &[b"fetch", end].concat())?;
        } else {
            pktline::put(&mut out, &[b"fetch=", kept.join(&b' ').as_slice(), end].concat())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0000" | "0001" | "0002" => out.extend_from_slice(line.as_bytes()),
                line => pktline::put(&mut out, line.as_bytes()).unwrap(),
            }
        }
        out
    }

    #[test]
    fn v2_is_what_says_so_in_its_first_packet() {
        for (row, text, expected) in [
            ("G-073", packets(&["version 2\n"]), true),
            ("G-073", packets(&["version 2"]), true),
            ("G-074", packets(&["version 1\n"]), false),
            ("G-075", b"00".to_vec(), false),
            ("G-076", b"ffff".to_vec(), false),
            ("G-077", b"zzzz".to_vec(), false),
            ("empty", b"".to_vec(), false),
            ("flush", b"0000".to_vec(), false),
            ("cut", b"000eversion 2".to_vec(), false),
            ("G-162", packets(&["# service=git-upload-pack\n", "0000", "version 2\n"]), true),
            ("other service", packets(&["# service=git-receive-pack\n", "0000", "version 2\n"]), false),
        ] {
            assert_eq!(is_v2(&text), expected, "{row}");
        }
        let preceded = packets(&["# service=git-upload-pack", "0000", "version 2\n"]);
        assert_eq!(without_preamble(&preceded), packets(&["version 2\n"]));
    }

    #[test]
    fn the_command_is_the_first_before_a_flush() {
        for (row, text, expected) in [
            (
                "G-078",
                packets(&["agent=test", "command=bundle-uri", "0001", "0000"]),
                Some(b"bundle-uri".as_slice()),
            ),
            ("G-078", packets(&["0001", "0002", "command=ls-refs\n", "0000"]), Some(b"ls-refs")),
            ("G-079", packets(&["agent=test", "0000"]), None),
            ("G-079", packets(&["0000", "command=ls-refs"]), None),
            ("G-080", b"0064command=ls-refs".to_vec(), None),
            ("G-081", b"zzzzcommand=ls-refs".to_vec(), None),
        ] {
            assert_eq!(command(&text), expected, "{row}");
        }
    }

    #[test]
    fn one_feature_is_taken_out_and_nothing_else_changes() {
        for (row, line, expected) in [
            (
                "G-098",
                "fetch=shallow sideband-all packfile-uris wait-for-done ref-in-want filter\n",
                "fetch=shallow sideband-all packfile-uris wait-for-done filter\n",
            ),
            ("G-099", "fetch=shallow filter\n", "fetch=shallow filter\n"),
            ("G-100", "ls-refs=unborn\n", "ls-refs=unborn\n"),
            ("G-101", "fetch=ref-in-want\n", "fetch\n"),
            ("G-102", "fetch=ref-in-want shallow\n", "fetch=shallow\n"),
            ("G-103", "fetch=ref-in-want-v3 shallow\n", "fetch=ref-in-want-v3 shallow\n"),
            ("G-104", "fetch=ref-in-want shallow", "fetch=shallow"),
            ("twice", "fetch=ref-in-want a ref-in-want", "fetch=a"),
        ] {
            let around =
                |line: &str| packets(&["version 2\n", "agent=x\n", line, "object-format=sha1\n", "0000"]);
            let got = without_fetch_feature(&around(line), "ref-in-want").unwrap();
            assert_eq!(got, around(expected), "{row}");
        }
    }

    #[test]
    fn g105_a_malformed_packet_is_an_error() {
        let broken = [packets(&["version 2\n"]).as_slice(), b"zzzz"].concat();
        assert!(without_fetch_feature(&broken, "ref-in-want").is_err());
    }

    #[test]
    fn g106_two_fetch_lines_are_an_error() {
        let twice = packets(&["fetch=a\n", "fetch=b\n", "0000"]);
        assert!(without_fetch_feature(&twice, "ref-in-want").is_err());
    }
}
