//! The requests of others, for `fuzz/`: see [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::header::{AUTHORIZATION, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use jsonwebtoken::get_current_timestamp;
use serde_json::{Value, json};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};
use uuid::Uuid;

use super::body::{self, Fields};
use super::github::{self, Said, Webhooks};
use super::proof::ProofOfCaller;
use super::{Problem, callbacks, etag, provisions, stream, tokens};
use crate::domain::callback::{Callback, Kind, Message, Snapshot, decide};
use crate::domain::names::{ProvisionId, Run};
use crate::domain::provision::{Change, Provision};
use crate::domain::step::Resource;
use crate::domain::witness::{self, Accused, Testimony};
use crate::fuzzing::{first_line, headers_and_body};
use crate::oidc::Repository;
use crate::rollback::rollback_failed_provision;
use crate::signing::Signer;
use crate::store::feed;
use crate::store::search::Text;

const TIMEOUT: Duration = Duration::from_secs(1800);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a time in 2027")
}

/// A callback's body. What is taken is within bounds, has one meaning, and is decided and planned
/// whatever the provision's state; nothing is taken for another provision or another kind.
pub fn callback_body(body: &[u8]) {
    let fields = match Fields::parse_lossy(body) {
        Ok(fields) => fields,
        Err(problem) => return is_told(&problem),
    };
    let named = fields.value("provision_id", "a UUID").ok().flatten();
    let id = named.unwrap_or_else(|| ProvisionId::new(Uuid::nil()));
    let mut taken = 0;
    for kind in Kind::ALL {
        for managed in [&Resource::ALL[..], &[Resource::Server]] {
            match callbacks::parse(&fields, id, kind, managed) {
                Ok(callback) => {
                    assert_eq!(callback.message.kind(), kind);
                    is_within_bounds(&callback);
                    has_one_meaning(&callback, managed);
                    is_decided(&callback, managed);
                    taken |= 1 << (kind as u8);
                }
                Err(problem) => is_told(&problem),
            }
        }
        let other = ProvisionId::new(Uuid::from_u128(id.as_uuid().as_u128() ^ 1));
        assert!(callbacks::parse(&fields, other, kind, &[]).is_err());
    }
    assert!(u32::count_ones(taken) <= 1, "one body, two kinds");
}

/// What is refused is refused with words that fit into an answer.
fn is_told(problem: &Problem) {
    assert!(problem.status().is_client_error(), "{problem:?}");
    assert!(!problem.detail().is_empty() && problem.detail().len() < 1000);
}

fn is_within_bounds(callback: &Callback) {
    assert!(callback.run.id > 0 && callback.run.attempt > 0);
    let short = |name: &Option<String>| {
        let length = name.as_ref().map_or(1, |name| name.chars().count());
        assert!((1..=255).contains(&length));
    };
    match &callback.message {
        Message::Started { agent_id, region } => {
            short(agent_id);
            short(region);
        }
        Message::Progress { step, .. } => short(step),
        Message::Success { reported } => {
            let has_address =
                reported.server_ip.is_some() || callback.unreadable.contains(&"server_ip");
            assert!(reported.server_id.is_some() && has_address);
        }
        Message::Failure(failure) => short(&failure.failed_step),
    }
    // Postgres keeps no NUL, not even in JSON.
    for value in callback.data().values() {
        assert!(!value.as_str().unwrap_or_default().contains('\0'));
    }
}

/// What the history keeps of it, sent as a callback, is the same callback.
fn has_one_meaning(callback: &Callback, managed: &[Resource]) {
    if !callback.unreadable.is_empty() {
        // What could not be read is not kept, so it would be missing.
        return;
    }
    let kind = callback.message.kind();
    let mut data = callback.data();
    data.insert("job".to_owned(), json!(callback.job));
    data.insert("type".to_owned(), json!(kind.as_str()));
    data.insert("provision_id".to_owned(), json!(callback.provision));
    let text = Value::Object(data).to_string();
    let again = Fields::parse(text.as_bytes()).expect("what is kept is JSON");
    let again = callbacks::parse(&again, callback.provision, kind, managed);
    assert_eq!(&again.expect("it was taken before"), callback);
}

/// The two tables agree, whoever spoke before.
fn is_decided(callback: &Callback, managed: &[Resource]) {
    let another = |run| Callback {
        run,
        message: Message::Started {
            agent_id: None,
            region: None,
        },
        ..callback.clone()
    };
    let mut befores = vec![None];
    for run in [
        callback.run,
        Run {
            id: callback.run.id,
            attempt: callback.run.attempt.saturating_sub(1).max(1),
        },
        Run { id: 1, attempt: 1 },
    ] {
        let started = settled(said(None, &another(run), managed));
        befores.push(started.clone());
        befores.push(settled(said(started.clone(), callback, managed)));
        let destroyed = started.and_then(|it| it.destroy(now()).expect("it is not destroyed yet"));
        befores.push(settled(destroyed));
    }
    for before in befores {
        said(before, callback, managed);
    }
}

/// What `callback` makes of a provision, planned; `None` if it stays as it is.
fn said(before: Option<Provision>, callback: &Callback, managed: &[Resource]) -> Option<Change> {
    let snapshot = Snapshot {
        now: now(),
        provision: before,
        former: None,
        repeated: false,
    };
    let decision = decide(snapshot, callback, TIMEOUT).expect("the two tables agree");
    let mut change = decision.change?;
    rollback_failed_provision(&mut change, managed);
    for step in &change.steps {
        assert!(managed.contains(&step.resource));
    }
    for event in &change.events {
        serde_json::to_string(event).expect("an event is JSON");
    }
    Some(change)
}

/// A provision as it is read back.
fn settled(change: Option<Change>) -> Option<Provision> {
    let mut provision = change?.provision;
    provision.version += 1;
    Some(provision)
}

/// Two secrets that no input holds.
const SECRETS: [&str; 2] = [
    "whsec_ZnV6emluZy1zZWNyZXQtbnVtYmVyLW9uZS0x",
    "whsec_ZnV6emluZy1zZWNyZXQtbnVtYmVyLXR3by0y",
];

/// Headers and body of a signed callback. Nothing is taken that we did not sign; what we signed is,
/// beside whatever else stands in the header, and is not when a byte of it has changed.
///
/// The first line says what is done with the rest: `as it is`, `fresh` (dated now), `signed`.
pub fn webhook_signature(input: &[u8]) {
    let (how, rest) = first_line(input);
    let (mut headers, body) = headers_and_body(rest);
    let proof = ProofOfCaller::by_signature(&SECRETS.map(Into::into)).expect("they are secrets");
    let taken = |headers: &HeaderMap, body: &[u8]| {
        proof.require_credentials(headers).is_ok() && proof.check_signature(headers, body).is_ok()
    };
    if how == "as it is" {
        assert!(!taken(&headers, body), "it was never signed");
        return;
    }
    let at = get_current_timestamp();
    headers.insert(HEADER_WEBHOOK_TIMESTAMP, HeaderValue::from(at));
    if how != "signed" {
        assert!(!taken(&headers, body), "it was never signed");
        return;
    }
    let id = headers.get(HEADER_WEBHOOK_ID).cloned();
    let Some(id) = id.as_ref().and_then(|id| id.to_str().ok()) else {
        return;
    };
    let given = headers.get(HEADER_WEBHOOK_SIGNATURE).cloned();
    let given = given
        .as_ref()
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default();
    let secret = Signer::parse(&SECRETS[body.len() % 2].into()).expect("it is a secret");
    let signature = secret.sign(id, at.cast_signed(), body);
    let both = format!("{given} {signature}");
    let both = HeaderValue::from_str(&both).expect("two texts and a space");
    headers.insert(HEADER_WEBHOOK_SIGNATURE, both);
    assert!(taken(&headers, body), "it was signed");
    let mut changed = body.to_vec();
    changed.push(b' ');
    assert!(
        !taken(&headers, &changed),
        "it was signed before it changed"
    );
    headers.insert(HEADER_WEBHOOK_TIMESTAMP, HeaderValue::from(at + 1));
    assert!(!taken(&headers, body), "its time was signed too");
}

/// Where a list or the stream is read on. What is taken is what we would have written, in a range that
/// Postgres has. As it is, and in base64 as a list's cursor comes.
pub fn cursor(input: &[u8]) {
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(input);
    let as_it_is = str::from_utf8(input).ok();
    for text in as_it_is.into_iter().chain([encoded.as_str()]) {
        if let Some(position) = provisions::decode_cursor(text) {
            let year = position.created_at.year();
            assert!((1970..=294_276).contains(&year), "{position:?}");
            assert_eq!(provisions::spell_cursor(position), text, "one spelling");
        }
    }
    let Ok(header) = HeaderValue::from_bytes(input) else {
        return;
    };
    let headers = HeaderMap::from_iter([(stream::LAST_EVENT_ID, header)]);
    if let Ok(Some(position)) = stream::last_event_id(&headers) {
        assert_eq!(position.to_string().as_bytes(), input, "one spelling");
        assert!(position >= feed::Position::BEGINNING);
    }
}

/// GitHub's webhook: its headers, an empty line, its body. Nothing is taken that was not signed; what
/// is, says how a run ended, and that is judged whatever the provision's state.
pub fn github_webhook(input: &[u8]) {
    const SECRET: &str = "fuzzing-secret-of-the-webhooks";
    let (headers, body) = headers_and_body(input);
    let ours = Repository::Name("acme/agents".to_owned());
    let webhooks = Webhooks::new(&SECRET.into(), ours).expect("it is long enough");
    if let Some(signature) = headers.get(github::SIGNATURE) {
        assert!(!webhooks.is_signed(signature.as_bytes(), body));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, body);
    let hex = |text: String, byte: &u8| format!("{text}{byte:02x}");
    let signature = tag.as_ref().iter().fold("sha256=".to_owned(), hex);
    assert!(webhooks.is_signed(signature.as_bytes(), body));

    let (event, _) = match github::about(&headers) {
        Ok(about) => about,
        Err(problem) => return is_told(&problem),
    };
    for event in [event, "workflow_run", "workflow_job"] {
        match webhooks.read(event, body) {
            Ok(Said::RunEnded(testimony)) => is_judged(&testimony),
            Ok(Said::JobEnded(run)) => assert!(run.id > 0 && run.attempt > 0),
            Ok(Said::Nothing(_)) => {}
            Err(problem) => is_told(&problem),
        }
    }
}

fn is_judged(testimony: &Testimony) {
    let run = testimony.run;
    assert!(run.id > 0 && run.attempt > 0);
    let id = ProvisionId::new(Uuid::nil());
    let started = Callback {
        provision: id,
        run,
        job: None,
        message: Message::Started {
            agent_id: None,
            region: None,
        },
        unreadable: Vec::new(),
    };
    let created = Provision::create(id, "agent".to_owned(), None, now(), TIMEOUT);
    for before in [
        settled(said(None, &started, &Resource::ALL)),
        settled(created.ok()),
    ] {
        let accused = Accused {
            provision: before.expect("it is new"),
            dispatched: Some(run.id),
            contradicted: false,
            now: now(),
        };
        let change = witness::judge(accused, testimony).expect("the two tables agree");
        if let Some(mut change) = change {
            rollback_failed_provision(&mut change, &Resource::ALL);
        }
    }
}

/// Single values that callers write: what is looked for, `Prefer`, `If-None-Match`, `Authorization`.
pub fn request_text(input: &[u8]) {
    if let Some(text) = str::from_utf8(input).ok().and_then(Text::parse) {
        assert!(!text.agent.is_empty() && !text.agent.contains('\0'));
        if let Some((first, last)) = text.ids {
            assert!(first <= last);
        }
        assert!(text.number.is_none_or(|number| number > 0));
    }
    let Ok(value) = HeaderValue::from_bytes(input) else {
        return;
    };
    let headers = HeaderMap::from_iter([
        ("prefer".parse().expect("a name"), value.clone()),
        (IF_NONE_MATCH, value.clone()),
        (AUTHORIZATION, value.clone()),
        (axum::http::header::CONTENT_TYPE, value),
    ]);
    let wait = callbacks::wait_asked_for(&headers).unwrap_or_default();
    assert!(wait <= Duration::from_secs(60));
    let answered = etag::answer(&headers, &"shown").status();
    assert!(matches!(answered.as_u16(), 200 | 304));
    if let Some(token) = tokens::bearer(&headers) {
        assert!(input.ends_with(token));
    }
    if let Err(problem) = body::require_json(&headers) {
        is_told(&problem);
    }
}
