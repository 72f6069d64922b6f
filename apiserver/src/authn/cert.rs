//! Client certificates: CN is the user, each O a group; the chain must end at the cluster's authority.
//!
//! The TLS layer takes any certificate whose key the client holds ([`Authority::tls_verifier`]) so that a
//! stranger reads a Status 401 instead of a broken handshake; [`Authority::identify`] then decides.

use super::AUTHENTICATED;
use crate::server::Identity;
use pintle_base::Wall;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// The certificate authority of clients.
#[derive(Clone)]
pub struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    /// From the DER of its certificates.
    ///
    /// # Errors
    /// The text says which certificate is no authority's and why.
    pub fn new(roots: &[Vec<u8>]) -> Result<Authority, String> {
        let mut store = RootCertStore::empty();
        for (i, root) in roots.iter().enumerate() {
            store
                .add(CertificateDer::from(root.clone()))
                .map_err(|e| format!("certificate {} is not usable as an authority: {e}", i + 1))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Authority { verifier })
    }

    /// For the TLS layer: asks for a certificate, and proves that the client holds its key, no more.
    pub fn tls_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(AnyCertificate { inner: self.verifier.clone() })
    }

    /// Who a certificate chain (the client's own first, DER) speaks for.
    ///
    /// # Errors
    /// The text says why it is not accepted.
    pub fn identify(&self, chain: &[Vec<u8>], now: Wall) -> Result<Identity, String> {
        let Some((own, others)) = chain.split_first() else {
            return Err("no certificate".into());
        };
        let end = CertificateDer::from(own.as_slice());
        let intermediates: Vec<CertificateDer<'_>> =
            others.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
        let seconds = u64::try_from(now.unix_s()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verifier
            .verify_client_cert(&end, &intermediates, at)
            .map_err(|e| format!("client certificate refused: {e}"))?;
        identity_of(own)
    }
}

fn identity_of(der: &[u8]) -> Result<Identity, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| format!("client certificate cannot be parsed: {e}"))?;
    let subject = cert.subject();
    let user = subject.iter_common_name().next().and_then(|a| a.as_str().ok()).unwrap_or_default();
    if user.is_empty() {
        return Err("client certificate has no common name".into());
    }
    let groups = subject.iter_organization().filter_map(|a| a.as_str().ok()).map(String::from);
    let hash = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Identity {
        user: user.into(),
        uid: String::new(),
        groups: groups.chain([AUTHENTICATED.to_owned()]).collect(),
        extra: vec![(
            "authentication.kubernetes.io/credential-id".into(),
            vec![format!("X509SHA256={hex}")],
        )],
    })
}

#[derive(Debug)]
struct AnyCertificate {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair,
    };

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca")
    }

    fn client(ca: &CertifiedIssuer<'static, KeyPair>, user: &str, group: &str) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().expect("key");
        params.signed_by(&key, ca).expect("signed").der().to_vec()
    }

    #[test]
    fn common_name_and_organization_become_user_and_groups() {
        let ca = authority("ca");
        let authority_of_clients = Authority::new(&[ca.der().to_vec()]).expect("authority");
        let now = Wall::from_unix_s(1_795_424_482);
        let cert = client(&ca, "alice", "devs");
        let who = authority_of_clients.identify(&[cert], now).expect("accepted");
        assert_eq!(who.user, "alice");
        assert_eq!(who.groups, ["devs", AUTHENTICATED]);
        assert!(who.extra[0].1[0].starts_with("X509SHA256="));
    }

    #[test]
    fn strangers_and_nonsense_are_refused() {
        let ca = authority("ca");
        let ours = Authority::new(&[ca.der().to_vec()]).expect("authority");
        let now = Wall::from_unix_s(1_795_424_482);
        let stranger = client(&authority("other"), "mallory", "system:masters");
        assert!(ours.identify(&[stranger], now).is_err());
        assert!(ours.identify(&[vec![1, 2, 3]], now).is_err());
        assert!(ours.identify(&[], now).is_err());
        let before = Wall::from_unix_s(0);
        assert!(ours.identify(&[client(&ca, "a", "b")], before).is_err(), "not valid yet");
    }
}
