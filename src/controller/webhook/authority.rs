//! An authority and what it signs: keys are made here and nowhere else.
//!
//! Invariant: a key is in no output, and an authority signs certificates of servers only.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::next::{AUTHORITY, LEAF, SKEW};
use crate::process::certificate::{self, Validity};

/// A certificate authority of the webhook, with its key if that is there.
pub struct Authority {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The same, as callers are told of it.
    pub pem: String,
    /// When it holds.
    pub validity: Validity,
    key: Option<KeyPair>,
}

/// A certificate of the webhook, and its key.
pub struct Pair {
    /// In PEM.
    pub certificate: String,
    /// In PEM.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If the crypto library makes none.
    pub fn make(now: i64) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(&key);
        let validity = Validity { not_before: now - SKEW, not_after: now + AUTHORITY };
        hold(&mut params, validity);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.der().clone(), pem: certificate.pem(), validity, key: Some(key) })
    }

    /// One that was made before; without a key if that is not there or another's. `None`: it is no certificate.
    pub fn read(pem: &str, key: Option<&str>) -> Option<Self> {
        let [certificate] = <[_; 1]>::try_from(certificate::certificates(pem.as_bytes())?).ok()?;
        let validity = certificate::validity(&certificate)?;
        let key = key.filter(|key| belong_together(std::slice::from_ref(&certificate), key));
        Some(Self { pem: pem.to_owned(), key: key.and_then(|key| KeyPair::from_pem(key).ok()), certificate, validity })
    }

    /// Whether its key is there.
    pub fn signs(&self) -> bool {
        self.key.is_some()
    }

    /// Its key in PEM, to be kept.
    pub fn key_pem(&self) -> Option<String> {
        self.key.as_ref().map(KeyPair::serialize_pem)
    }

    /// Takes its key away.
    pub fn retire(&mut self) {
        self.key = None;
    }

    /// Signs a new certificate for a server of these names. `None`: it has no key.
    ///
    /// # Errors
    /// If the crypto library makes none.
    pub fn issue(&self, names: &[String], now: i64) -> Result<Option<Pair>, rcgen::Error> {
        let Some(signing) = &self.key else { return Ok(None) };
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name.push(DnType::CommonName, "portcullis-webhook");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        hold(&mut leaf, Validity { not_before: now - SKEW, not_after: now + LEAF });
        let certificate = leaf.signed_by(&key, &Issuer::from_params(&params(signing), signing))?;
        Ok(Some(Pair { certificate: certificate.pem(), key: key.serialize_pem() }))
    }
}

/// Whether a key in PEM is that of the first of these certificates.
pub fn belong_together(chain: &[CertificateDer<'static>], key: &str) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else { return false };
    CertifiedKey::from_der(chain.to_vec(), key, &provider).is_ok()
}

/// All of an authority that follows from its key. Each has a name of its own, so that clients who know two of them find the
/// one that signed.
fn params(key: &KeyPair) -> CertificateParams {
    let hash = digest::digest(&digest::SHA256, key.der_bytes());
    let name: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("portcullis-webhook-ca {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn hold(params: &mut CertificateParams, validity: Validity) {
    let date = |at: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at).unwrap_or_default());
    (params.not_before, params.not_after) = (date(validity.not_before), date(validity.not_after));
}
