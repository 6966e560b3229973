//! What a gateway, or the way to it, answers instead of "yes" (controlplane §4.8).

use std::fmt;
use std::sync::Arc;

use tonic::Code;

use crate::text::escaped;

/// A refusal is searched this far: a longer one quotes something, and costs time (S-152).
const SEARCHED: usize = 4096;

/// Why a call to the gateway did not do what it was for. Cheap to clone.
///
/// `Display` is one sentence with the gateway's own words, escaped; [`hint`](Self::hint) says what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    kind: FailureKind,
    /// The gateway's words or those of the system, escaped and cut.
    words: String,
    /// `<namespace>/<version>` that the words are about, if one of ours.
    slot: Option<String>,
}

/// What went wrong, by what the caller does about it.
///
/// The gateway sends one status for all refusals, so most kinds are told apart by parts of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// Another schema holds this `vN`.
    SchemaConflict,
    /// The slot has other concurrency caps.
    CapsConflict,
    /// The slot holds another kind of schema.
    KindConflict,
    /// Another slot claims one of the schema's channel patterns.
    PatternConflict,
    /// The gateway takes no versions of this kind.
    TierRejected,
    /// The gateway does not take this version.
    BadVersion,
    /// The gateway does not take this namespace.
    BadNamespace,
    /// The gateway cannot make sense of the request: its rules differ from those this crate knows.
    BadRequest,
    /// The schema does not compile.
    BadSchema,
    /// The gateway's own schema cannot be built with ours in it.
    SchemaBuild,
    /// The gateway cannot read the GraphQL endpoint's schema; it may still be starting.
    Introspection,
    /// The gateway cannot use the service's address.
    BadAddress,
    /// The gateway's store failed.
    GatewayInternal,
    /// The request or the answer is larger than the limit of 4 MiB.
    TooLarge,
    /// The gateway wants a credential, or another one.
    Denied,
    /// What answers is no gateway of this kind.
    NotAGateway,
    /// The answer is no valid one.
    Malformed,
    /// No connection came up.
    Unreachable,
    /// TLS failed: one side does not trust the other, or the name differs.
    Tls,
    /// The connection broke, or the gateway says it is going away.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// The gateway does not know the registration any more: it was restarted, or dropped it.
    Evicted,
    /// A refusal this crate has no name for.
    Unknown,
}

impl FailureKind {
    /// Whether the same call would fail again until somebody changes something.
    ///
    /// A permanent failure ends a start. On a re-registration it slows the loop to a try every 30 s, since an
    /// operator can free the slot (controlplane §4.8).
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::SchemaConflict
            | Self::CapsConflict
            | Self::KindConflict
            | Self::PatternConflict
            | Self::TierRejected
            | Self::BadVersion
            | Self::BadNamespace
            | Self::BadRequest
            | Self::BadSchema
            | Self::SchemaBuild
            | Self::BadAddress
            | Self::TooLarge
            | Self::Denied
            | Self::NotAGateway
            | Self::Tls => true,
            Self::Introspection
            | Self::GatewayInternal
            | Self::Malformed
            | Self::Unreachable
            | Self::Unavailable
            | Self::Timeout
            | Self::Evicted
            | Self::Unknown => false,
        }
    }
}

/// Parts of a refusal's text and what they mean, in the order in which they are tried. The first two quote
/// foreign content, which could hold any other part.
const TEXTS: &[(&[&str], FailureKind)] = &[
    (
        &[
            "compile proto",
            "parse openapi spec",
            "openapi: parse",
            "openapi: validate",
            "parse introspection",
        ],
        FailureKind::BadSchema,
    ),
    (&["introspect "], FailureKind::Introspection),
    (&["different schema hash"], FailureKind::SchemaConflict),
    (&["different concurrency caps"], FailureKind::CapsConflict),
    (&["cannot re-register as"], FailureKind::KindConflict),
    (&["cross-slot pattern conflict"], FailureKind::PatternConflict),
    (&["--allow-tier policy"], FailureKind::TierRejected),
    (&["computed alias", "must be \"unstable\" or \"vN\""], FailureKind::BadVersion),
    (&["reserved character", "namespace is empty", "requires explicit namespace"], FailureKind::BadNamespace),
    (
        &[
            "may set only one of",
            "must set",
            "duplicate (namespace=",
            "addr is required",
            "at least one ServiceBinding",
        ],
        FailureKind::BadRequest,
    ),
    (&["runtime render", "graphql.NewSchema"], FailureKind::SchemaBuild),
    (&["controlplane: dial"], FailureKind::BadAddress),
    (&["kv put", "marshal kv value"], FailureKind::GatewayInternal),
];

/// What a status means: by its code, and for refusals by their text.
fn classify(code: Code, text: &str) -> FailureKind {
    let mut searched = text.len().min(SEARCHED);
    while !text.is_char_boundary(searched) {
        searched -= 1;
    }
    let text = text.get(..searched).unwrap_or_default();
    match code {
        Code::AlreadyExists => FailureKind::SchemaConflict,
        Code::Unknown => TEXTS
            .iter()
            .find(|(parts, _)| parts.iter().any(|part| text.contains(part)))
            .map_or(FailureKind::Unknown, |(_, kind)| *kind),
        Code::ResourceExhausted | Code::OutOfRange => {
            let text = text.to_ascii_lowercase();
            let names_a_size = ["message larger", "message length", "larger than max", "too large"];
            if names_a_size.iter().any(|part| text.contains(part)) {
                FailureKind::TooLarge
            } else {
                FailureKind::Unavailable
            }
        }
        Code::Unimplemented => FailureKind::NotAGateway,
        Code::Unauthenticated | Code::PermissionDenied => FailureKind::Denied,
        Code::InvalidArgument => FailureKind::BadRequest,
        Code::DeadlineExceeded => FailureKind::Timeout,
        Code::Unavailable | Code::Cancelled | Code::Aborted => FailureKind::Unavailable,
        Code::Internal => FailureKind::GatewayInternal,
        _ => FailureKind::Unknown,
    }
}

impl Failure {
    /// From what a gateway answered; `slots` are ours, as `<namespace>/<version>`.
    pub(crate) fn answered(code: Code, text: &str, slots: &[String]) -> Self {
        let slot = slots.iter().find(|slot| mentions(text, slot)).or(match slots {
            // With one slot, that is the one.
            [only] => Some(only),
            _ => None,
        });
        let words = if text.is_empty() { code.description().to_owned() } else { escaped(text) };
        Self { inner: Arc::new(Inner { kind: classify(code, text), words, slot: slot.cloned() }) }
    }

    /// What happened on our side of the wire.
    pub(crate) fn local(kind: FailureKind, words: impl fmt::Display) -> Self {
        Self { inner: Arc::new(Inner { kind, words: escaped(&words.to_string()), slot: None }) }
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.inner.kind
    }

    /// Whether the same call would fail again until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.inner.kind.is_permanent()
    }

    /// The gateway's words, or the system's: control characters escaped, at most 1,024 bytes.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.inner.words
    }

    /// What happened and what to do about it, in a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        let slot = self.inner.slot.as_deref();
        let named = slot.unwrap_or("this service");
        match self.inner.kind {
            FailureKind::SchemaConflict => format!(
                "schema of {named} differs from the registered one: publish it as {}, or stop the instances \
                 that hold the old one (comments and blank lines count as well)",
                next_version(slot)
            ),
            FailureKind::CapsConflict => format!(
                "{named} is registered with other concurrency caps: give all its instances the same two \
                 numbers, or publish it as {}",
                next_version(slot)
            ),
            FailureKind::KindConflict => format!(
                "{named} is registered with another kind of schema: publish this one as {}, or under \
                 another namespace",
                next_version(slot)
            ),
            FailureKind::PatternConflict => {
                format!("another service claims a channel pattern of {named}: give one of them another pattern")
            }
            FailureKind::TierRejected => format!(
                "the gateway's --allow-tier policy does not take the version of {named}: use one it takes, or \
                 change the policy"
            ),
            FailureKind::BadVersion => {
                format!("the gateway does not take the version of {named}: use v1, v2, … or unstable")
            }
            FailureKind::BadNamespace => {
                format!("the gateway does not take the namespace of {named}: use letters, digits and _")
            }
            FailureKind::BadRequest => {
                "the gateway does not take the request: it may be of a version this client does not know".into()
            }
            FailureKind::BadSchema => format!("the schema of {named} does not compile: correct it"),
            FailureKind::SchemaBuild => format!(
                "the gateway cannot serve {named} beside what it serves already: use names that are valid in \
                 GraphQL, and one service with unary methods for each proto file"
            ),
            FailureKind::Introspection => {
                "the gateway cannot read the GraphQL endpoint's schema: see that it runs, can be reached from \
                 the gateway and answers introspection"
                    .into()
            }
            FailureKind::BadAddress => {
                "the gateway cannot use the service's address: give host:port as the gateway reaches it".into()
            }
            FailureKind::GatewayInternal => "the gateway failed: its log says why".into(),
            FailureKind::TooLarge => {
                "the message is larger than the 4 MiB that may be sent: leave out proto files that nothing \
                 imports, or use smaller documents"
                    .into()
            }
            FailureKind::Denied => {
                "the gateway wants a credential, or another one: see the bearer and the certificate".into()
            }
            FailureKind::NotAGateway => {
                "what answers there is no gwag control plane: see the address and the port".into()
            }
            FailureKind::Malformed => {
                "the answer is not valid: see that a gwag control plane listens at that address".into()
            }
            FailureKind::Unreachable => "the gateway cannot be reached: see that it runs and the address".into(),
            FailureKind::Tls => {
                "no secure connection to the gateway: see the CA, the certificate, and the name in it".into()
            }
            FailureKind::Unavailable => "the gateway is going away, or the connection broke".into(),
            FailureKind::Timeout => "the gateway did not answer in time".into(),
            FailureKind::Evicted => {
                "the gateway does not know the registration any more: it is made again".into()
            }
            FailureKind::Unknown => "the gateway refused".into(),
        }
    }
}

/// Whether `slot` stands in `text` as a word: `a/v1` is not in `ba/v12`.
fn mentions(text: &str, slot: &str) -> bool {
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(slot).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + slot.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part_of_a_name) && !after.is_some_and(part_of_a_name)
    })
}

/// `greeter/v1` is followed by `v2`.
fn next_version(slot: Option<&str>) -> String {
    slot.and_then(|slot| slot.rsplit_once("/v"))
        .and_then(|(_, number)| number.parse::<u64>().ok())
        .map_or_else(|| "the next version".into(), |number| format!("v{}", number.saturating_add(1)))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.hint(), self.inner.words)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, words, slot } = &*self.inner;
        f.debug_struct("Failure").field("kind", kind).field("words", words).field("slot", slot).finish()
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> FailureKind {
        classify(Code::Unknown, text)
    }

    #[test]
    fn every_text_of_the_table_has_its_kind() {
        let rows: &[(&str, FailureKind, bool)] = &[
            (
                "gateway: greeter/v1 already registered with different schema hash; vN is locked",
                FailureKind::SchemaConflict,
                true,
            ),
            (
                "gateway: caps/v1 already registered with different concurrency caps (have max=4/inst=2, got max=5/inst=2)",
                FailureKind::CapsConflict,
                true,
            ),
            (
                "gateway: a/v1 already registered as proto; cannot re-register as openapi",
                FailureKind::KindConflict,
                true,
            ),
            ("gateway: cross-slot pattern conflict: already claimed by", FailureKind::PatternConflict, true),
            (
                "controlplane: tier \"vN\" is not allowed by the --allow-tier policy",
                FailureKind::TierRejected,
                true,
            ),
            (
                "controlplane: version \"stable\": stable is a computed alias; register vN instead",
                FailureKind::BadVersion,
                true,
            ),
            (
                "controlplane: version \"latest\": must be \"unstable\" or \"vN\" (N ≥ 1)",
                FailureKind::BadVersion,
                true,
            ),
            ("controlplane: namespace \"a.b\" contains reserved character", FailureKind::BadNamespace, true),
            ("controlplane: graphql binding requires explicit namespace", FailureKind::BadNamespace, true),
            ("controlplane: namespace is empty", FailureKind::BadNamespace, true),
            ("controlplane: ServiceBinding may set only one of proto_source", FailureKind::BadRequest, true),
            ("controlplane: ServiceBinding must set proto_source", FailureKind::BadRequest, true),
            ("controlplane: duplicate (namespace=a, version=v1) in request", FailureKind::BadRequest, true),
            ("controlplane: addr is required", FailureKind::BadRequest, true),
            ("controlplane: at least one ServiceBinding is required", FailureKind::BadRequest, true),
            (
                "controlplane: compile proto: compile x.proto: x.proto:1:1: syntax error: unexpected identifier",
                FailureKind::BadSchema,
                true,
            ),
            ("controlplane: parse openapi spec: invalid character", FailureKind::BadSchema, true),
            ("openapi: parse x/v1: no", FailureKind::BadSchema, true),
            (
                "openapi: validate x/v1: value of openapi must be a non-empty string",
                FailureKind::BadSchema,
                true,
            ),
            ("graphql: parse introspection x/v1: unexpected end", FailureKind::BadSchema, true),
            ("controlplane: runtime render: no", FailureKind::SchemaBuild, true),
            (
                "gateway: graphql.NewSchema: Names must match /^[_a-zA-Z][_a-zA-Z0-9]*$/",
                FailureKind::SchemaBuild,
                true,
            ),
            ("controlplane: introspect http://h/g: connection refused", FailureKind::Introspection, false),
            ("controlplane: dial h:x: no", FailureKind::BadAddress, true),
            ("controlplane: kv put: timeout", FailureKind::GatewayInternal, false),
            ("controlplane: marshal kv value: no", FailureKind::GatewayInternal, false),
            ("something new", FailureKind::Unknown, false),
        ];
        for (text, kind, permanent) in rows {
            assert_eq!(refusal(text), *kind, "{text}");
            assert_eq!(kind.is_permanent(), *permanent, "{kind:?}");
        }
    }

    #[test]
    fn quoted_content_does_not_choose_the_kind() {
        let text = "controlplane: compile proto: x.proto:1:1: unexpected \"different schema hash\"";
        assert_eq!(refusal(text), FailureKind::BadSchema);
        let text = "controlplane: introspect http://h/cross-slot pattern conflict: must set";
        assert_eq!(refusal(text), FailureKind::Introspection);
    }

    #[test]
    fn codes_come_before_texts() {
        let rows = [
            (Code::AlreadyExists, "", FailureKind::SchemaConflict),
            (Code::Unavailable, "must set", FailureKind::Unavailable),
            (Code::DeadlineExceeded, "", FailureKind::Timeout),
            (Code::Cancelled, "", FailureKind::Unavailable),
            (Code::Aborted, "", FailureKind::Unavailable),
            (Code::Internal, "grpc: error unmarshalling request", FailureKind::GatewayInternal),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (5000000 vs. 4194304)",
                FailureKind::TooLarge,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                FailureKind::TooLarge,
            ),
            (Code::ResourceExhausted, "quota", FailureKind::Unavailable),
            (Code::Unimplemented, "unknown service", FailureKind::NotAGateway),
            (Code::Unauthenticated, "", FailureKind::Denied),
            (Code::PermissionDenied, "", FailureKind::Denied),
            (Code::InvalidArgument, "", FailureKind::BadRequest),
            (Code::DataLoss, "must set", FailureKind::Unknown),
        ];
        for (code, text, kind) in rows {
            assert_eq!(classify(code, text), kind, "{code:?} {text}");
        }
        let permanent =
            [Code::Unimplemented, Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument];
        assert!(permanent.iter().all(|code| classify(*code, "").is_permanent()));
        let transient =
            [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Aborted, Code::Internal];
        assert!(!transient.iter().any(|code| classify(*code, "").is_permanent()));
    }

    #[test]
    fn s152_a_text_is_searched_for_4_kib() {
        let late = format!("{}must set", "ä".repeat(2048));
        assert_eq!(refusal(&late), FailureKind::Unknown, "after 4,096 bytes");
        let early = format!("{}must set", "a".repeat(4088));
        assert_eq!(refusal(&early), FailureKind::BadRequest, "within 4,096 bytes");
    }

    #[test]
    fn a_refusal_keeps_the_gateways_words_and_says_what_to_do() {
        let slots = ["greeter/v1".to_owned(), "greeter/v10".to_owned(), "b/unstable".to_owned()];
        let words = "gateway: greeter/v10 already registered with different schema hash; vN is locked";
        let failure = Failure::answered(Code::Unknown, words, &slots);
        assert_eq!(failure.words(), words);
        let hint = failure.hint();
        assert!(
            hint.starts_with("schema of greeter/v10 differs from the registered one: publish it as v11, or"),
            "{hint}"
        );
        assert!(failure.to_string().contains(words));

        let shown = Failure::answered(Code::Unknown, "a\u{1b}[2J\nb", &[]).to_string();
        assert!(shown.contains(r"a\u{1b}[2J\u{a}b"), "{shown}");
    }
}
