//! Namespaces, versions and tiers (controlplane §3.5–§3.7).

use std::fmt;

use crate::refusal::Refusal;

/// Refuses what the gateway could not use as part of a key.
///
/// Nothing else is checked here: that a namespace is a GraphQL name shows when the schema is built.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), Refusal> {
    if namespace.is_empty() {
        return Err(Refusal::control("namespace is empty"));
    }
    if namespace.contains(['.', '*', '>', '/', '$']) {
        return Err(Refusal::control(format_args!("namespace {namespace:?} contains reserved character")));
    }
    Ok(())
}

/// Whether a schema can have a field of that name. Internal namespaces are left out of the schema.
pub(crate) fn is_schema_name(namespace: &str) -> bool {
    let mut bytes = namespace.bytes();
    namespace.starts_with('_')
        || (bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// The namespace of an OpenAPI document that was sent without one: its title, made a name.
pub(crate) fn namespace_of_title(title: &str) -> String {
    let mut name: String = title
        .chars()
        .map(|c| if matches!(c, ' ' | '-') { '_' } else { c })
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if name.is_empty() { "openapi".into() } else { name }
}

/// `unstable`, or `vN` with N from 1.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version {
    text: String,
    /// N of `vN`; 0 for `unstable`.
    ordinal: u64,
}

impl Version {
    /// Reads what a binding says; nothing means `v1`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = |rule: &str| Err(Refusal::control(format_args!("version {text:?}: {rule}")));
        let digits = match text {
            "" => return Ok(Self { text: "v1".into(), ordinal: 1 }),
            "unstable" => return Ok(Self { text: "unstable".into(), ordinal: 0 }),
            "stable" => return refused("stable is a computed alias; register vN instead"),
            _ => text.strip_prefix('v').unwrap_or_default(),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return refused("must be \"unstable\" or \"vN\" (N ≥ 1)");
        }
        if digits.starts_with('0') {
            return refused("must be \"unstable\" or \"vN\" (N ≥ 1; no leading zeros)");
        }
        match digits.parse::<i64>() {
            Ok(ordinal) => Ok(Self { text: text.into(), ordinal: ordinal.unsigned_abs() }),
            // Over the range of the gateway's integer.
            Err(_) => refused("must be \"unstable\" or \"vN\" (N ≥ 1)"),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// N of `vN`; none for `unstable`.
    pub(crate) fn number(&self) -> Option<u64> {
        (self.ordinal > 0).then_some(self.ordinal)
    }

    pub(crate) fn is_unstable(&self) -> bool {
        self.ordinal == 0
    }
}

/// Where a binding goes: one kind of schema, one hash, any number of replicas.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct SlotKey {
    pub(crate) namespace: String,
    // The text alone orders a listing: `v10` comes before `v2`.
    pub(crate) version: String,
}

impl SlotKey {
    pub(crate) fn new(namespace: impl Into<String>, version: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), version: version.into() }
    }
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.version)
    }
}

/// Which versions a gateway accepts; all by default.
///
/// A third tier, `stable`, only switches an alias in the GraphQL schema, which this gateway does not have: a set
/// that holds nothing else accepts no registration at all ([`Tiers::none`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tiers {
    unstable: bool,
    numbered: bool,
}

impl Tiers {
    /// `unstable` and every `vN`.
    #[must_use]
    pub const fn all() -> Self {
        Self { unstable: true, numbered: true }
    }

    /// Only `unstable`.
    #[must_use]
    pub const fn unstable() -> Self {
        Self { unstable: true, numbered: false }
    }

    /// Only `vN`.
    #[must_use]
    pub const fn numbered() -> Self {
        Self { unstable: false, numbered: true }
    }

    /// Neither: what a gateway with the tier `stable` alone accepts.
    #[must_use]
    pub const fn none() -> Self {
        Self { unstable: false, numbered: false }
    }

    pub(crate) fn check(self, version: &Version) -> Result<(), Refusal> {
        let (accepted, tier) =
            if version.is_unstable() { (self.unstable, "unstable") } else { (self.numbered, "vN") };
        if accepted {
            return Ok(());
        }
        Err(Refusal::control(format_args!(
            "version {:?}: tier {tier:?} is not in this gateway's --allow-tier policy",
            version.as_str()
        )))
    }
}

impl Default for Tiers {
    fn default() -> Self {
        Self::all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_becomes_a_name() {
        for (title, name) in [
            ("Pet Store", "Pet_Store"),
            ("2nd-api", "_2nd_api"),
            ("日本", "openapi"),
            ("", "openapi"),
            ("a.b/c", "abc"),
        ] {
            assert_eq!(namespace_of_title(title), name, "{title}");
        }
    }

    #[test]
    fn a_number_over_the_range_is_refused_and_the_largest_is_not() {
        assert!(Version::parse("v9223372036854775808").is_err());
        assert_eq!(Version::parse("v9223372036854775807").unwrap().number(), Some(9_223_372_036_854_775_807));
    }

    #[test]
    fn a_namespace_with_a_hyphen_is_no_schema_name_unless_it_is_internal() {
        assert!(is_schema_name("greeter_2") && is_schema_name("_x-y"));
        assert!(!is_schema_name("my-service") && !is_schema_name("2nd") && !is_schema_name("日本"));
    }
}
