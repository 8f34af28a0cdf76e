//! JSON Web Tokens with ECDSA on P-256 and SHA-256 (`ES256`, RFC 7518): signing,
//! checking, and the public key as a JSON Web Key (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::Digest;

/// Bytes of a token at most: a longer one is not looked at.
const LONGEST: usize = 16 << 10;
/// Bytes of a coordinate on P-256.
const COORDINATE: usize = 32;

/// Why there is no key, or no signature.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no key.
    #[error("the key is no PKCS#8 document of a P-256 key: {0}")]
    Rejected(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Name and uid of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// What a token says. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// `iat`.
    pub issued: i64,
    /// `nbf`.
    pub not_before: i64,
    /// `exp`.
    pub expires: i64,
    /// `jti`.
    pub id: String,
    /// Namespace of account and pod.
    pub namespace: String,
    /// The service account.
    pub account: Reference,
    /// The pod that the token is bound to.
    pub pod: Option<Reference>,
}

impl Claims {
    fn to_value(&self) -> Value {
        let reference = |r: &Reference| json!({"name": r.name, "uid": r.uid});
        let mut own = json!({"namespace": self.namespace});
        if let Some(pod) = &self.pod {
            own["pod"] = reference(pod);
        }
        own["serviceaccount"] = reference(&self.account);
        json!({
            "aud": self.audiences,
            "exp": self.expires,
            "iat": self.issued,
            "iss": self.issuer,
            "jti": self.id,
            "kubernetes.io": own,
            "nbf": self.not_before,
            "sub": self.subject,
        })
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let reference = |value: &Value| {
            Some(Reference {
                name: text(&value["name"])?,
                uid: text(&value["uid"])?,
            })
        };
        let own = &value["kubernetes.io"];
        Some(Self {
            issuer: text(&value["iss"])?,
            subject: text(&value["sub"])?,
            audiences: value["aud"]
                .as_array()?
                .iter()
                .map(text)
                .collect::<Option<_>>()?,
            issued: value["iat"].as_i64()?,
            not_before: value["nbf"].as_i64()?,
            expires: value["exp"].as_i64()?,
            id: text(&value["jti"])?,
            namespace: text(&own["namespace"])?,
            account: reference(&own["serviceaccount"])?,
            pod: match &own["pod"] {
                Value::Null => None,
                pod => Some(reference(pod)?),
            },
        })
    }
}

/// Whether a token has the form of a JWT: three parts.
pub fn is_jwt(token: &str) -> bool {
    token.len() <= LONGEST && token.split('.').count() == 3
}

/// The key that signs.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.id)
    }
}

impl TokenKey {
    /// The key of a PKCS#8 document (DER).
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random)
            .map_err(|error| KeyError::Rejected(error.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair, random, id })
    }

    /// A new key, as a PKCS#8 document.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| KeyError::Random)
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims.to_value()));
        let signature = self
            .pair
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| KeyError::Random)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key has signed, whether they hold or not.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let value = |text: &str| serde_json::from_slice::<Value>(&decode(text)?).ok();
        let header = value(header)?;
        if header["alg"] != "ES256" || header["kid"] != self.id.as_str() {
            return None;
        }
        let public = self.pair.public_key().as_ref();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
            .verify(signed.as_bytes(), &decode(signature)?)
            .ok()?;
        Claims::read(&value(claims)?)
    }

    /// The public key as a JSON Web Key.
    pub(crate) fn public(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let coordinates = point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(COORDINATE.min(coordinates.len()));
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::from_pkcs8(&TokenKey::generate().expect("a document")).expect("a key")
    }

    fn claims() -> Claims {
        let reference = |name: &str| Reference {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
        };
        Claims {
            issuer: "i".into(),
            subject: "s".into(),
            audiences: vec!["a".into(), "b".into()],
            issued: 1,
            not_before: 2,
            expires: 3,
            id: "j".into(),
            namespace: "n".into(),
            account: reference("robot"),
            pod: Some(reference("pod")),
        }
    }

    #[test]
    fn what_is_signed_is_read() {
        let key = key();
        let token = key.sign(&claims()).expect("a token");
        assert!(is_jwt(&token));
        assert_eq!(key.verify(&token), Some(claims()));
    }

    #[test]
    fn nothing_else_is_read() {
        let key = key();
        let token = key.sign(&claims()).expect("a token");
        assert_eq!(
            super::tests::key().verify(&token),
            None,
            "signed by another key"
        );
        // Whatever byte is changed, the token is no more.
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("text");
            assert_eq!(key.verify(&changed), None, "changed at {at}");
        }
        // An algorithm that signs nothing.
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let body = token.split('.').nth(1).expect("claims");
        assert_eq!(key.verify(&format!("{none}.{body}.")), None);
        for text in ["", ".", "..", "a.b.c", "é.é.é"] {
            assert_eq!(key.verify(text), None);
        }
    }
}
