//! The eleven RPCs: from messages to the state and back.

use std::sync::{Arc, OnceLock};

use peerage_controlclient::pb;
use peerage_controlclient::pb::control_plane_server::ControlPlane;
use tonic::{Request, Response, Status};

use crate::names::SlotKey;
use crate::refusal::{Refusal, cut};
use crate::request::{Binding, Request as Register};
use crate::shared::{Cause, Shared};
use crate::sign::Signed;
use crate::slots::Caps;
use crate::view::{RegistrationView, ServiceView};

/// Where a handler leaves the id that a call was about, for the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note(Arc<OnceLock<String>>);

impl Note {
    /// Ids are 24 digits; whatever else a client sends is cut.
    const LENGTH_MAX: usize = 64;

    fn set(&self, id: &str) {
        self.0.set(cut(id, Self::LENGTH_MAX).to_owned()).ok();
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service(pub(crate) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

/// Every refusal of a handler has the same code; the text tells them apart.
fn refused(refusal: Refusal) -> Status {
    Status::unknown(refusal.text())
}

fn note<T>(request: &Request<T>, id: &str) {
    if let Some(note) = request.extensions().get::<Note>() {
        note.set(id);
    }
}

#[tonic::async_trait]
impl ControlPlane for Service {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Answer<pb::RegisterResponse> {
        let place = request.extensions().get::<Note>().cloned().unwrap_or_default();
        let (id, ttl_seconds) = self.0.register(read(request.into_inner())).await.map_err(refused)?;
        place.set(&id);
        Ok(Response::new(pb::RegisterResponse { registration_id: id, ttl_seconds }))
    }

    async fn heartbeat(&self, request: Request<pb::HeartbeatRequest>) -> Answer<pb::HeartbeatResponse> {
        let id = &request.get_ref().registration_id;
        note(&request, id);
        Ok(Response::new(pb::HeartbeatResponse { ok: self.0.heartbeat(id) }))
    }

    async fn deregister(&self, request: Request<pb::DeregisterRequest>) -> Answer<pb::DeregisterResponse> {
        let id = &request.get_ref().registration_id;
        note(&request, id);
        self.0.deregister(id, Cause::Deregistered);
        Ok(Response::new(pb::DeregisterResponse {}))
    }

    async fn list_registrations(
        &self,
        _: Request<pb::ListRegistrationsRequest>,
    ) -> Answer<pb::ListRegistrationsResponse> {
        let registrations = self.0.state().registrations().into_iter().map(registration).collect();
        Ok(Response::new(pb::ListRegistrationsResponse { registrations }))
    }

    async fn list_peers(&self, _: Request<pb::ListPeersRequest>) -> Answer<pb::ListPeersResponse> {
        Ok(Response::new(pb::ListPeersResponse::default()))
    }

    async fn forget_peer(&self, request: Request<pb::ForgetPeerRequest>) -> Answer<pb::ForgetPeerResponse> {
        let reason = match request.get_ref().node_id.as_str() {
            "" => "node_id is required",
            _ => "cluster not configured",
        };
        Err(refused(Refusal::control(reason)))
    }

    async fn list_services(&self, _: Request<pb::ListServicesRequest>) -> Answer<pb::ListServicesResponse> {
        let state = self.0.state();
        Ok(Response::new(pb::ListServicesResponse {
            services: state.services().into_iter().map(service).collect(),
            stable_vn: state.stable().clone(),
        }))
    }

    async fn sign_subscription_token(
        &self,
        request: Request<pb::SignSubscriptionTokenRequest>,
    ) -> Answer<pb::SignSubscriptionTokenResponse> {
        use pb::SubscribeAuthCode as Code;

        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let pb::SignSubscriptionTokenRequest { channel, kid, .. } = request.get_ref();
        let now = i64::try_from(self.0.clock.now().as_secs()).unwrap_or(i64::MAX);
        let signed = self.0.rules.signing.sign(bearer, channel, kid, now).map_err(refused)?;
        let answer = |code: Code, reason: &str| pb::SignSubscriptionTokenResponse {
            code: code.into(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        Ok(Response::new(match signed {
            Signed::Denied => answer(Code::Denied, "sign endpoint requires bearer auth"),
            Signed::NotConfigured(reason) => answer(Code::NotConfigured, reason),
            Signed::UnknownKid => pb::SignSubscriptionTokenResponse {
                kid: kid.clone(),
                ..answer(Code::UnknownKid, "no subscription secret is configured for this kid")
            },
            Signed::Ok { hmac } => pb::SignSubscriptionTokenResponse {
                hmac,
                timestamp_unix: now,
                kid: kid.clone(),
                ..answer(Code::Ok, "")
            },
        }))
    }

    async fn retract_stable(
        &self,
        request: Request<pb::RetractStableRequest>,
    ) -> Answer<pb::RetractStableResponse> {
        let pb::RetractStableRequest { namespace, target_v_n } = request.get_ref();
        let (prior_v_n, new_v_n) = self.0.state().retract_stable(namespace, *target_v_n).map_err(refused)?;
        Ok(Response::new(pb::RetractStableResponse { prior_v_n, new_v_n }))
    }

    async fn deprecate(&self, request: Request<pb::DeprecateRequest>) -> Answer<pb::DeprecateResponse> {
        let pb::DeprecateRequest { namespace, version, reason } = request.get_ref();
        self.0.state().deprecate(namespace, version, reason).map_err(refused)?;
        Ok(Response::new(pb::DeprecateResponse {}))
    }

    async fn undeprecate(&self, request: Request<pb::UndeprecateRequest>) -> Answer<pb::UndeprecateResponse> {
        let pb::UndeprecateRequest { namespace, version } = request.get_ref();
        let prior_reason = self.0.state().undeprecate(namespace, version).map_err(refused)?;
        Ok(Response::new(pb::UndeprecateResponse { prior_reason }))
    }
}

fn read(request: pb::RegisterRequest) -> Register {
    let pb::RegisterRequest { addr, services, ttl_seconds, instance_id } = request;
    let bindings = services
        .into_iter()
        .map(|binding| Binding {
            namespace: binding.namespace,
            version: binding.version,
            proto_source: binding.proto_source,
            proto_imports: binding.proto_imports,
            openapi_spec: binding.openapi_spec,
            graphql_endpoint: binding.graphql_endpoint,
            caps: Caps { total: binding.max_concurrency, per_instance: binding.max_concurrency_per_instance },
        })
        .collect();
    Register { addr, bindings, ttl_seconds, instance_id }
}

fn registration(view: RegistrationView) -> pb::Registration {
    pb::Registration {
        ttl_seconds: u32::try_from(view.ttl.as_secs()).unwrap_or(u32::MAX),
        last_heartbeat_unix_ms: u64::try_from(view.last_heartbeat.as_millis()).unwrap_or(u64::MAX),
        registration_id: view.id,
        addr: view.addr,
        instance_id: view.instance_id,
        namespaces: view.slots,
    }
}

fn service(view: ServiceView) -> pb::ServiceInfo {
    pb::ServiceInfo {
        namespace: view.namespace,
        version: view.version,
        hash_hex: view.hash,
        replica_count: u32::try_from(view.replica_count).unwrap_or(u32::MAX),
        manual_deprecation_reason: view.deprecation,
    }
}

/// `namespace/version`, or a namespace alone for its `v1`.
pub(crate) fn slot_key(text: &str) -> SlotKey {
    match text.split_once('/') {
        Some((namespace, version)) => SlotKey::new(namespace, version),
        None => SlotKey::new(text, "v1"),
    }
}
