//! A certificate authority of this test process, which every authorization server that the tests start trusts: they fetch
//! Client ID Metadata Documents and key sets from tests over TLS only.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::now;

struct Made {
    authority: String,
    certificate: String,
    key: String,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, format!("tests of authorization servers {}", now()));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&ca_key).unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let issuer = Issuer::from_params(&authority, &ca_key);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        Made { authority: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    })
}

/// The authority's certificate, PEM.
pub(crate) fn authority() -> &'static str {
    &made().authority
}

/// A certificate for `localhost` and `127.0.0.1`, and its key, PEM.
pub(crate) fn certificate() -> (&'static str, &'static str) {
    (&made().certificate, &made().key)
}
