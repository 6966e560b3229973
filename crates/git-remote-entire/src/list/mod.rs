//! From the server's advertisement to the answer of `list` (helper spec §5).

use std::collections::HashMap;

use tokio::io::AsyncBufRead;

use crate::diagnostics::escaped;
use crate::error::HelperError;
use crate::pktline::{self, Kind, PacketError};
use crate::remote::Service;
use crate::spool::Spool;

/// How much of an advertisement is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) refs: u64,
    pub(crate) bytes: u64,
}

/// Reads the announcement `# service=<name>` and its flush, and nothing behind.
pub(crate) async fn announcement<R>(input: &mut R, service: Service) -> Result<(), HelperError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    let mut packet = Vec::new();
    let kind = read(input, &mut packet, service).await?;
    let line = pktline::payload(&packet);
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    match line.strip_prefix(b"# service=") {
        Some(name) if kind == Some(Kind::Data) && name == service.name().as_bytes() => {}
        Some(name) => return Err(broken(service, format!("it is one of \"{}\"", escaped(name)))),
        None => {
            return Err(refusal(line)
                .unwrap_or_else(|| broken(service, "it does not begin with a service announcement".into())));
        }
    }
    match read(input, &mut packet, service).await? {
        Some(Kind::Flush) => Ok(()),
        _ => Err(broken(service, "no flush follows the service announcement".into())),
    }
}

async fn read<R>(input: &mut R, packet: &mut Vec<u8>, service: Service) -> Result<Option<Kind>, HelperError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    pktline::read(input, packet).await.map_err(|source| cut(service, source))
}

pub(crate) fn cut(service: Service, source: PacketError) -> HelperError {
    let reason = match source {
        PacketError::Read { .. } => "it broke off",
        _ => "it is no sequence of pkt-lines",
    };
    HelperError::Advertisement { service: service.name(), reason: reason.to_owned(), source: Some(source) }
}

fn broken(service: Service, reason: String) -> HelperError {
    HelperError::Advertisement { service: service.name(), reason, source: None }
}

/// The error that an `ERR` packet is.
fn refusal(line: &[u8]) -> Option<HelperError> {
    let text = line.strip_prefix(b"ERR ")?;
    Some(HelperError::RemoteSaid { text: escaped(text.trim_ascii()) })
}

/// Reads an advertisement from behind its announcement to its flush, and writes the answer of `list` to `out`.
///
/// Names that Git would refuse are given to `left_out` and not written.
pub(crate) async fn list<R>(
    input: &mut R,
    service: Service,
    limits: Limits,
    out: &mut Spool,
    mut left_out: impl FnMut(&[u8]),
) -> Result<(), HelperError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    let spool = |source| HelperError::Spool { source };
    let mut packet = Vec::new();
    let mut line_out = Vec::new();
    let mut symrefs = HashMap::new();
    let mut head = None;
    let (mut refs, mut bytes) = (0_u64, 0_u64);
    let mut first = true;
    loop {
        match read(input, &mut packet, service).await? {
            Some(Kind::Flush) => break,
            Some(Kind::Data) => {}
            Some(Kind::Delimiter | Kind::ResponseEnd) => {
                return Err(broken(service, "it holds a sign of protocol v2".to_owned()));
            }
            // An advertisement that ends without its flush is one that was cut (SV-W08).
            None => return Err(cut(service, PacketError::CutLength)),
        }
        bytes += packet.len() as u64;
        if bytes > limits.bytes {
            return Err(HelperError::TooLong { what: "the ref advertisement", limit: limits.bytes });
        }
        let mut line = pktline::payload(&packet);
        while let Some(shorter) = line.strip_suffix(b"\n") {
            line = shorter;
        }
        if let Some(refusal) = refusal(line) {
            return Err(refusal);
        }
        if first && line == b"version 1" {
            continue;
        }
        if std::mem::take(&mut first)
            && let Some(nul) = line.iter().position(|byte| *byte == 0)
        {
            let (reference, capabilities) = line.split_at(nul);
            let capabilities = Capabilities::read(capabilities.get(1..).unwrap_or_default(), service)?;
            symrefs = capabilities.symrefs;
            if let Some(format) = capabilities.object_format {
                out.put(&[b":object-format ", format.as_slice(), b"\n"].concat()).map_err(spool)?;
            }
            line = reference;
        }
        let Some(blank) = line.iter().position(|byte| *byte == b' ') else { continue };
        let (oid, name) = line.split_at(blank);
        let name = name.get(1..).unwrap_or_default();
        if oid == b"shallow" || name == b".have" || name == b"capabilities^{}" {
            continue;
        }
        if !is_oid(oid) {
            return Err(broken(service, format!("\"{}\" is no object id", escaped(oid))));
        }
        if let Some(byte) = name.iter().find(|byte| is_control(**byte)) {
            return Err(broken(service, format!("a ref name holds the byte {byte:#04x}")));
        }
        refs += 1;
        if refs > limits.refs {
            return Err(HelperError::TooLong { what: "the number of refs", limit: limits.refs });
        }
        if name == b"HEAD" {
            head = Some(oid.to_vec());
            continue;
        }
        if !is_ref_name(name.strip_suffix(b"^{}").unwrap_or(name)) {
            left_out(name);
            continue;
        }
        line_out.clear();
        match symrefs.get(name) {
            Some(target) => {
                line_out.push(b'@');
                line_out.extend_from_slice(target);
            }
            None => line_out.extend_from_slice(oid),
        }
        line_out.push(b' ');
        line_out.extend_from_slice(name);
        line_out.push(b'\n');
        out.put(&line_out).map_err(spool)?;
    }
    line_out.clear();
    if let Some(target) = symrefs.get(b"HEAD".as_slice()) {
        line_out.extend_from_slice(&[b"@", target.as_slice(), b" HEAD\n"].concat());
    } else if let Some(oid) = head {
        line_out.extend_from_slice(&[oid.as_slice(), b" HEAD\n"].concat());
    }
    line_out.push(b'\n');
    out.put(&line_out).map_err(spool)
}

#[derive(Default)]
struct Capabilities {
    symrefs: HashMap<Vec<u8>, Vec<u8>>,
    object_format: Option<Vec<u8>>,
}

impl Capabilities {
    fn read(text: &[u8], service: Service) -> Result<Self, HelperError> {
        let mut this = Self::default();
        // The blank between them is the only byte below 0x21 that has a place here (SV-W06).
        if text.iter().any(|byte| is_control(*byte) && *byte != b' ') {
            return Err(broken(service, "a capability holds a control character".to_owned()));
        }
        for word in text.split(|byte| *byte == b' ') {
            if let Some(pair) = word.strip_prefix(b"symref=") {
                let Some(colon) = pair.iter().position(|byte| *byte == b':') else { continue };
                let (from, to) = pair.split_at(colon);
                let to = to.get(1..).unwrap_or_default();
                if !is_ref_name(to) {
                    return Err(broken(service, format!("\"{}\" is no symref target", escaped(to))));
                }
                this.symrefs.insert(from.to_vec(), to.to_vec());
            } else if let Some(format) = word.strip_prefix(b"object-format=") {
                this.object_format = Some(format.to_vec());
            }
        }
        Ok(this)
    }
}

fn is_control(byte: u8) -> bool {
    byte < 0x21 || byte == 0x7f
}

fn is_oid(text: &[u8]) -> bool {
    matches!(text.len(), 40 | 64) && text.iter().all(u8::is_ascii_hexdigit)
}

/// Git's rules for the names of refs (`git check-ref-format --allow-onelevel`), control characters aside.
fn is_ref_name(name: &[u8]) -> bool {
    let pairs = || name.windows(2);
    !name.is_empty()
        && name != b"@"
        && !name.ends_with(b".")
        && !pairs().any(|pair| pair == b".." || pair == b"@{")
        && !name.iter().any(|byte| is_control(*byte) || b"~^:?*[\\".contains(byte))
        && name
            .split(|byte| *byte == b'/')
            .all(|part| !part.is_empty() && !part.starts_with(b".") && !part.ends_with(b".lock"))
}

#[cfg(test)]
mod tests;
