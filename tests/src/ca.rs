//! Certificates with every defect a test may want, made when they are needed; never files in the tree.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate authority: a root, or an intermediate below one.
#[derive(Clone, Debug)]
pub struct TestCa {
    certificate: CertificateDer<'static>,
    params: CertificateParams,
    key: Arc<KeyPair>,
    /// The certificates from this one up to, and without, the root; a leaf's chain ends with them.
    path: Vec<CertificateDer<'static>>,
}

impl TestCa {
    /// A new root.
    pub fn new() -> Self {
        Self::named("Peerage Test CA")
    }

    /// A new root with this common name. Two roots of one name have different keys (SV-P06).
    pub fn named(common_name: &str) -> Self {
        let (params, key) = (ca_params(common_name), new_key());
        let certificate = params.self_signed(&*key).expect("the parameters are complete").der().clone();
        Self { certificate, params, key, path: Vec::new() }
    }

    /// An intermediate CA below this one.
    pub fn intermediate(&self, common_name: &str) -> Self {
        let (params, key) = (ca_params(common_name), new_key());
        let certificate = self.sign(&params, &key);
        let path = [std::slice::from_ref(&certificate), &self.path].concat();
        Self { certificate, params, key, path }
    }

    /// This CA's name and key under another issuer: one way through a cross-signed maze.
    pub fn cross_signed_by(&self, issuer: &Self) -> CertificateDer<'static> {
        issuer.sign(&self.params, &self.key)
    }

    /// The certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        pem_of_certificates(std::slice::from_ref(&self.certificate))
    }

    /// Writes the certificate to `ca.pem` in `directory`.
    pub fn write(&self, directory: &Path) -> PathBuf {
        write(directory, "ca.pem", &self.pem())
    }

    /// A leaf to be described further.
    pub fn leaf(&self) -> LeafBuilder<'_> {
        LeafBuilder::new(Some(self))
    }

    /// A good server certificate for these names; an IP address becomes an IP name.
    pub fn server(&self, names: &[&str]) -> TestIdentity {
        self.leaf().names(names).usage(Usage::Server).issue()
    }

    /// A good client certificate for these names.
    pub fn client(&self, names: &[&str]) -> TestIdentity {
        self.leaf().names(names).usage(Usage::Client).issue()
    }

    /// A good certificate for both sides, as nodes of a mesh have.
    pub fn node(&self, names: &[&str]) -> TestIdentity {
        self.leaf().names(names).usage(Usage::Both).issue()
    }

    /// A revocation list of this CA in DER: these identities, in force for a day.
    pub fn revocation_list(&self, revoked: &[&TestIdentity]) -> Vec<u8> {
        self.revocation_list_until(revoked, SystemTime::now() + DAY)
    }

    /// A revocation list of this CA whose next one was or is due at `next_update`.
    pub fn revocation_list_until(&self, revoked: &[&TestIdentity], next_update: SystemTime) -> Vec<u8> {
        let issued = next_update - 2 * DAY;
        let params = CertificateRevocationListParams {
            this_update: issued.into(),
            next_update: next_update.into(),
            crl_number: serial(),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|identity| RevokedCertParams {
                    serial_number: identity.serial.clone(),
                    revocation_time: issued.into(),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).expect("the parameters are complete").der().to_vec()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &*self.key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer()).expect("the parameters are complete").der().clone()
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

/// What a leaf may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests match on all of them")]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Both.
    Both,
    /// Neither: signing code.
    Other,
    /// The certificate does not say.
    Unsaid,
}

/// A leaf certificate, good unless told otherwise: valid from yesterday until tomorrow, for both sides.
#[derive(Debug)]
#[must_use = "nothing is issued until `issue`"]
pub struct LeafBuilder<'a> {
    /// `None`: the leaf signs itself.
    issuer: Option<&'a TestCa>,
    params: CertificateParams,
    usage: Usage,
}

impl<'a> LeafBuilder<'a> {
    fn new(issuer: Option<&'a TestCa>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("leaf");
        params.serial_number = Some(serial());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = issuer.is_some();
        valid_from_to(&mut params, SystemTime::now() - DAY, SystemTime::now() + DAY);
        Self { issuer, params, usage: Usage::Both }
    }

    /// DNS names, and IP addresses where a name parses as one.
    pub fn names(mut self, names: &[&str]) -> Self {
        for name in names {
            self = match name.parse() {
                Ok(address) => self.ip(address),
                Err(_) => self.dns(name),
            };
        }
        self
    }

    /// A DNS name, even if it looks like an IP address (SV-P16) or is no valid name.
    pub fn dns(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().expect("DNS names are ASCII")));
        self
    }

    /// An IP name.
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.params.subject_alt_names.push(SanType::IpAddress(address));
        self
    }

    /// A URI name.
    pub fn uri(mut self, uri: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().expect("URIs are ASCII")));
        self
    }

    /// The subject's common name (SV-P07).
    pub fn common_name(mut self, name: &str) -> Self {
        self.params.distinguished_name = common_name(name);
        self
    }

    /// What it may be used for (SV-P09).
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Expired a day ago (SV-P02).
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.valid(now - 3 * DAY, now - DAY)
    }

    /// Valid from tomorrow (SV-P03).
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.valid(now + DAY, now + 3 * DAY)
    }

    /// Valid in this time.
    pub fn valid(mut self, from: SystemTime, to: SystemTime) -> Self {
        valid_from_to(&mut self.params, from, to);
        self
    }

    /// Says of itself that it is a CA.
    pub fn claims_to_be_a_ca(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Makes the key and the certificate.
    pub fn issue(mut self) -> TestIdentity {
        use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
        self.params.extended_key_usages = match self.usage {
            Usage::Server => vec![ServerAuth],
            Usage::Client => vec![ClientAuth],
            Usage::Both => vec![ServerAuth, ClientAuth],
            Usage::Other => vec![CodeSigning],
            Usage::Unsaid => vec![],
        };
        let key = new_key();
        let mut chain = match self.issuer {
            Some(ca) => vec![ca.sign(&self.params, &key)],
            None => vec![self.params.self_signed(&*key).expect("the parameters are complete").der().clone()],
        };
        chain.extend(self.issuer.into_iter().flat_map(|ca| ca.path.clone()));
        let serial = self.params.serial_number.clone().expect("set in `new`");
        TestIdentity { chain, key, serial, params: self.params }
    }
}

/// A certificate chain, leaf first and without the root, and the leaf's key.
#[derive(Clone, Debug)]
pub struct TestIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyPair>,
    serial: SerialNumber,
    params: CertificateParams,
}

impl TestIdentity {
    /// Signed by itself (SV-P05); build on with [`LeafBuilder`].
    pub fn self_signed() -> LeafBuilder<'static> {
        LeafBuilder::new(None)
    }

    /// The chain in DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a chain begins with its leaf")
    }

    /// The private key in DER (PKCS #8).
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem_of_certificates(&self.chain)
    }

    /// The private key in PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The same leaf and key with another chain behind it.
    pub fn with_chain(mut self, issuers: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.chain.truncate(1);
        self.chain.extend(issuers);
        self
    }

    /// Uses this leaf as if it were a CA (SV-P08).
    pub fn misused_as_ca(&self) -> TestCa {
        TestCa {
            certificate: self.certificate().clone(),
            params: self.params.clone(),
            key: self.key.clone(),
            path: self.chain.clone(),
        }
    }

    /// Writes `<name>.pem` and `<name>.key` to `directory`; gives back both paths.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        (
            write(directory, &format!("{name}.pem"), &self.chain_pem()),
            write(directory, &format!("{name}.key"), &self.key_pem()),
        )
    }
}

/// Certificates in PEM, one after the other.
pub fn pem_of_certificates(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64(certificate);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS.get(bits >> (18 - 6 * place) & 0x3f).copied().unwrap_or(b'=');
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_from_to(&mut params, SystemTime::now() - 30 * DAY, SystemTime::now() + 30 * DAY);
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn valid_from_to(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    params.not_before = from.into();
    params.not_after = to.into();
}

fn new_key() -> Arc<KeyPair> {
    Arc::new(KeyPair::generate().expect("the system gives random bytes"))
}

fn serial() -> SerialNumber {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("a test directory is writable");
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{ServerName, UnixTime};
    use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

    fn verify(root: &TestCa, identity: &TestIdentity, usage: KeyUsage, name: &str) -> Result<(), Error> {
        let anchors = [anchor_from_trusted_cert(root.certificate()).unwrap()];
        let (leaf, path) = identity.chain().split_first().unwrap();
        let leaf = EndEntityCert::try_from(leaf).unwrap();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, path, UnixTime::now(), usage, None, None)?;
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
    }

    #[test]
    fn good_certificates_are_good_and_each_defect_is_the_one_named() {
        let ca = TestCa::new();
        let server = KeyUsage::server_auth;
        let leaf = || ca.leaf().names(&["n1", "127.0.0.1"]);
        assert_eq!(verify(&ca, &leaf().issue(), server(), "n1"), Ok(()));
        assert_eq!(verify(&ca, &leaf().issue(), KeyUsage::client_auth(), "127.0.0.1"), Ok(()));
        let below = ca.intermediate("a").intermediate("b").server(&["n1"]);
        assert_eq!(below.chain().len(), 3, "leaf, b, a");
        assert_eq!(verify(&ca, &below, server(), "n1"), Ok(()));

        let error = |identity: TestIdentity| verify(&ca, &identity, server(), "n1").unwrap_err();
        assert!(matches!(error(leaf().expired().issue()), Error::CertExpired { .. }));
        assert!(matches!(error(leaf().not_yet_valid().issue()), Error::CertNotValidYet { .. }));
        assert!(matches!(error(ca.client(&["n1"])), Error::RequiredEkuNotFoundContext(_)));
        assert!(matches!(error(ca.server(&["n2"])), Error::CertNotValidForName(_)));
        assert!(matches!(error(ca.leaf().common_name("n1").issue()), Error::CertNotValidForName(_)));
        assert_eq!(error(TestIdentity::self_signed().names(&["n1"]).issue()), Error::UnknownIssuer);
        assert_eq!(error(TestCa::new().server(&["n1"])), Error::InvalidSignatureForPublicKey, "same name");
        assert_eq!(error(TestCa::named("Other").server(&["n1"])), Error::UnknownIssuer);
        let by_a_leaf = leaf().issue().misused_as_ca().server(&["n1"]);
        assert_eq!(error(by_a_leaf), Error::EndEntityUsedAsCa);
    }

    #[test]
    fn pem_is_what_other_tools_write() {
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc\xff\xfe"), "YWJj//4=");
        let ca = TestCa::new();
        let read: Vec<_> = rustls_pki_types::pem::PemObject::pem_slice_iter(ca.pem().as_bytes())
            .collect::<Result<Vec<CertificateDer<'_>>, _>>()
            .unwrap();
        assert_eq!(read, [ca.certificate().clone()]);
    }
}
