//! A Register request, and its checks in the gateway's order (controlplane §3.3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::names::{SlotKey, Tiers, Version, check_namespace, namespace_of_title};
use crate::refusal::Refusal;
use crate::schema::{self, Kind, Schema};
use crate::slots::Caps;

/// What a service asks for, free of its encoding.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) addr: String,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) ttl_seconds: u32,
    pub(crate) instance_id: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Binding {
    pub(crate) namespace: String,
    pub(crate) version: String,
    pub(crate) proto_source: Bytes,
    pub(crate) proto_imports: BTreeMap<String, Bytes>,
    pub(crate) openapi_spec: Bytes,
    pub(crate) graphql_endpoint: String,
    pub(crate) caps: Caps,
}

/// A binding that may ask for its slot.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) namespace: String,
    pub(crate) version: Version,
    pub(crate) schema: Schema,
    pub(crate) caps: Caps,
}

impl Checked {
    pub(crate) fn key(&self) -> SlotKey {
        SlotKey::new(&self.namespace, self.version.as_str())
    }
}

/// A binding after the checks that need nobody else.
#[derive(Debug)]
pub(crate) enum Step {
    Checked(Checked),
    /// The endpoint has to be asked for its schema; [`Introspection::answered`] goes on.
    Introspect(Introspection),
}

#[derive(Debug)]
pub(crate) struct Introspection {
    pub(crate) endpoint: String,
    namespace: String,
    version: Version,
}

impl Introspection {
    pub(crate) fn answered(self, answer: Result<Schema, String>) -> Result<Checked, Refusal> {
        let Self { namespace, version, .. } = self;
        match answer {
            // The caps of GraphQL bindings are ignored (C-040).
            Ok(schema) => Ok(Checked { namespace, version, schema, caps: Caps::default() }),
            Err(text) => {
                Err(Refusal::control(format_args!("introspect {namespace}/{}: {text}", version.as_str())))
            }
        }
    }
}

/// The checks before any binding is looked at.
pub(crate) fn check_head(request: &Request) -> Result<(), Refusal> {
    if request.addr.is_empty() {
        return Err(Refusal::control("addr is required"));
    }
    if request.bindings.is_empty() {
        return Err(Refusal::control("at least one ServiceBinding is required"));
    }
    Ok(())
}

/// The checks of one binding; `seen` holds the slots of those before it.
pub(crate) fn check_binding(
    binding: &Binding,
    tiers: Tiers,
    seen: &mut BTreeSet<SlotKey>,
) -> Result<Step, Refusal> {
    let kind = kind_of(binding)?;
    let (namespace, schema) = match kind {
        Kind::GraphQl => {
            if binding.namespace.is_empty() {
                return Err(Refusal::control("graphql_endpoint requires explicit namespace"));
            }
            (binding.namespace.clone(), None)
        }
        Kind::OpenApi => {
            let document = schema::openapi::read(&binding.openapi_spec)
                .map_err(|text| Refusal::control(format_args!("parse openapi spec: {text}")))?;
            let namespace = match binding.namespace.as_str() {
                "" => namespace_of_title(&document.title),
                given => given.to_owned(),
            };
            if let Some(warning) = &document.warning {
                tracing::warn!(namespace, %warning, "an unusual OpenAPI document");
            }
            (namespace, Some(document.schema))
        }
        Kind::Proto | Kind::Internal => {
            let schema =
                schema::proto::compile(&binding.namespace, &binding.proto_source, &binding.proto_imports)
                    .map_err(|text| Refusal::control(format_args!("compile proto: {text}")))?;
            let namespace = match binding.namespace.as_str() {
                "" => "entry".to_owned(),
                given => given.to_owned(),
            };
            (namespace, Some(schema))
        }
    };
    check_namespace(&namespace)?;
    let version = Version::parse(&binding.version)?;
    tiers.check(&version)?;
    if !seen.insert(SlotKey::new(&namespace, version.as_str())) {
        return Err(Refusal::control(format_args!(
            "duplicate (namespace={namespace}, version={}) in request",
            version.as_str()
        )));
    }
    Ok(match schema {
        Some(schema) => Step::Checked(Checked { namespace, version, schema, caps: binding.caps }),
        None => {
            Step::Introspect(Introspection { endpoint: binding.graphql_endpoint.clone(), namespace, version })
        }
    })
}

/// Exactly one of the three forms must be set. Imports without a source are none.
fn kind_of(binding: &Binding) -> Result<Kind, Refusal> {
    let forms = [
        (Kind::Proto, !binding.proto_source.is_empty()),
        (Kind::OpenApi, !binding.openapi_spec.is_empty()),
        (Kind::GraphQl, !binding.graphql_endpoint.is_empty()),
    ];
    let mut set = forms.iter().filter(|(_, is_set)| *is_set);
    match (set.next(), set.next()) {
        (Some((kind, _)), None) => Ok(*kind),
        (None, _) => {
            Err(Refusal::control("ServiceBinding must set proto_source, openapi_spec, OR graphql_endpoint"))
        }
        (Some(_), Some(_)) => Err(Refusal::control(
            "ServiceBinding may set only one of proto_source, openapi_spec, graphql_endpoint",
        )),
    }
}
