//! What discovery reports, and the peers it found.

use std::sync::Arc;
use std::time::Duration;

use peerage::discovery::mdns::{self, Interfaces};
use peerage::discovery::{
    self, Diagnosis, Discovery, DiscoveryError, Finding, Grade as FoundGrade, OpenOptions, ServiceType,
};
use peerage::zaphttp::tls::ClusterTls;
use tokio::time::{Instant, timeout};

use super::{Check, Found, Grade, Times, peers};
use crate::args::Global;
use crate::output::{Chain, Failure};
use crate::setup;

/// More than discovery says its look takes.
const DIAGNOSE_LIMIT: Duration = Duration::from_secs(5);
/// What is looked for where no service is asked for.
const NOBODY: &str = "peerage";
/// More service types than this are counted, not listed.
const LISTED: usize = 32;

/// Where peers come from, not started.
pub(super) struct Source {
    discovery: Arc<dyn Discovery>,
    /// Whether this service was asked for, so that having no peer means something.
    is_named: bool,
    has_mdns: bool,
}

impl Source {
    pub(super) async fn stop(&self) {
        self.discovery.stop().await;
    }
}

pub(super) fn open(global: &Global, name: Option<&str>) -> Result<Source, Failure> {
    let has_mdns = global.from.split_whitespace().any(|word| word.starts_with("mdns:"));
    let usage = |error: DiscoveryError| Failure::usage(Chain(&error));
    let named: Option<ServiceType> = name.map(str::parse).transpose().map_err(usage)?;
    let opened =
        |service: Option<&ServiceType>| discovery::open(&global.from, service, OpenOptions::default());
    let (discovery, is_named) = match (&named, opened(named.as_ref())) {
        (_, Ok(discovery)) => (discovery, true),
        (Some(_), Err(error)) => return Err(usage(error)),
        // The source names no service either.
        (None, Err(_)) => (opened(Some(&NOBODY.parse().map_err(usage)?)).map_err(usage)?, false),
    };
    Ok(Source { discovery, is_named, has_mdns })
}

/// Listens for a while; then tells what discovery sees, and dials the peers meanwhile.
pub(super) async fn look(
    global: &Global,
    source: &Source,
    identity: Option<ClusterTls>,
    times: Times,
) -> Found {
    let discovery = &*source.discovery;
    if let Err(error) = discovery.start() {
        return vec![
            Check::failed("discovery", setup::text(&error)).hint(format!("see --from {}", global.from)),
        ]
        .into();
    }
    let types = async {
        if source.has_mdns && !source.is_named {
            Some(mdns::browse_types(Interfaces::Auto, times.wait).await)
        } else {
            None
        }
    };
    // More than anybody has: every answer that comes within the time is looked at.
    let (_, types) = tokio::join!(discovery.wait_ready(usize::MAX, Instant::now() + times.wait), types);
    let snapshot = discovery.snapshot();
    let (report, dialled) = tokio::join!(
        timeout(DIAGNOSE_LIMIT, discovery.diagnose()),
        peers::dial_all(snapshot.peers(), identity.as_ref(), times.limit)
    );
    let mut checks = match report {
        Ok(report) => findings(report, source.is_named),
        Err(_) => vec![Check::failed("discovery", format!("its report took more than {DIAGNOSE_LIMIT:?}"))],
    };
    checks.extend(types.map(|types| services(types, snapshot.peers().is_empty())));
    checks.extend(dialled);
    let is_alone = source.is_named && snapshot.peers().is_empty();
    Found { checks, nobody: is_alone.then(|| discovery.service_type().to_string()) }
}

/// The report of discovery; the hints stand below what made them necessary.
fn findings(report: Diagnosis, is_named: bool) -> Vec<Check> {
    let Diagnosis { service, findings, hints, .. } = report;
    let mut checks: Vec<Check> = findings
        .into_iter()
        // Nobody was asked for.
        .filter(|finding| is_named || !finding.subject.ends_with("peers"))
        .map(|Finding { grade, subject, text, .. }| {
            let subject = match subject.as_str() {
                "peers" => format!("peers of {service}"),
                "status" => "discovery".into(),
                _ => subject,
            };
            Check::new(grade_of(grade), subject, text)
        })
        .collect();
    let at =
        checks.iter().rposition(|check| check.grade != Grade::Ok).or_else(|| checks.len().checked_sub(1));
    if let Some(check) = at.and_then(|at| checks.get_mut(at))
        && !hints.is_empty()
    {
        check.hint = Some(hints.join("; "));
    }
    checks
}

fn grade_of(grade: FoundGrade) -> Grade {
    match grade {
        FoundGrade::Good => Grade::Ok,
        FoundGrade::Warning => Grade::Warning,
        _ => Grade::Failed,
    }
}

fn services(types: Result<Vec<ServiceType>, DiscoveryError>, is_alone: bool) -> Check {
    const SUBJECT: &str = "services announced";
    let types = match types {
        Ok(types) => types,
        Err(error) => return Check::failed(SUBJECT, setup::text(&error)),
    };
    if types.is_empty() {
        return Check::warning(SUBJECT, "none")
            .hint("announce one with `peerage expose NAME --upstream URL`, or name peers with --from");
    }
    let mut names: Vec<String> = types.iter().take(LISTED).map(ToString::to_string).collect();
    if let Some(more) = types.len().checked_sub(LISTED).filter(|more| *more > 0) {
        names.push(format!("and {more} more"));
    }
    let check = Check::ok(SUBJECT, names.join(", "));
    // Whatever is announced, a printer also: nobody is dialled who was not asked for.
    if is_alone { check.hint("`peerage doctor NAME` looks at the peers of one") } else { check }
}
