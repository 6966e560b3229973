//! A look into what could be wrong with multicast DNS here (discovery §15).

use super::browsers::DaemonKey;
use super::interfaces::{IfWatch, Verdict};
use crate::{Diagnosis, Grade};

pub(super) async fn diagnose(mut found: Diagnosis, key: &DaemonKey) -> Diagnosis {
    let interfaces = IfWatch::new(key.policy.clone()).now();
    for iface in &interfaces.all {
        let grade = match iface.verdict {
            Verdict::Fallback => Grade::Warning,
            _ => Grade::Good,
        };
        found.find(grade, format!("interface {}", iface.link.name), iface.verdict.as_str());
    }
    found
}
