//! What is registered: a namespace, a version, and one schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

/// One service description: a namespace, a version and exactly one schema.
///
/// Files are read when the registration starts, once: what is on disk later does not matter, and every
/// re-registration sends the same bytes (controlplane §4.3).
///
/// A second form cannot be given, and a directory not without its entry:
///
/// ```compile_fail
/// # use peerage_controlclient::Service;
/// Service::proto("greeter", "syntax = \"proto3\";").openapi("{}"); // two forms
/// ```
/// ```compile_fail
/// # use peerage_controlclient::Service;
/// Service::proto_dir("greeter", "protos"); // no entry
/// ```
/// ```compile_fail
/// # use peerage_controlclient::Service;
/// Service::new("greeter"); // no form
/// ```
#[derive(Clone, Debug)]
#[must_use = "a service is registered by `Registration::builder(…).service(…)`"]
pub struct Service {
    pub(crate) namespace: String,
    pub(crate) version: String,
    pub(crate) schema: Schema,
    pub(crate) max_concurrency: u32,
    pub(crate) max_concurrency_per_instance: u32,
}

/// How a service describes itself to the gateway. Private fields keep it valid: see the constructors of
/// [`Service`].
#[derive(Clone, Debug)]
pub(crate) enum Schema {
    /// A `.proto` text and what it imports, by the text of the import statements.
    Proto { source: Bytes, imports: BTreeMap<String, Bytes> },
    /// A `.proto` file without imports of its own.
    ProtoFile { path: PathBuf },
    /// A directory that is the root of the import statements, and the file in it that has the service.
    ProtoDir { root: PathBuf, entry: String, prune: bool },
    /// A document in JSON or YAML.
    OpenApi { document: Bytes },
    /// The same in a file.
    OpenApiFile { path: PathBuf },
    /// Where the gateway asks for the schema.
    GraphQl { endpoint: String },
}

impl Service {
    /// A service of a `.proto` text, taken as it is: comments and blank lines are part of the schema's
    /// identity (controlplane §3.8).
    pub fn proto(namespace: impl Into<String>, source: impl Into<Bytes>) -> Self {
        Self::new(namespace, Schema::Proto { source: source.into(), imports: BTreeMap::new() })
    }

    /// A service of a single `.proto` file. An empty namespace becomes the file's name without `.proto`.
    pub fn proto_file(namespace: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self::new(namespace, Schema::ProtoFile { path: path.into() })
    }

    /// A service of the file `entry` in the directory `root`, with every other `.proto` file below `root`
    /// as its imports. `root` must be what the import statements are relative to; `entry` is relative to
    /// it. An empty namespace becomes the entry's name without `.proto`.
    ///
    /// At most 1,000 files, 16 MiB and 16 levels (threats §3). Links to directories are not followed; links
    /// to files are, within `root`.
    pub fn proto_dir(
        namespace: impl Into<String>,
        root: impl Into<PathBuf>,
        entry: impl Into<String>,
    ) -> Self {
        Self::new(namespace, Schema::ProtoDir { root: root.into(), entry: entry.into(), prune: false })
    }

    /// A service of an OpenAPI 3 document in JSON or YAML. With an empty namespace the gateway takes the
    /// document's title.
    pub fn openapi(namespace: impl Into<String>, document: impl Into<Bytes>) -> Self {
        Self::new(namespace, Schema::OpenApi { document: document.into() })
    }

    /// A service of an OpenAPI 3 document in a file.
    pub fn openapi_file(namespace: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self::new(namespace, Schema::OpenApiFile { path: path.into() })
    }

    /// A GraphQL service at `endpoint`, a URL as the gateway reaches it. The gateway reads the schema from
    /// there while it registers the service, so it must be up. The gateway ignores its caps.
    pub fn graphql(namespace: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self::new(namespace, Schema::GraphQl { endpoint: endpoint.into() })
    }

    fn new(namespace: impl Into<String>, schema: Schema) -> Self {
        Self {
            namespace: namespace.into(),
            version: String::new(),
            schema,
            max_concurrency: 0,
            max_concurrency_per_instance: 0,
        }
    }

    /// `v1`, `v2`, … or `unstable`; sent as it is. Empty, the default, is `v1` to the gateway.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds a file that the source of [`proto`](Self::proto) imports, under the text of the import
    /// statement. For another kind of service it does nothing.
    pub fn import(mut self, name: impl Into<String>, source: impl Into<Bytes>) -> Self {
        if let Schema::Proto { imports, .. } = &mut self.schema {
            imports.insert(name.into(), source.into());
        }
        self
    }

    /// Sends only those files of [`proto_dir`](Self::proto_dir) that the entry reaches. The schema's
    /// identity stays the same, the message shrinks (controlplane §4.4). Off by default; for another kind
    /// of service it does nothing.
    pub fn pruned(mut self) -> Self {
        if let Schema::ProtoDir { prune, .. } = &mut self.schema {
            *prune = true;
        }
        self
    }

    /// The most unary calls in flight to all instances together. 0, the default, is the gateway's own
    /// default. Fixed by the first registration of a slot: later ones must give the same number.
    pub fn max_concurrency(mut self, calls: u32) -> Self {
        self.max_concurrency = calls;
        self
    }

    /// The most unary calls in flight to one instance. 0, the default, is no bound.
    pub fn max_concurrency_per_instance(mut self, calls: u32) -> Self {
        self.max_concurrency_per_instance = calls;
        self
    }

    /// For messages: the namespace as given, or what the schema is called.
    pub(crate) fn label(&self) -> String {
        if !self.namespace.is_empty() {
            return crate::text::escaped(&self.namespace);
        }
        let name = match &self.schema {
            Schema::Proto { .. } => return "(proto without a namespace)".into(),
            Schema::OpenApi { .. } => return "(OpenAPI without a namespace)".into(),
            Schema::ProtoFile { path } | Schema::OpenApiFile { path } => path.display().to_string(),
            Schema::ProtoDir { entry, .. } => entry.clone(),
            Schema::GraphQl { endpoint } => endpoint.clone(),
        };
        crate::text::escaped(&name)
    }
}
