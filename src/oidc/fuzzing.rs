//! Tokens of others, for `fuzz/`: see [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, get_current_timestamp};
use serde_json::{Value, json};

use super::claims::{Claims, Ours, Repository, WorkflowFile};
use super::{LEEWAY, Verifier};
use crate::domain::names::Run;
use crate::fuzzing::{block_on, first_line};
use crate::providers::fuzzing::issuer_with_keys;

/// What PKCS #8 puts before the PKCS #1 of a key of 2048 bits.
const PKCS8_HEADER: usize = 26;
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://backstop.example";
const KEY_ID: &str = "k1";
const FILE: &str = "acme/agents/.github/workflows/provision-agent.yml";
const CALLED: &str = "acme/ci/.github/workflows/provision-agent.yml@refs/tags/v1";
/// The time in the inputs.
const NOW: i64 = 1_800_000_000;

/// The issuer's key, another in each process.
static KEY: LazyLock<EncodingKey> = LazyLock::new(|| {
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a size that there is");
    let private: Pkcs8V1Der<'_> = pair.as_der().expect("it was made here");
    EncodingKey::from_rsa_der(&private.as_ref()[PKCS8_HEADER..])
});

/// What the issuer says of its keys.
static KEYS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = Jwk::from_encoding_key(&KEY, Algorithm::RS256).expect("an RSA key");
    let mut key = serde_json::to_value(key).expect("a JWK is JSON");
    key["kid"] = json!(KEY_ID);
    json!({ "keys": [key] }).to_string().into_bytes()
});

fn ours() -> Ours {
    Ours {
        repository: Repository::Name("acme/agents".to_owned()),
        repository_id: Some(42),
        owner_id: Some(7),
        workflow: WorkflowFile {
            file: "provision-agent.yml".to_owned(),
            git_ref: "main".to_owned(),
        },
        called: vec![CALLED.to_owned()],
    }
}

fn verified(token: &str) -> Option<Run> {
    let issuer = issuer_with_keys(ISSUER, &KEYS);
    let verifier = Verifier::new(issuer, &[AUDIENCE.to_owned()], ours());
    block_on(verifier.verify(token)).ok()
}

/// A job's token. The first line says what the rest is:
///
/// - a `token`, as it is: never taken, for nobody signed it;
/// - `claims`, judged without a signature, which is fast;
/// - `signed`: a line with a header, and claims, whose times count from [`NOW`]. Taken only if every
///   claim that counts is as it has to be.
pub fn job_token(input: &[u8]) {
    let (how, rest) = first_line(input);
    match how {
        "claims" => {
            let Ok(claims) = serde_json::from_slice::<Claims>(rest) else {
                return;
            };
            let Ok(run) = claims.run_of(&ours(), NOW.cast_unsigned(), LEEWAY) else {
                return;
            };
            if let Ok(said) = serde_json::from_slice::<Value>(rest) {
                is_of_a_run_of_ours(&said, run, NOW);
            }
        }
        "signed" => {
            let (header, claims) = first_line(rest);
            let now = get_current_timestamp().cast_signed();
            let claims = dated(claims, now);
            let message = format!(
                "{}.{}",
                BASE64_URL_SAFE_NO_PAD.encode(header),
                BASE64_URL_SAFE_NO_PAD.encode(&claims)
            );
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &KEY, Algorithm::RS256);
            let signature = signature.expect("an RSA key signs anything");
            let Some(run) = verified(&format!("{message}.{signature}")) else {
                return;
            };
            let header: Value = serde_json::from_str(header).expect("it was taken");
            assert_eq!(
                (&header["alg"], &header["kid"]),
                (&json!("RS256"), &json!(KEY_ID))
            );
            let said: Value = serde_json::from_slice(&claims).expect("they were taken");
            assert_eq!(
                (&said["iss"], &said["aud"]),
                (&json!(ISSUER), &json!(AUDIENCE))
            );
            let time = |name: &str| said[name].as_f64().expect("it was taken");
            // The clock goes on meanwhile.
            #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
            let (now_s, slack) = (now as f64, 70.0);
            assert!(time("exp") > now_s - slack && time("nbf") < now_s + slack);
            is_of_a_run_of_ours(&said, run, now);
            let (unsigned, _) = message.split_at(message.len() - 1);
            assert_eq!(verified(&format!("{unsigned}.{signature}")), None);
            assert_eq!(verified(&format!("{message}.")), None);
        }
        _ => {
            let token = str::from_utf8(rest).unwrap_or_default();
            assert_eq!(verified(token), None, "nobody signed it");
        }
    }
}

/// Claims with times that count from now instead of from [`NOW`]; as they are, if they are none.
fn dated(claims: &[u8], now: i64) -> Vec<u8> {
    let Ok(Value::Object(mut said)) = serde_json::from_slice(claims) else {
        return claims.to_vec();
    };
    for name in ["iat", "nbf", "exp"] {
        let time = said.get(name).and_then(Value::as_i64);
        if let Some(time) = time.and_then(|time| time.checked_add(now - NOW)) {
            said.insert(name.to_owned(), json!(time));
        }
    }
    Value::Object(said).to_string().into_bytes()
}

/// What [`Claims::run_of`] says, said again.
fn is_of_a_run_of_ours(said: &Value, run: Run, now: i64) {
    let text = |name: &str| {
        said[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name} is no text"))
    };
    let issued_at = said["iat"].as_i64().expect("a number");
    assert!((now - 600..=now + 70).contains(&issued_at), "{issued_at}");
    let repository = text("repository");
    assert!(repository.eq_ignore_ascii_case("acme/agents"));
    let number = |name: &str| text(name).parse::<i64>().expect("digits");
    assert_eq!(
        (number("repository_id"), number("repository_owner_id")),
        (42, 7)
    );
    assert_eq!(
        (number("run_id"), number("run_attempt")),
        (run.id, run.attempt.into())
    );
    assert!(run.id > 0 && run.attempt > 0);
    let started = text("workflow_ref");
    let (of, file) = started.split_at(repository.len());
    assert!(of.eq_ignore_ascii_case(repository), "of its repository");
    assert!(
        ["main", "refs/heads/main", "refs/tags/main"]
            .iter()
            .any(|git_ref| file == format!("{}@{git_ref}", &FILE["acme/agents".len()..])),
        "{started}"
    );
    let job = text("job_workflow_ref");
    let same = |named: &str| {
        let of = named.split("/.github/").next().expect("there is a first");
        let (job_of, job_file) = job.split_at(of.len());
        job_of.eq_ignore_ascii_case(of) && job_file == &named[of.len()..]
    };
    assert!(same(started) || same(CALLED), "{job}");
}
