//! What of an X.509 certificate matters to its owner: until when it holds, and whether those who call would believe it.
//!
//! Invariant: what cannot be read is no certificate; and whether one is believed is asked of the same library that TLS
//! clients use, so there is no second opinion.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

/// From when to when a certificate holds, in seconds since 1970, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub not_before: i64,
    /// Until then.
    pub not_after: i64,
}

impl Validity {
    /// Whether it holds at this time.
    pub fn holds(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Reads the validity of a certificate (RFC 5280 section 4.1). `None`: it is none, or is dated strangely.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut signed, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(signed, VERSION) {
        signed = rest;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, signed) = element(signed, tag)?;
    }
    let (dates, _) = element(signed, SEQUENCE)?;
    let (not_before, dates) = time(dates)?;
    let (not_after, _) = time(dates)?;
    Some(Validity { not_before, not_after })
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The content of a DER element with this tag, and what follows it (X.690 section 8.1).
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        let (digits, after) = rest.split_at_checked(length - 0x80).filter(|(digits, _)| digits.len() <= 4)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    (*found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the only forms that RFC 5280 section 4.1.2.5 allows.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century) = match element(bytes, UTC_TIME) {
        // Section 4.1.2.5.1: two digits of 50 and more are of the last century.
        Some((text, rest)) => (text, rest, if *text.first()? >= b'5' { "19" } else { "20" }),
        None => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, ""))?,
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some((time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second(), rest))
}

/// Every certificate of a PEM text, in order. `None`: one cannot be read, or there is none.
pub fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

/// Whether a client that believes these authorities takes a server with this chain for `name` (a DNS name or an address) at
/// this time. An error says why not.
///
/// # Errors
/// If it would refuse it.
pub fn believed(
    chain: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
    name: &str,
    now: i64,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let (leaf, between) = chain.split_first().ok_or("there is no certificate")?;
    let name = ServerName::try_from(name).map_err(|_| format!("{name} is no name of a server"))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    verifier.verify_server_cert(leaf, between, &name, &[], now).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: i32, to: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["webhook.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 3, 4), date_time_ymd(to, 5, 6));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn at(text: &str) -> i64 {
        format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().unwrap().as_second()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        // From 2050 on, times have four digits of the year.
        for (from, to) in [(2026, 2027), (2049, 2050), (1975, 2051)] {
            let validity = validity(&certificate(from, to)).unwrap();
            assert_eq!(validity.not_before, at(&format!("{from}-03-04")), "{from}");
            assert_eq!(validity.not_after, at(&format!("{to}-05-06")), "{to}");
            assert!(validity.holds(validity.not_after) && !validity.holds(validity.not_after + 1));
            assert!(validity.holds(validity.not_before) && !validity.holds(validity.not_before - 1));
        }
    }

    #[test]
    fn what_is_cut_off_or_garbled_is_no_certificate() {
        let whole = certificate(2026, 2027);
        // The dates are in the first half of it; and nothing of this may panic.
        for length in 0..whole.len() {
            std::hint::black_box(validity(&whole[..length]));
        }
        assert!(validity(&whole[..60]).is_none() && validity(b"").is_none() && validity(b"hello").is_none());
        for place in 0..whole.len() {
            let mut garbled = whole.to_vec();
            garbled[place] = 0xff;
            std::hint::black_box(validity(&garbled));
        }
    }
}
