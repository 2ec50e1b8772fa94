//! Which addresses are not the public internet.
//!
//! Invariant: an address is public only if nothing below claims it, and an IPv6 address that carries an IPv4 address
//! is what that address is. Pure. Sources: RFC 6890 and the IANA special-purpose registries, RFC 6598 (shared space),
//! RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), and the addresses where clouds serve instance metadata.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why an address is not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Internal {
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// RFC 6598, carrier-grade NAT.
    Shared,
    /// RFC 4193.
    UniqueLocal,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// Where a cloud hands out instance credentials.
    Metadata,
    /// Tunnels whose far end cannot be judged: 6to4, Teredo, local-use NAT64.
    Tunnel,
    /// Multicast and broadcast.
    Multicast,
    /// Unspecified, documentation, benchmarking, reserved.
    Reserved,
}

impl Internal {
    /// Whether a plain "private addresses are fine" opens it.
    pub fn is_private(self) -> bool {
        matches!(self, Internal::Loopback | Internal::Private | Internal::Shared | Internal::UniqueLocal)
    }
}

/// For messages: completes "an address that is ...".
impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Internal::Loopback => "loopback",
            Internal::Private => "private",
            Internal::Shared => "in shared address space",
            Internal::UniqueLocal => "unique local",
            Internal::LinkLocal => "link-local",
            Internal::Metadata => "a cloud metadata service",
            Internal::Tunnel => "a tunnel",
            Internal::Multicast => "multicast",
            Internal::Reserved => "reserved",
        })
    }
}

/// Says why `ip` is not public, or `None` if it is.
pub fn classify(ip: IpAddr) -> Option<Internal> {
    match ip {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(ip) {
            Some(v4) => classify_v4(v4),
            None => classify_v6(v6),
        },
    }
}

/// The IPv4 address that packets to `ip` end at: IPv4-mapped (RFC 4291 section 2.5.5.2) and the well-known NAT64
/// prefix (RFC 6052 section 2.1).
pub fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let s = v6.segments();
    let nat64 = s[0] == 0x64 && s[1] == 0xff9b && s[2..6] == [0; 4];
    v6.to_ipv4_mapped().or_else(|| nat64.then(|| Ipv4Addr::from_bits((u32::from(s[6]) << 16) | u32::from(s[7]))))
}

fn classify_v4(ip: Ipv4Addr) -> Option<Internal> {
    let [a, b, c, d] = ip.octets();
    Some(match (a, b, c, d) {
        // Oracle Cloud's alternative endpoint, Alibaba's, and Azure's host agent, which has a public address.
        (192, 0, 0, 192) | (100, 100, 100, 200) | (168, 63, 129, 16) | (169, 254, 169, 254) => Internal::Metadata,
        (127, ..) => Internal::Loopback,
        (10, ..) | (172, 16..=31, ..) | (192, 168, ..) => Internal::Private,
        (100, 64..=127, ..) => Internal::Shared,
        (169, 254, ..) => Internal::LinkLocal,
        (224..=239, ..) | (255, 255, 255, 255) => Internal::Multicast,
        (0, ..) | (240..=255, ..) => Internal::Reserved,
        (192, 0, 0 | 2, _) | (192, 88, 99, _) | (198, 18 | 19, ..) | (198, 51, 100, _) | (203, 0, 113, _) => {
            Internal::Reserved
        }
        _ => return None,
    })
}

fn classify_v6(ip: Ipv6Addr) -> Option<Internal> {
    // EC2 and Google serve metadata at unique local addresses.
    const METADATA: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    if METADATA.contains(&ip) {
        return Some(Internal::Metadata);
    }
    if ip.is_loopback() {
        return Some(Internal::Loopback);
    }
    let s = ip.segments();
    Some(match s[0] {
        0x64 if s[1] == 0xff9b => Internal::Tunnel,
        0x2002 => Internal::Tunnel,
        0x2001 if s[1] == 0 => Internal::Tunnel,
        0x2001 if s[1] < 0x200 || s[1] == 0xdb8 => Internal::Reserved,
        0x3fff if s[1] < 0x1000 => Internal::Reserved,
        0xfc00..=0xfdff => Internal::UniqueLocal,
        0xfe80..=0xfebf => Internal::LinkLocal,
        0xff00..=0xffff => Internal::Multicast,
        // Everything allocated to the public so far lies in 2000::/3.
        0x2000..=0x3fff => return None,
        _ => Internal::Reserved,
    })
}

/// A range of addresses, for example `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// The text is not a range: `address/prefix` with no bits set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address range such as 10.0.0.0/8")]
pub struct CidrError;

impl Cidr {
    /// Whether `ip` lies in the range. Families never match each other.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Cidr {
    /// Whether it names a single address.
    pub fn is_one_address(self) -> bool {
        self.prefix == if self.base.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (base, prefix) = text.split_once('/').ok_or(CidrError)?;
        let base: IpAddr = base.parse().map_err(|_| CidrError)?;
        let prefix: u8 = prefix.parse().map_err(|_| CidrError)?;
        // A base with bits behind the prefix is a typing error as often as not: which range was meant is unclear.
        let clean = match base {
            IpAddr::V4(v4) => prefix <= 32 && v4.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
            IpAddr::V6(v6) => prefix <= 128 && v6.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        };
        if clean { Ok(Self { base, prefix }) } else { Err(CidrError) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_is_internal_at_both_ends_and_its_neighbours_are_not() {
        use Internal::*;
        let table: &[(&str, &str, Option<Internal>)] = &[
            ("0.0.0.0", "0.255.255.255", Some(Reserved)),
            ("1.0.0.0", "9.255.255.255", None),
            ("10.0.0.0", "10.255.255.255", Some(Private)),
            ("11.0.0.0", "100.63.255.255", None),
            ("100.64.0.0", "100.127.255.255", Some(Shared)),
            ("100.128.0.0", "126.255.255.255", None),
            ("127.0.0.0", "127.255.255.255", Some(Loopback)),
            ("128.0.0.0", "169.253.255.255", None),
            ("169.254.0.0", "169.254.255.255", Some(LinkLocal)),
            ("169.255.0.0", "172.15.255.255", None),
            ("172.16.0.0", "172.31.255.255", Some(Private)),
            ("172.32.0.0", "191.255.255.255", None),
            ("192.0.0.0", "192.0.0.255", Some(Reserved)),
            ("192.0.1.0", "192.0.1.255", None),
            ("192.0.2.0", "192.0.2.255", Some(Reserved)),
            ("192.88.99.0", "192.88.99.255", Some(Reserved)),
            ("192.168.0.0", "192.168.255.255", Some(Private)),
            ("192.169.0.0", "198.17.255.255", None),
            ("198.18.0.0", "198.19.255.255", Some(Reserved)),
            ("198.51.100.0", "198.51.100.255", Some(Reserved)),
            ("203.0.113.0", "203.0.113.255", Some(Reserved)),
            ("203.0.114.0", "223.255.255.255", None),
            ("224.0.0.0", "239.255.255.255", Some(Multicast)),
            ("240.0.0.0", "255.255.255.254", Some(Reserved)),
            ("255.255.255.255", "255.255.255.255", Some(Multicast)),
            ("::", "::", Some(Reserved)),
            ("::1", "::1", Some(Loopback)),
            ("::2", "::7f00:1", Some(Reserved)),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:8.8.8.8", "::ffff:1.1.1.1", None),
            ("64:ff9b::7f00:1", "64:ff9b::7fff:ffff", Some(Loopback)),
            ("64:ff9b::a9fe:a9fe", "64:ff9b::a9fe:a9fe", Some(Metadata)),
            ("64:ff9b::808:808", "64:ff9b::101:101", None),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Some(Tunnel)),
            ("64:ff9b::1:808:808", "64:ff9b::1:808:808", Some(Tunnel)),
            ("100::", "100::ffff", Some(Reserved)),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", Some(Tunnel)),
            ("2001:1::", "2001:1ff:ffff::", Some(Reserved)),
            ("2001:200::", "2001:db7:ffff::", None),
            ("2001:db8::", "2001:db8:ffff::", Some(Reserved)),
            ("2002:7f00:1::", "2002:808:808::", Some(Tunnel)),
            ("2606:4700::1111", "2a00::", None),
            ("3fff::", "3fff:fff:ffff::", Some(Reserved)),
            ("4000::", "fbff::", Some(Reserved)),
            ("fc00::", "fdff:ffff::", Some(UniqueLocal)),
            ("fd00:ec2::254", "fd20:ce::254", Some(Metadata)),
            ("fe80::", "febf:ffff::", Some(LinkLocal)),
            ("fec0::", "feff::", Some(Reserved)),
            ("ff00::", "ffff:ffff::", Some(Multicast)),
            ("169.254.169.254", "168.63.129.16", Some(Metadata)),
        ];
        for (first, last, expected) in table {
            assert_eq!(classify(first.parse().unwrap()), *expected, "{first}");
            assert_eq!(classify(last.parse().unwrap()), *expected, "{last}");
        }
    }

    #[test]
    fn ranges_contain_what_they_say() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.0.0.1".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let one: Cidr = "10.0.0.1/32".parse().unwrap();
        assert!(one.contains("10.0.0.1".parse().unwrap()) && !one.contains("10.0.0.2".parse().unwrap()));
        let v6: Cidr = "fd00::/8".parse().unwrap();
        assert!(v6.contains("fdff::1".parse().unwrap()) && !v6.contains("fe00::1".parse().unwrap()));
        assert_eq!(v6.to_string(), "fd00::/8");
    }

    proptest::proptest! {
        #[test]
        fn an_embedded_address_is_judged_as_itself(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            let nat64 = IpAddr::V6(Ipv6Addr::from_bits((0x64_ff9b_u128 << 96) | u128::from(bits)));
            proptest::prop_assert_eq!(classify(mapped), classify(IpAddr::V4(v4)));
            proptest::prop_assert_eq!(classify(nat64), classify(IpAddr::V4(v4)));
        }

        #[test]
        fn a_range_contains_what_agrees_with_it_bit_by_bit(base: u128, ip: u128, prefix in 0_u8..=128) {
            let mask = (0..u32::from(prefix)).fold(0_u128, |mask, i| mask | (1 << (127 - i)));
            let base = Ipv6Addr::from_bits(base & mask);
            // Half of the cases inside: chance alone would find none.
            for ip in [ip, (ip & !mask) | base.to_bits()] {
                let range: Cidr = format!("{base}/{prefix}").parse().unwrap();
                let agrees = (0..u32::from(prefix)).all(|i| (ip ^ base.to_bits()) >> (127 - i) & 1 == 0);
                proptest::prop_assert_eq!(range.contains(IpAddr::V6(Ipv6Addr::from_bits(ip))), agrees);
            }
        }
    }
}
