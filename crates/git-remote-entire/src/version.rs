//! Which protocol version Git will speak (helper spec §3).

/// A version of Git's wire protocol. 0 and 1 are one to this helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a further version is a breaking change of the helper too")]
pub enum ProtocolVersion {
    /// Version 0: the server speaks first.
    V0,
    /// Version 1: as 0, with the version announced.
    V1,
    /// Version 2: the client asks, command by command.
    V2,
}

/// What an environment says about the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FromEnvironment {
    /// The version of the first `version=` pair, or `None` if there is no such pair.
    pub version: Option<ProtocolVersion>,
    /// Whether that pair held something else than 0, 1 and 2, and so means 2.
    pub unrecognised: bool,
}

impl ProtocolVersion {
    /// Reads the value of `GIT_PROTOCOL`: `key=value` pairs between colons.
    pub fn from_environment(git_protocol: &str) -> FromEnvironment {
        let value = git_protocol.split(':').find_map(|pair| pair.strip_prefix("version="));
        match value {
            None => FromEnvironment { version: None, unrecognised: false },
            Some(value) => {
                let known = Self::from_digit(value);
                FromEnvironment { version: Some(known.unwrap_or(Self::V2)), unrecognised: known.is_none() }
            }
        }
    }

    /// What `git config --get protocol.version` printed; anything but 0, 1 and 2 means 2.
    pub fn from_config(output: &str) -> Self {
        Self::from_digit(output.trim()).unwrap_or(Self::V2)
    }

    fn from_digit(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::V0),
            "1" => Some(Self::V1),
            "2" => Some(Self::V2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V0, V1, V2};

    #[test]
    fn the_first_version_pair_decides() {
        for (row, value, version, unrecognised) in [
            ("G-006", "", None, false),
            ("G-007", "version=0", Some(V0), false),
            ("G-008", "version=1", Some(V1), false),
            ("G-009", "version=2", Some(V2), false),
            ("G-010", "version=3", Some(V2), true),
            ("G-011", "version=abc", Some(V2), true),
            ("G-012", "version=", Some(V2), true),
            ("G-013", "foo=bar", None, false),
            ("G-014", "foo=bar:version=1", Some(V1), false),
            ("G-015", "version=2:foo=bar", Some(V2), false),
            ("first", "version=1:version=0", Some(V1), false),
        ] {
            let read = ProtocolVersion::from_environment(value);
            assert_eq!((read.version, read.unrecognised), (version, unrecognised), "{row}");
        }
    }

    #[test]
    fn a_setting_that_is_no_version_means_2() {
        for (text, version) in [("0\n", V0), ("1\n", V1), ("2\n", V2), ("", V2), ("3\n", V2), ("v1\n", V2)] {
            assert_eq!(ProtocolVersion::from_config(text), version, "{text:?}");
        }
    }
}
