//! The metadata keys of the `_hanzo._tcp` family (discovery §16).

use std::fmt::{self, Display, Formatter};

use crate::{error::DiscoveryError, metadata::Metadata};

/// What a peer of the `_hanzo._tcp` family says about itself.
///
/// All of it is what the peer *says*: nothing here chooses a credential, a TLS policy or a scheme (S-120). Use
/// it to filter and to show.
///
/// ```
/// use peerage_discovery::{MeshInfo, Role};
///
/// let mut ours = MeshInfo::new(Role::Gateway, "1.4.0");
/// ours.capabilities = vec!["invoice".to_owned(), "refund".to_owned()];
/// let metadata = ours.to_metadata("host-7")?;
/// assert_eq!(metadata.get_str("capabilities"), Some("invoice,refund"));
/// assert_eq!(MeshInfo::read(&metadata).role, Some(Role::Gateway));
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshInfo {
    /// What it does in the mesh.
    pub role: Option<Role>,
    /// Its identity, where it has no `id`. When written and not set: `<role>-<host>-<pid>`.
    pub server_id: Option<String>,
    /// Whose it is. Default `hanzo`.
    pub org: String,
    /// The version of its software.
    pub version: Option<String>,
    /// What it speaks. Default `zap/1`; also `http/1.1` and `grpc/1`.
    pub proto: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What it calls itself.
    pub agent_label: Option<String>,
    /// What it says it asks of callers. Default: nothing.
    pub auth: AuthHint,
}

impl MeshInfo {
    /// What must be said, and the defaults.
    pub fn new(role: Role, version: impl Into<String>) -> Self {
        Self { role: Some(role), version: Some(version.into()), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            role: None,
            server_id: None,
            org: "hanzo".to_owned(),
            version: None,
            proto: "zap/1".to_owned(),
            capabilities: Vec::new(),
            agent_label: None,
            auth: AuthHint::None,
        }
    }

    /// What `metadata` says. Everything may be missing; what is not UTF-8 is.
    pub fn read(metadata: &Metadata) -> Self {
        let text = |key| metadata.get_str(key).filter(|text| !text.is_empty()).map(str::to_owned);
        let empty = Self::empty();
        let capabilities = metadata.get_str("capabilities").unwrap_or_default().split(',').map(str::trim);
        Self {
            role: text("role").map(Role::from),
            server_id: text("server_id"),
            org: text("org").unwrap_or(empty.org),
            version: text("version"),
            proto: text("proto").unwrap_or(empty.proto),
            capabilities: capabilities.filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            agent_label: text("agent_label"),
            auth: text("auth").map_or(AuthHint::None, AuthHint::from),
        }
    }

    /// The pairs to announce, in the order of the family. `host` is for the default of `server_id`.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidMetadata`] without a role or a version, with a capability that holds a comma,
    /// or with a value that is too long.
    pub fn to_metadata(&self, host: &str) -> Result<Metadata, DiscoveryError> {
        let missing = |key: &str| invalid(key, "is required");
        let role = self.role.as_ref().ok_or_else(|| missing("role"))?;
        let version = self.version.as_ref().ok_or_else(|| missing("version"))?;
        if self.capabilities.iter().any(|item| item.contains(',')) {
            return Err(invalid("capabilities", "has an item with a comma"));
        }
        let server_id = match &self.server_id {
            Some(server_id) => server_id.clone(),
            None => format!("{role}-{host}-{}", std::process::id()),
        };
        let mut pairs = Metadata::builder()
            .pair("role", role.as_str())
            .pair("server_id", server_id)
            .pair("org", &self.org)
            .pair("version", version)
            .pair("proto", &self.proto);
        if !self.capabilities.is_empty() {
            pairs = pairs.pair("capabilities", self.capabilities.join(","));
        }
        if let Some(agent_label) = &self.agent_label {
            pairs = pairs.pair("agent_label", agent_label);
        }
        pairs.pair("auth", self.auth.as_str()).build()
    }
}

fn invalid(key: &str, rule: &'static str) -> DiscoveryError {
    DiscoveryError::InvalidMetadata { key: key.to_owned(), rule }
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$meaning])* $variant,)*
            /// A word that is not known here. Foreign text.
            Other(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($word => Self::$variant,)*
                    _ => Self::Other(word),
                }
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What a peer does in the mesh.
    Role {
        /// Serves tools by the model context protocol.
        Mcp = "mcp",
        /// Identity and access.
        Iam = "iam",
        /// Keys.
        Kms = "kms",
        /// Multi-party computation.
        Mpc = "mpc",
        /// Base.
        Base = "base",
        /// Engine.
        Engine = "engine",
        /// A browser.
        Browser = "browser",
        /// A node.
        Node = "node",
        /// A desktop.
        Desktop = "desktop",
        /// A gateway.
        Gateway = "gateway",
        /// Static content.
        Static = "static",
    }
}

words! {
    /// What a peer says it asks of callers: a hint for people, never a policy.
    AuthHint {
        /// Nothing.
        None = "none",
        /// A token of the identity service.
        Iam = "iam",
        /// A client certificate.
        Mtls = "mtls",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s131_everything_is_optional_when_reading() {
        let nothing = MeshInfo::read(&Metadata::default());
        assert_eq!(nothing, MeshInfo::empty());
        assert_eq!(
            (nothing.org.as_str(), nothing.proto.as_str(), nothing.auth),
            ("hanzo", "zap/1", AuthHint::None)
        );

        let metadata = Metadata::new([
            ("Role", "kms"),
            ("server_id", "kms-1"),
            ("org", "lux"),
            ("version", "2"),
            ("proto", "grpc/1"),
            ("capabilities", ",a,, b ,"),
            ("agent_label", "K"),
            ("auth", "mtls"),
        ])
        .unwrap();
        let expected = MeshInfo {
            role: Some(Role::Kms),
            server_id: Some("kms-1".to_owned()),
            org: "lux".to_owned(),
            version: Some("2".to_owned()),
            proto: "grpc/1".to_owned(),
            capabilities: vec!["a".to_owned(), "b".to_owned()],
            agent_label: Some("K".to_owned()),
            auth: AuthHint::Mtls,
        };
        assert_eq!(MeshInfo::read(&metadata), expected);

        let odd = Metadata::new([("role", &b"<script>"[..]), ("auth", b"oauth"), ("org", b"\xff")]).unwrap();
        let odd = MeshInfo::read(&odd);
        assert_eq!(odd.role, Some(Role::Other("<script>".to_owned())));
        assert_eq!(odd.auth, AuthHint::Other("oauth".to_owned()));
        assert_eq!(odd.org, "hanzo", "what is not text is not there");
    }

    #[test]
    fn what_is_written_is_read_back_in_the_order_of_the_family() {
        let mut info = MeshInfo::new(Role::Gateway, "1.0");
        info.capabilities = vec!["x".to_owned(), "y".to_owned()];
        info.agent_label = Some("G".to_owned());
        info.auth = AuthHint::Iam;
        let metadata = info.to_metadata("h").unwrap();
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        let family = ["role", "server_id", "org", "version", "proto", "capabilities", "agent_label", "auth"];
        assert_eq!(keys, family);
        info.server_id = Some(format!("gateway-h-{}", std::process::id()));
        assert_eq!(MeshInfo::read(&metadata), info);
        assert_eq!(metadata.check_announced("n"), Ok(()));

        let code = |info: MeshInfo| info.to_metadata("h").unwrap_err();
        assert_eq!(code(MeshInfo { role: None, ..info.clone() }), invalid("role", "is required"));
        assert_eq!(code(MeshInfo { version: None, ..info.clone() }), invalid("version", "is required"));
        info.capabilities.push("a,b".to_owned());
        assert_eq!(code(info), invalid("capabilities", "has an item with a comma"));
    }
}
