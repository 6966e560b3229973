//! Peers that are not ours: rustls as others configure it, and plain bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use peerage_tests::{TestCa, TestIdentity};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::support::name;

/// How a foreign peer differs from ours.
#[derive(Clone)]
pub(crate) struct Foreign {
    pub(crate) groups: Vec<&'static dyn SupportedKxGroup>,
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl Foreign {
    /// Speaks all that rustls does, and no application protocol.
    pub(crate) fn modern() -> Self {
        use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
        Self {
            groups: vec![X25519MLKEM768, X25519, SECP256R1],
            versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
            alpn: Vec::new(),
        }
    }

    pub(crate) fn groups(mut self, groups: &[&'static dyn SupportedKxGroup]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    pub(crate) fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    pub(crate) fn alpn(mut self, protocol: &str) -> Self {
        self.alpn = vec![protocol.as_bytes().to_vec()];
        self
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { kx_groups: self.groups.clone(), ..aws_lc_rs::default_provider() })
    }

    pub(crate) fn client(&self, ca: &TestCa, identity: Option<&TestIdentity>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(store(ca));
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain().to_vec(), identity.key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        config
    }

    pub(crate) fn server(&self, identity: &TestIdentity, clients: Option<&TestCa>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions)
            .unwrap();
        let builder = match clients {
            Some(ca) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(store(ca)), self.provider())
                    .build()
                    .unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(identity.chain().to_vec(), identity.key()).unwrap();
        config.alpn_protocols = self.alpn.clone();
        config
    }
}

fn store(ca: &TestCa) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add(ca.certificate().clone()).unwrap();
    store
}

/// A foreign server for one connection; what it ends with is for the test to look at.
pub(crate) async fn serve<F>(
    config: ServerConfig,
    then: impl FnOnce(io::Result<server::TlsStream<TcpStream>>) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(io).await;
        then(stream).await;
    });
    addr
}

/// A foreign client that dials `dialled` at `addr`.
pub(crate) async fn dial(
    config: ClientConfig,
    dialled: &str,
    addr: SocketAddr,
) -> io::Result<client::TlsStream<TcpStream>> {
    let io = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name(dialled), io).await
}

/// The rustls error inside an I/O error.
pub(crate) fn rustls_error(error: &io::Error) -> &rustls::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).expect("a TLS error")
}
