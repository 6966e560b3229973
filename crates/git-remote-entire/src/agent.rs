//! Whose request it is: the helper's identity, added to the `agent=` that Git sends (helper spec §11).

use crate::pktline::{self, Kind, PacketError};

/// How the identity is added, and which.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// `git-remote-entire/<version>`.
    pub(crate) text: String,
    /// Between Git's agent and ours in protocol v2. A blank is what servers of this kind expect, although the
    /// protocol allows none there.
    pub(crate) v2_separator: char,
}

const KEY: &[u8] = b"agent=";

impl Identity {
    /// A request of protocol v2 with the first packet `agent=…` amended.
    pub(crate) fn amend_v2(&self, message: &[u8]) -> Result<Vec<u8>, PacketError> {
        let mut done = false;
        rewrite(message, |payload| {
            if done || !payload.starts_with(KEY) {
                return None;
            }
            done = true;
            let (line, end) = without_lf(payload);
            let value = self.value(line.get(KEY.len()..)?, self.v2_separator)?;
            Some([KEY, &value, end].concat())
        })
    }

    /// A request to upload-pack of protocol v0: the capabilities of the first `want` are amended.
    pub(crate) fn amend_wants(&self, message: &[u8]) -> Result<Vec<u8>, PacketError> {
        let mut first = true;
        rewrite(message, |payload| {
            if !std::mem::take(&mut first) {
                return None;
            }
            let rest = payload.strip_prefix(b"want ")?;
            let blank = rest.iter().position(|byte| *byte == b' ')?;
            let (head, capabilities) = payload.split_at(b"want ".len() + blank + 1);
            Some([head, &self.capabilities(capabilities)?].concat())
        })
    }

    /// A line of a request to receive-pack, if it has capabilities and they change.
    pub(crate) fn amend_command(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let nul = payload.iter().position(|byte| *byte == 0)?;
        let (head, capabilities) = payload.split_at(nul + 1);
        Some([head, &self.capabilities(capabilities)?].concat())
    }

    fn capabilities(&self, text: &[u8]) -> Option<Vec<u8>> {
        let (line, end) = without_lf(text);
        let mut amended = None;
        let words: Vec<Vec<u8>> = line
            .split(|byte| *byte == b' ')
            .map(|word| match word.strip_prefix(KEY) {
                Some(value) if amended.is_none() => {
                    let value = self.value(value, '+');
                    amended = Some(value.is_some());
                    value.map_or_else(|| word.to_vec(), |value| [KEY, &value].concat())
                }
                _ => word.to_vec(),
            })
            .collect();
        (amended == Some(true)).then(|| [words.join(&b' ').as_slice(), end].concat())
    }

    fn value(&self, agent: &[u8], separator: char) -> Option<Vec<u8>> {
        let identity = self.text.as_bytes();
        if agent.is_empty() {
            return Some(identity.to_vec());
        }
        if agent.windows(identity.len()).any(|part| part == identity) {
            return None;
        }
        Some([agent, separator.to_string().as_bytes(), identity].concat())
    }
}

fn without_lf(text: &[u8]) -> (&[u8], &[u8]) {
    match text.strip_suffix(b"\n") {
        Some(line) => (line, b"\n"),
        None => (text, b""),
    }
}

/// The packets of `message`, those that `change` gives another payload for rewritten, up to the first flush;
/// what stands behind that is copied.
fn rewrite(message: &[u8], mut change: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Result<Vec<u8>, PacketError> {
    let mut rest = message;
    let mut out = Vec::with_capacity(message.len() + 64);
    loop {
        let before = rest;
        let Some((kind, payload)) = pktline::take(&mut rest)? else { return Ok(out) };
        match change(payload).filter(|_| kind == Kind::Data) {
            Some(payload) => pktline::put(&mut out, &payload)?,
            None => out.extend_from_slice(before.get(..before.len() - rest.len()).unwrap_or_default()),
        }
        if kind == Kind::Flush {
            out.extend_from_slice(rest);
            return Ok(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A40: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn identity() -> Identity {
        Identity { text: "git-remote-entire/1.2.3".to_owned(), v2_separator: ' ' }
    }

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0000" | "0001" => out.extend_from_slice(line.as_bytes()),
                line => pktline::put(&mut out, line.as_bytes()).unwrap(),
            }
        }
        out
    }

    #[test]
    fn g107_the_agent_of_v2_gets_the_identity_behind_a_blank() {
        let got =
            identity().amend_v2(&packets(&["command=ls-refs\n", "agent=git/2.54.0\n", "0001", "x", "0000"]));
        let expected = packets(&[
            "command=ls-refs\n",
            "agent=git/2.54.0 git-remote-entire/1.2.3\n",
            "0001",
            "x",
            "0000",
        ]);
        assert_eq!(got.unwrap(), expected);
        let strict = Identity { v2_separator: '+', ..identity() };
        let got = strict.amend_v2(&packets(&["agent=git/2.54.0", "0000"])).unwrap();
        assert_eq!(got, packets(&["agent=git/2.54.0+git-remote-entire/1.2.3", "0000"]), "no LF is added");
    }

    #[test]
    fn g108_a_request_without_agent_stays() {
        let message = packets(&["command=ls-refs\n", "0001", "peel\n", "0000"]);
        assert_eq!(identity().amend_v2(&message).unwrap(), message);
        assert!(identity().amend_v2(b"").unwrap().is_empty());
    }

    #[test]
    fn g109_the_first_want_gets_it_behind_a_plus() {
        let want = |agent: &str| format!("want {A40} multi_ack {agent} object-format=sha1\n");
        let second = format!("want {A40} agent=x\n");
        let got = identity().amend_wants(&packets(&[&want("agent=git/2.54.0"), &second, "0000"])).unwrap();
        let expected = want("agent=git/2.54.0+git-remote-entire/1.2.3");
        assert_eq!(got, packets(&[&expected, &second, "0000"]), "the first line only, order kept");
        for line in [format!("want {A40}\n"), format!("have {A40} agent=git\n"), "want agent=git".to_owned()]
        {
            let message = packets(&[&line, "0000"]);
            assert_eq!(identity().amend_wants(&message).unwrap(), message, "{line}");
        }
    }

    #[test]
    fn g110_the_first_command_gets_it_behind_a_plus() {
        let line = |agent: &str| format!("{A40} {A40} refs/heads/main\0 report-status {agent}");
        assert_eq!(
            identity().amend_command(line("agent=git/2.54.0").as_bytes()).unwrap(),
            line("agent=git/2.54.0+git-remote-entire/1.2.3").as_bytes()
        );
        assert_eq!(identity().amend_command(b"a b refs/heads/agent=x"), None);
        assert_eq!(identity().amend_command(b"a b c\0 report-status"), None);
    }

    #[test]
    fn an_empty_agent_becomes_the_identity_and_one_that_holds_it_stays() {
        let got = identity().amend_v2(&packets(&["agent=\n", "0000"])).unwrap();
        assert_eq!(got, packets(&["agent=git-remote-entire/1.2.3\n", "0000"]));
        let message = packets(&["agent=git/2 git-remote-entire/1.2.3\n", "agent=other\n", "0000"]);
        assert_eq!(identity().amend_v2(&message).unwrap(), message, "and no later one is taken instead");
    }

    #[test]
    fn a_malformed_request_and_one_that_grows_too_long_are_errors() {
        assert!(identity().amend_v2(b"zzzz").is_err());
        assert!(identity().amend_v2(b"00").is_err());
        let long = format!("agent={}", "x".repeat(65_505));
        let error = identity().amend_v2(&packets(&[&long, "0000"])).unwrap_err();
        assert!(matches!(error, PacketError::TooLong { .. }));
    }
}
