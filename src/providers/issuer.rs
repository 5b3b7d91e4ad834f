//! An issuer of OIDC tokens: where its public keys are, and which ones it has.
//!
//! See [OpenID Connect Discovery](https://openid.net/specs/openid-connect-discovery-1_0.html) and
//! <https://docs.github.com/actions/reference/security/oidc>. Everything comes from the issuer's own host,
//! by its own scheme and port: a document that names keys elsewhere is refused. Not necessarily from below
//! its address: an enterprise's own issuer, `https://host/slug`, may have its keys at the root.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::http::{Answer, Call, Http, Timeouts};
use super::{SetupError, Vendor, VendorError};

/// A caller waits for it, so it is short.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    request: Duration::from_secs(5),
    list: Duration::from_secs(10),
};
/// GitHub's two documents have a few KiB.
const LARGEST: usize = 256 * 1024;
/// GitHub has some ten.
const MOST_KEYS: usize = 100;
/// Of the address of the keys, without its host, which is asked as it stands; GitHub's has 17 characters.
const LONGEST_PATH: usize = 256;

/// Where tokens are issued.
pub struct Issuer {
    /// As it must stand in tokens, but for slashes at its end.
    name: String,
    http: Http,
}

/// A public key that signs tokens by RS256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerKey {
    /// What a token's header calls it.
    pub id: String,
    /// Modulus and exponent as a JWK has them, base64url.
    pub modulus: String,
    /// See `modulus`.
    pub exponent: String,
}

/// The keys of an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IssuerKeys {
    /// Those that sign tokens by RS256; at least one.
    pub rs256: Vec<IssuerKey>,
    /// What it calls those that do not.
    pub others: Vec<String>,
}

impl Issuer {
    /// `name` is the issuer as its tokens say it, an https URL (http on this machine alone).
    ///
    /// # Errors
    /// When it is something else. The message names `setting`.
    pub fn new(setting: &'static str, name: &str) -> Result<Self, SetupError> {
        let http = Http::new(Vendor::Issuer, setting, name, TIMEOUTS)?;
        if http.is_open_to_eavesdroppers() {
            // Whoever can put other keys on the way can issue tokens.
            return Err(SetupError(format!("{setting} must be an https URL")));
        }
        Ok(Self {
            name: without_slash(name).to_owned(),
            http,
        })
    }

    /// An issuer whose answers are written by a script.
    #[cfg(any(test, fuzzing))]
    pub(super) fn scripted(name: &str, script: &super::fuzzing::Script) -> Self {
        Self {
            name: without_slash(name).to_owned(),
            http: Http::scripted(Vendor::Issuer, name, script),
        }
    }

    /// As it stands in tokens, which may have a slash at its end besides.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys that it has at present.
    ///
    /// # Errors
    /// `Unavailable` when no usable answer came, `RateLimited`, or a refusal.
    pub async fn keys(&self) -> Result<IssuerKeys, VendorError> {
        let discovery = self.get(&[".well-known", "openid-configuration"]).await?;
        let Discovery { issuer, jwks_uri } = discovery.json()?;
        if without_slash(&issuer) != self.name {
            return Err(discovery.unusable("the document of another issuer"));
        }
        let elsewhere = || discovery.unusable("keys that are not at the issuer's own host");
        let url = Url::parse(&jwks_uri).map_err(|_| elsewhere())?;
        // It is written into errors and the log.
        if url.path().len() + url.query().map_or(0, str::len) > LONGEST_PATH {
            return Err(discovery.unusable("an address of the keys that is too long"));
        }
        let answer = answered(self.http.get_at(url).ok_or_else(elsewhere)?).await?;
        let set: KeySet = answer.json()?;
        let mut keys = IssuerKeys::default();
        for key in set.keys.into_iter().take(MOST_KEYS) {
            let id = key["kid"].as_str().unwrap_or_default().to_owned();
            match rs256(key) {
                Some(key) => keys.rs256.push(key),
                None => keys.others.push(id),
            }
        }
        if keys.rs256.is_empty() {
            return Err(answer.unusable("no key for RS256"));
        }
        Ok(keys)
    }

    async fn get(&self, segments: &[&str]) -> Result<Answer, VendorError> {
        answered(self.http.get(segments)).await
    }
}

async fn answered(call: Call<'_>) -> Result<Answer, VendorError> {
    let answer = call.at_most(LARGEST).send().await?;
    if answer.status.is_success() {
        Ok(answer)
    } else {
        Err(answer.refused(None))
    }
}

/// With a slash at its end it is the same issuer.
fn without_slash(name: &str) -> &str {
    name.trim_end_matches('/')
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// A key of a kind that we don't know must not spoil those that we do.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// [RFC 7517](https://www.rfc-editor.org/rfc/rfc7517), of an RSA key.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    used_for: Option<String>,
    alg: Option<String>,
    n: String,
    e: String,
}

fn rs256(key: Value) -> Option<IssuerKey> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    let fits = key.kty == "RSA"
        && !key.kid.is_empty()
        && key.used_for.as_deref().is_none_or(|it| it == "sig")
        && key.alg.as_deref().is_none_or(|it| it == "RS256");
    fits.then_some(IssuerKey {
        id: key.kid,
        modulus: key.n,
        exponent: key.e,
    })
}
