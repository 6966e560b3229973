//! The 58 calls that were recorded at a real gateway, played again (controlplane, the transcript).

use std::collections::BTreeMap;
use std::time::Duration;

use peerage_controlclient::pb;
use peerage_devgateway::DevGateway;
use prost::Message;
use serde_json::Value;

use crate::kit::started;

const CODES: [(&str, i32); 2] = [("OK", 0), ("UNKNOWN", 2)];

#[tokio::test]
async fn the_transcript_of_a_real_gateway_is_replayed_word_for_word() {
    let transcript: Value = serde_json::from_str(include_str!("../vectors/controlplane.json")).unwrap();
    let steps = transcript["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 58);
    // What a gateway with an admin API has from the start.
    let (gateway, client) = started(DevGateway::builder().taken(["admin", "admin_events"])).await;
    let mut same = Same::default();
    for (number, step) in steps.iter().enumerate() {
        let name = step["name"].as_str().unwrap();
        let method = step["method"].as_str().unwrap();
        if let Some(seconds) = step["wait_seconds"].as_u64() {
            gateway.advance(Duration::from_secs(seconds));
        }
        let request = same.request(&unhex(step["request_hex"].as_str().unwrap()));
        let answer = client.raw(method, &request, &[]).await;
        let code = CODES.iter().find(|(code, _)| step["code"] == *code).expect("a code of the transcript").1;
        assert_eq!(answer.code, code, "{number} {name}: {}", answer.message);
        assert_eq!(answer.message, step["message"].as_str().unwrap_or_default(), "{number} {name}");
        let theirs = unhex(step["response_hex"].as_str().unwrap_or_default());
        same.answers(method, &theirs, &answer.body, &format!("{number} {name}"));
        if step["saves_id_as"].is_string() {
            let theirs = pb::RegisterResponse::decode(&theirs[..]).unwrap().registration_id;
            let ours = pb::RegisterResponse::decode(&answer.body[..]).unwrap().registration_id;
            assert!(
                ours.len() == 24 && ours.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
                "{ours}"
            );
            same.ids.insert(theirs, ours);
        }
    }
    assert_eq!(same.ids.len(), 10);
    // Five protobuf schemas and the two of the gateway's own.
    assert_eq!(same.hashes.len(), 7, "{:?}", same.hashes);
}

/// What differs from run to run, theirs and ours.
#[derive(Default)]
struct Same {
    ids: BTreeMap<String, String>,
    hashes: BTreeMap<String, String>,
}

impl Same {
    /// Recorded ids in a request become those that were given here; all are 24 bytes long.
    fn request(&self, recorded: &[u8]) -> Vec<u8> {
        let mut bytes = recorded.to_vec();
        for (theirs, ours) in &self.ids {
            while let Some(at) = bytes.windows(24).position(|window| window == theirs.as_bytes()) {
                bytes.splice(at..at + 24, ours.bytes());
            }
        }
        bytes
    }

    fn answers(&mut self, method: &str, theirs: &[u8], ours: &[u8], name: &str) {
        match method {
            "Register" => {
                let [theirs, ours] = decode::<pb::RegisterResponse>(theirs, ours);
                assert_eq!(theirs.ttl_seconds, ours.ttl_seconds, "{name}");
            }
            "ListRegistrations" => {
                let [mut theirs, mut ours] = decode::<pb::ListRegistrationsResponse>(theirs, ours);
                for registration in &mut theirs.registrations {
                    registration.registration_id =
                        self.ids.get(&registration.registration_id).expect("it was given before").clone();
                }
                for registration in theirs.registrations.iter_mut().chain(&mut ours.registrations) {
                    assert_ne!(registration.last_heartbeat_unix_ms, 0, "{name}");
                    registration.last_heartbeat_unix_ms = 0;
                }
                assert_eq!(theirs, ours, "{name}");
            }
            "ListServices" => {
                let [mut theirs, ours] = decode::<pb::ListServicesResponse>(theirs, ours);
                for (theirs, ours) in theirs.services.iter_mut().zip(&ours.services) {
                    if matches!(theirs.namespace.as_str(), "billing" | "invoices") {
                        // OpenAPI: the same bytes have the same hash. Compared below.
                        continue;
                    }
                    // Protobuf: hashes are equal exactly where theirs are.
                    let known =
                        self.hashes.entry(theirs.hash_hex.clone()).or_insert_with(|| ours.hash_hex.clone());
                    assert_eq!(*known, ours.hash_hex, "{name}: {}", theirs.namespace);
                    theirs.hash_hex.clone_from(&ours.hash_hex);
                }
                let ours_by_theirs: std::collections::BTreeSet<_> = self.hashes.values().collect();
                assert_eq!(ours_by_theirs.len(), self.hashes.len(), "{name}: two schemas, two hashes");
                assert_eq!(theirs, ours, "{name}");
            }
            _ => assert_eq!(theirs, ours, "{name}"),
        }
    }
}

fn decode<M: Message + Default>(theirs: &[u8], ours: &[u8]) -> [M; 2] {
    [theirs, ours].map(|bytes| M::decode(bytes).expect("a message"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16).expect("two digits"))
        .collect()
}
