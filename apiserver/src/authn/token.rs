//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ECDSA P-256 (ES256), with the claims of
//! Kubernetes' bound tokens (KEP-1205).
//!
//! [`Keys`] signs for TokenRequest and verifies for bearer authentication and TokenReview. It checks signature,
//! issuer and times; that the service account and the bound pod still exist is for whoever has the cache.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pintle_base::Wall;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use std::fmt;

/// `iss` of every token that this cluster signs.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A token longer than this is refused before it is looked at.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Clocks of client and server may differ by so much when `nbf` is checked.
const LEEWAY_S: i64 = 60;

/// A name and the uid that it had when the token was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Name of the object.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: Reference,
    /// The pod that it is bound to.
    pub pod: Option<Reference>,
    /// The secret that it is bound to.
    pub secret: Option<Reference>,
    /// The node of the pod, or the node that it is bound to.
    pub node: Option<Reference>,
    /// Who may accept it.
    pub audiences: Vec<String>,
    /// When it was signed, seconds since 1970.
    pub issued_s: i64,
    /// When it ends, seconds since 1970.
    pub expires_s: i64,
    /// Its id (`jti`), a UUID.
    pub id: String,
}

impl Claims {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account.name)
    }

    /// The groups of a service account, without `system:authenticated`.
    pub fn groups(&self) -> Vec<String> {
        vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{}", self.namespace)]
    }

    /// UserInfo's extra of a bound token.
    pub fn extra(&self) -> Vec<(String, Vec<String>)> {
        let mut extra = vec![(
            "authentication.kubernetes.io/credential-id".into(),
            vec![format!("JTI={}", self.id)],
        )];
        let mut add = |what: &str, r: &Option<Reference>| {
            if let Some(r) = r {
                extra.push((
                    format!("authentication.kubernetes.io/{what}-name"),
                    vec![r.name.clone()],
                ));
                if !r.uid.is_empty() {
                    extra.push((
                        format!("authentication.kubernetes.io/{what}-uid"),
                        vec![r.uid.clone()],
                    ));
                }
            }
        };
        add("node", &self.node);
        add("pod", &self.pod);
        extra
    }

    fn to_json(&self) -> Value {
        let mut bound = json!({
            "namespace": self.namespace,
            "serviceaccount": {"name": self.service_account.name, "uid": self.service_account.uid},
        });
        let mut put = |key: &str, r: &Option<Reference>| {
            if let Some(r) = r {
                bound[key] = json!({"name": r.name, "uid": r.uid});
            }
        };
        put("node", &self.node);
        put("pod", &self.pod);
        put("secret", &self.secret);
        json!({
            "aud": self.audiences, "exp": self.expires_s, "iat": self.issued_s, "iss": ISSUER,
            "jti": self.id, "kubernetes.io": bound, "nbf": self.issued_s, "sub": self.user(),
        })
    }

    fn from_json(v: &Value) -> Option<Claims> {
        let bound = v.get("kubernetes.io")?;
        let reference = |key: &str| {
            let r = bound.get(key)?;
            Some(Reference {
                name: r.get("name")?.as_str()?.into(),
                uid: r.get("uid").and_then(Value::as_str).unwrap_or("").into(),
            })
        };
        let audiences = match v.get("aud")? {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().filter_map(Value::as_str).map(String::from).collect(),
            _ => return None,
        };
        Some(Claims {
            namespace: bound.get("namespace")?.as_str()?.into(),
            service_account: reference("serviceaccount")?,
            pod: reference("pod"),
            secret: reference("secret"),
            node: reference("node"),
            audiences,
            issued_s: v.get("iat")?.as_i64()?,
            expires_s: v.get("exp")?.as_i64()?,
            id: v.get("jti").and_then(Value::as_str).unwrap_or("").into(),
        })
    }
}

/// Why a token (or a key) is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The private key is not a PKCS#8 ECDSA P-256 key.
    Key(String),
    /// Not a token of this kind at all: another authenticator may know it.
    NotOurs(&'static str),
    /// Ours, but not valid.
    Refused(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Key(why) => {
                write!(f, "service-account key is not a PKCS#8 ECDSA P-256 private key: {why}")
            }
            Error::NotOurs(why) => write!(f, "not a token of this cluster: {why}"),
            Error::Refused(why) => write!(f, "service-account token refused: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The key pair of the cluster's service-account tokens.
pub struct Keys {
    pair: EcdsaKeyPair,
    kid: String,
    random: SystemRandom,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Keys {
    /// From the DER of a PKCS#8 private key (the inside of `BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// [`Error::Key`] when it is something else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Keys, Error> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| Error::Key(e.to_string()))?;
        let kid = key_id(pair.public_key().as_ref());
        Ok(Keys { pair, kid, random })
    }

    /// Id of the key, as in the header of tokens and in the key set.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs a token. `None` only when the system has no randomness.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_json().to_string()));
        let signature = self.pair.sign(&self.random, token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Some(token)
    }

    /// Checks signature, issuer and times. The audience is for the caller to check.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when it is not a JWT of this issuer, [`Error::Refused`] when it is and is not valid.
    pub fn verify(&self, token: &str, now: Wall) -> Result<Claims, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::NotOurs("too long"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::NotOurs("not three parts"));
        };
        let parse = |part: &str| -> Option<Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        let header = parse(header).ok_or(Error::NotOurs("header is not base64url of JSON"))?;
        let body_json = parse(body).ok_or(Error::NotOurs("claims are not base64url of JSON"))?;
        if body_json.get("iss").and_then(Value::as_str) != Some(ISSUER) {
            return Err(Error::NotOurs("another issuer"));
        }
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(Error::Refused("algorithm is not ES256"));
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Error::Refused("signature is not base64url"))?;
        let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Error::Refused("signature does not match"))?;
        let claims =
            Claims::from_json(&body_json).ok_or(Error::Refused("claims are incomplete"))?;
        if now.unix_s() >= claims.expires_s {
            return Err(Error::Refused("expired"));
        }
        let not_before = body_json.get("nbf").and_then(Value::as_i64).unwrap_or(claims.issued_s);
        if not_before > now.unix_s() + LEEWAY_S {
            return Err(Error::Refused("not valid yet"));
        }
        Ok(claims)
    }

    /// The key set of `/openid/v1/jwks` (RFC 7517).
    pub fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // An uncompressed point: 04, 32 bytes x, 32 bytes y.
        let (x, y) = (point.get(1..33).unwrap_or_default(), point.get(33..65).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

// As Kubernetes: base64url of the SHA-256 of the SubjectPublicKeyInfo.
fn key_id(point: &[u8]) -> String {
    const SPKI_P256: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let spki = [&SPKI_P256[..], point].concat();
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &spki))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("a key");
        Keys::from_pkcs8(der.as_ref()).expect("a key of ours")
    }

    fn other() -> Keys {
        keys()
    }

    fn claims() -> Claims {
        Claims {
            namespace: "ns".into(),
            service_account: Reference { name: "sa".into(), uid: "u1".into() },
            pod: Some(Reference { name: "p".into(), uid: "u2".into() }),
            audiences: vec![ISSUER.into()],
            issued_s: 1_000,
            expires_s: 2_000,
            id: "j".into(),
            ..Claims::default()
        }
    }

    #[test]
    fn a_signed_token_verifies_until_it_expires() {
        let keys = keys();
        let token = keys.sign(&claims()).expect("signed");
        assert_eq!(keys.verify(&token, Wall::from_unix_s(1_999)), Ok(claims()));
        assert_eq!(keys.verify(&token, Wall::from_unix_s(2_000)), Err(Error::Refused("expired")));
        assert_eq!(
            keys.verify(&token, Wall::from_unix_s(900)),
            Err(Error::Refused("not valid yet"))
        );
        assert_eq!(claims().user(), "system:serviceaccount:ns:sa");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let keys = keys();
        let token = keys.sign(&claims()).expect("signed");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ascii");
            assert!(keys.verify(&changed, Wall::from_unix_s(1_500)).is_err(), "byte {at}");
        }
        assert!(other().verify(&token, Wall::from_unix_s(1_500)).is_err());
    }

    #[test]
    fn an_unsigned_algorithm_is_refused() {
        let keys = keys();
        let token = keys.sign(&claims()).expect("signed");
        let body = token.split('.').nth(1).expect("claims");
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(
            keys.verify(&format!("{none}.{body}."), Wall::from_unix_s(1_500)),
            Err(Error::Refused("algorithm is not ES256"))
        );
        assert!(matches!(keys.verify("nonsense", Wall::default()), Err(Error::NotOurs(_))));
    }
}
