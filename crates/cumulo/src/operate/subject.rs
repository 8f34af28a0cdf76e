//! Whom a certificate is for: the few fields of X.509 (RFC 5280, section 4.1)
//! that name a user. What is read here was verified by the TLS library before.

/// `commonName` and `organizationName` (RFC 4519), as they are written in DER.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0]`, the version of a certificate.
const VERSION: u8 = 0xa0;
/// Texts whose bytes are UTF-8 or part of it: `UTF8String`, `PrintableString`, `IA5String`.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The names in a certificate's subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The first common name.
    pub common_name: Option<String>,
    /// All organisations.
    pub organizations: Vec<String>,
}

/// Reads the subject of a certificate (DER); `None` when it is none.
pub fn of(certificate: &[u8]) -> Option<Subject> {
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (_, mut names, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let mut subject = Subject::default();
    while !names.is_empty() {
        let (tag, mut set, more) = element(names)?;
        names = more;
        while tag == SET && !set.is_empty() {
            let (_, pair, next) = element(set)?;
            set = next;
            let (kind, identifier, value) = element(pair)?;
            let (encoding, text, _) = element(value)?;
            if kind != OBJECT_IDENTIFIER || !TEXTS.contains(&encoding) {
                continue;
            }
            let text = std::str::from_utf8(text).ok()?.to_owned();
            match identifier {
                COMMON_NAME => {
                    subject.common_name.get_or_insert(text);
                }
                ORGANIZATION => subject.organizations.push(text),
                _ => {}
            }
        }
    }
    Some(subject)
}

/// Tag, content and what follows of the first element.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if length & 0x80 != 0 {
        let digits = length & 0x7f;
        // Longer than any certificate.
        if digits == 0 || digits > 3 {
            return None;
        }
        length = 0;
        for _ in 0..digits {
            let (digit, more) = rest.split_first()?;
            length = length << 8 | usize::from(*digit);
            rest = more;
        }
    }
    (length <= rest.len()).then(|| {
        let (content, more) = rest.split_at(length);
        (*tag, content, more)
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn names_are_read() {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut parameters.distinguished_name;
        name.push(DnType::OrganizationName, "system:masters");
        name.push(DnType::CommonName, "küche");
        let certificate = parameters.self_signed(&key).unwrap();
        let expected = Subject {
            common_name: Some("küche".to_owned()),
            organizations: vec!["system:masters".to_owned()],
        };
        assert_eq!(of(certificate.der()), Some(expected));
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        for length in 0..certificate.der().len() {
            assert_eq!(of(&certificate.der()[..length]), None, "{length}");
        }
        assert_eq!(of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
