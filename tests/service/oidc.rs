//! A job's own token proves which run speaks, and for that run alone.

use std::time::Duration;

use backstop::http::proof::ProofOfCaller;
use backstop::oidc::{Ours, Repository, Verifier, WorkflowFile};
use backstop::providers::Issuer;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::issuer::{AUDIENCE, Manner, REPOSITORY, SigningKey, TestIssuer};
use crate::harness::{Answer, Options, Run, SECRET, Service, callback_body, sign};

const RUN: Run = Run(100, 1);
const OTHER: Run = Run(200, 1);

/// A service that takes the issuer's tokens, and signatures as well.
async fn service(issuer: &TestIssuer) -> Service {
    service_at(issuer, &issuer.url).await
}

/// The same where the setting spells the issuer so.
async fn service_at(issuer: &TestIssuer, setting: &str) -> Service {
    service_by(verifier(issuer, setting)).await
}

async fn service_by(verifier: Verifier) -> Service {
    Service::start_changed(Options::default(), |config| {
        config.proof = ProofOfCaller::by_signature(&[SECRET.into()])
            .unwrap()
            .or_by_token(verifier);
    })
    .await
}

fn verifier(issuer: &TestIssuer, setting: &str) -> Verifier {
    let ours = Ours {
        repository: Repository::Name(REPOSITORY.to_owned()),
        repository_id: Some(42),
        owner_id: None,
        workflow: WorkflowFile {
            file: "provision-agent.yml".to_owned(),
            git_ref: "main".to_owned(),
        },
        called: Vec::new(),
    };
    assert!(setting.starts_with(&issuer.url));
    let at = Issuer::new("BACKSTOP_OIDC_ISSUER", setting).unwrap();
    Verifier::new(at, &[AUDIENCE.to_owned()], ours)
}

async fn call(
    service: &Service,
    token: &str,
    kind: &str,
    id: Uuid,
    run: Run,
    more: Value,
) -> Answer {
    let request = service
        .request("POST", &format!("/v1/provisions/{id}/callbacks/{kind}"))
        .bearer_auth(token)
        .json(&callback_body(kind, id, run, more));
    service.send(request).await
}

async fn started(service: &Service, token: &str) -> Answer {
    call(service, token, "started", Uuid::new_v4(), RUN, json!({})).await
}

#[tokio::test]
async fn a_job_speaks_for_its_own_run_and_attempt_alone() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let id = Uuid::new_v4();
    let token = issuer.token(RUN);

    let answer = call(
        &service,
        &token,
        "started",
        id,
        RUN,
        json!({"agent_id": "web-1"}),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for (kind, run) in [
        ("failure", OTHER),
        ("failure", Run(100, 2)),
        ("started", Run(100, 2)),
        ("progress", OTHER),
    ] {
        let answer = call(&service, &token, kind, id, run, json!({})).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated"),
            "{kind} {run:?}"
        );
    }
    // Nor can another run of the same workflow end it, in its own name or in ours.
    let others = issuer.token(OTHER);
    for (run, status, code) in [
        (OTHER, 409, "unknown_attempt"),
        (RUN, 401, "unauthenticated"),
    ] {
        let answer = call(&service, &others, "failure", id, run, json!({})).await;
        assert_eq!((answer.status, answer.code()), (status, code));
    }
    assert_eq!(
        service.event_kinds(id).await,
        ["created", "callback.started"]
    );

    let answer = call(
        &service,
        &token,
        "failure",
        id,
        RUN,
        json!({"may_exist": []}),
    )
    .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(issuer.asked_for_keys(), 1, "keys are kept");
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_not_told() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let now = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap();
    let file = |name: &str| json!({"workflow_ref": name, "job_workflow_ref": name});
    let mut details = std::collections::BTreeSet::new();
    for changes in [
        json!({"iss": "https://token.actions.githubusercontent.com"}),
        json!({"iss": null}),
        json!({"aud": "https://elsewhere.example"}),
        json!({"aud": null}),
        json!({"aud": [AUDIENCE, "https://elsewhere.example"]}),
        json!({"exp": now - 120}),
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"nbf": now + 120}),
        json!({"nbf": null}),
        json!({"iat": now - 700, "exp": now + 3600}),
        json!({"iat": now + 120}),
        json!({"iat": null}),
        json!({"repository": "evil/agents"}),
        json!({"repository_id": "43"}),
        json!({"repository_id": null}),
        json!({"run_id": null}),
        json!({"run_attempt": null}),
        file("acme/agents/.github/workflows/other.yml@refs/heads/main"),
        file("acme/agents/.github/workflows/provision-agent.yml@refs/heads/evil"),
        file("evil/agents/.github/workflows/provision-agent.yml@refs/heads/main"),
        json!({"job_workflow_ref": "evil/x/.github/workflows/provision-agent.yml@refs/heads/main"}),
        json!({"workflow_ref": "acme/agents/.github/workflows/evil.yml@refs/heads/main"}),
    ] {
        let answer = started(&service, &issuer.token_with(RUN, changes.clone())).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated"),
            "{changes}"
        );
        details.insert(answer.body["detail"].to_string());
    }
    assert_eq!(details.len(), 1, "{details:?}");
}

#[tokio::test]
async fn a_signature_that_is_not_the_issuers_by_rs256_is_none() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let claims = issuer.claims(RUN);
    let key = issuer.key();
    let header = |alg: Algorithm, kid: Option<&str>| {
        let mut header = Header::new(alg);
        header.kid = kid.map(str::to_owned);
        header
    };
    let good = issuer.token(RUN);
    let [head, body, signature]: [&str; 3] =
        good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other_body = issuer.token(OTHER).split('.').nth(1).unwrap().to_owned();
    let symmetric = EncodingKey::from_secret(b"the public key, were it that easy");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoiZmlyc3QifQ";
    for (what, token) in [
        (
            "another key by the same name",
            SigningKey::new("first").sign(&header(Algorithm::RS256, Some("first")), &claims),
        ),
        (
            "no key named",
            key.sign(&header(Algorithm::RS256, None), &claims),
        ),
        (
            "RS512",
            key.sign(&header(Algorithm::RS512, Some("first")), &claims),
        ),
        (
            "PS256",
            key.sign(&header(Algorithm::PS256, Some("first")), &claims),
        ),
        (
            "HS256",
            encode(
                &header(Algorithm::HS256, Some("first")),
                &claims,
                &symmetric,
            )
            .unwrap(),
        ),
        (
            "the curve's",
            key.sign(&header(Algorithm::RS256, Some("curve")), &claims),
        ),
        ("none", format!("{none}.{body}.")),
        (
            "none, with a signature",
            format!("{none}.{body}.{signature}"),
        ),
        ("no signature", format!("{head}.{body}.")),
        ("cut short", good[..good.len() - 4].to_owned()),
        ("another body", format!("{head}.{other_body}.{signature}")),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.{signature}")),
        ("no token", "token".to_owned()),
        ("empty", String::new()),
        ("no end", "a".repeat(9_000)),
    ] {
        let answer = started(&service, &token).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated"),
            "{what}"
        );
    }
    assert_eq!(started(&service, &good).await.status, 200);
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_made_good_by_a_signature() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let id = Uuid::new_v4();
    let body = callback_body("started", id, RUN, json!({})).to_string();
    let (at, signature) = sign(SECRET, "msg_1", &body);
    let request = service
        .request("POST", &format!("/v1/provisions/{id}/callbacks/started"))
        .header("content-type", "application/json")
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", at)
        .header("webhook-signature", signature)
        .body(body);
    let with_token = request
        .try_clone()
        .unwrap()
        .bearer_auth(issuer.token(OTHER));
    assert_eq!(service.send(with_token).await.status, 401);
    assert_eq!(service.send(request).await.status, 200);
}

#[tokio::test]
async fn while_the_issuer_is_away_held_keys_count_and_unknown_ones_are_undecided() {
    let issuer = TestIssuer::start().await;
    issuer.be(Manner::Away);
    let first = service(&issuer).await;
    let answer = started(&first, &issuer.token(RUN)).await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    // Not asked again within the minute, whoever calls.
    let asked = issuer.asked().len();
    assert_eq!(started(&first, &issuer.token(RUN)).await.status, 503);
    assert_eq!(issuer.asked().len(), asked);

    issuer.be(Manner::Fine);
    let second = service(&issuer).await;
    assert_eq!(started(&second, &issuer.token(RUN)).await.status, 200);
    issuer.be(Manner::Away);
    assert_eq!(started(&second, &issuer.token(RUN)).await.status, 200);
}

/// A token by a key of this name that the issuer does not have.
fn by_made_up_key(issuer: &TestIssuer, name: &str) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(name.to_owned());
    issuer.key().sign(&header, &issuer.claims(RUN))
}

#[tokio::test]
async fn tokens_with_made_up_keys_do_not_make_us_ask_more_often() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    // For the first of them the issuer was asked; of the others nobody can tell yet.
    let first = by_made_up_key(&issuer, "made-up");
    assert_eq!(started(&service, &first).await.status, 401);
    for round in 0..20 {
        let token = by_made_up_key(&issuer, &format!("made-up-{round}"));
        let answer = started(&service, &token).await;
        assert_eq!((answer.status, answer.code()), (503, "unavailable"));
        assert_eq!(started(&service, &first).await.status, 401);
    }
    assert_eq!(started(&service, &issuer.token(RUN)).await.status, 200);
    assert_eq!(issuer.asked_for_keys(), 1);
}

#[tokio::test]
async fn a_key_that_is_new_since_the_issuer_was_asked_is_undecided_and_not_refused() {
    const PAUSE: Duration = Duration::from_secs(6);
    let issuer = TestIssuer::start().await;
    let verifier = verifier(&issuer, &issuer.url).asking_at_most_every(PAUSE);
    let service = service_by(verifier).await;
    assert_eq!(started(&service, &issuer.token(RUN)).await.status, 200);
    let asked_at = std::time::Instant::now();
    issuer.rotate("second");
    let made_up = by_made_up_key(&issuer, "made-up");
    let rotated = issuer.token(RUN);
    for token in [&rotated, &made_up, &rotated] {
        let answer = started(&service, token).await;
        assert_eq!((answer.status, answer.code()), (503, "unavailable"));
        let wait = answer.headers["retry-after"].to_str().unwrap();
        let wait: u64 = wait.parse().unwrap();
        assert!((1..=PAUSE.as_secs()).contains(&wait), "{wait}");
    }
    assert_eq!(issuer.asked_for_keys(), 1);
    // This time is the process's own, and cannot be moved.
    tokio::time::sleep(PAUSE.saturating_sub(asked_at.elapsed())).await;
    assert_eq!(started(&service, &rotated).await.status, 200);
    assert_eq!(started(&service, &made_up).await.status, 401);
    assert_eq!(issuer.asked_for_keys(), 2);
}

#[tokio::test]
async fn an_enterprises_own_issuer_may_have_its_keys_at_the_root_of_its_host() {
    let issuer = TestIssuer::start_at("/acme-corp").await;
    for jwks in [
        "/.well-known/jwks",
        "/acme-corp/.well-known/jwks",
        "/keys?of=acme%20corp",
    ] {
        issuer.keep_keys_at(jwks);
        let service = service(&issuer).await;
        let answer = started(&service, &issuer.token(RUN)).await;
        assert_eq!(answer.status, 200, "{jwks}: {answer:?}");
        assert_eq!(issuer.asked().last().unwrap(), jwks);
    }
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_setting_is_no_other_issuer() {
    for path in ["", "/acme-corp"] {
        let issuer = TestIssuer::start_at(path).await;
        for setting in [issuer.url.clone(), format!("{}/", issuer.url)] {
            for named in [issuer.url.clone(), format!("{}/", issuer.url)] {
                let mut document = issuer.discovery();
                document["issuer"] = json!(named);
                issuer.be(Manner::Discovery(document));
                let service = service_at(&issuer, &setting).await;
                let token = issuer.token_with(RUN, json!({"iss": named}));
                let answer = started(&service, &token).await;
                assert_eq!(answer.status, 200, "{setting} {named}: {answer:?}");
                let other = issuer.token_with(RUN, json!({"iss": format!("{named}x")}));
                assert_eq!(started(&service, &other).await.status, 401);
            }
        }
    }
}

#[tokio::test]
async fn an_issuer_that_misbehaves_is_not_believed_and_does_not_hold_us_up() {
    let issuer = TestIssuer::start().await;
    let elsewhere = TestIssuer::start().await;
    let with = |name: &str, value: Value| {
        let mut document = issuer.discovery();
        document[name] = value;
        Manner::Discovery(document)
    };
    let its_own = issuer.key();
    for manner in [
        Manner::Redirect(elsewhere.url.clone()),
        Manner::Endless,
        Manner::Silent,
        Manner::Discovery(json!("nothing")),
        with("issuer", json!(elsewhere.url)),
        with(
            "jwks_uri",
            json!(format!("{}/.well-known/jwks", elsewhere.url)),
        ),
        with(
            "jwks_uri",
            json!(format!("{}.evil.example/jwks", issuer.url)),
        ),
        with("jwks_uri", json!(format!("{}/../jwks", issuer.url))),
        with("jwks_uri", json!("file:///etc/passwd")),
        with("jwks_uri", json!("/.well-known/jwks")),
        with(
            "jwks_uri",
            json!(issuer.url.replace("http://", "https://") + "/.well-known/jwks"),
        ),
        with(
            "jwks_uri",
            json!(issuer.url.replace("http://", "http://somebody@") + "/.well-known/jwks"),
        ),
        with(
            "jwks_uri",
            json!(format!("{}/{}", issuer.url, "k".repeat(300))),
        ),
        Manner::Keys(json!({"keys": []})),
        Manner::Keys(json!({"keys": [{"kty": "oct", "kid": its_own.id, "k": "c2VjcmV0"}]})),
        Manner::Keys(json!({"keys": "all of them"})),
    ] {
        issuer.be(manner.clone());
        let service = service(&issuer).await;
        let begun = std::time::Instant::now();
        let answer = started(&service, &issuer.token(RUN)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (503, "unavailable"),
            "{manner:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(30), "{manner:?}");
    }
    assert_eq!(elsewhere.asked(), [""; 0], "nobody else was asked");
}

#[tokio::test]
async fn a_callback_that_is_repeated_with_another_proof_is_the_same_callback() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let id = Uuid::new_v4();
    let token = issuer.token(RUN);
    let more = json!({"step": "vm_created", "server_id": "42"});
    let first = call(&service, &token, "started", id, RUN, json!({})).await;
    assert_eq!(first.status, 200);
    let progress = call(&service, &token, "progress", id, RUN, more.clone()).await;
    assert_eq!(progress.status, 200);
    let events = service.events(id).await;
    let proven = |kind: &str| {
        let event = events.iter().find(|event| event["kind"] == kind).unwrap();
        event["data"]["proven_by"].clone()
    };
    assert_eq!(proven("callback.started"), "job's token");
    assert_eq!(proven("callback.progress"), "job's token");
    let again = service.callback("started", id, RUN, json!({})).await;
    assert_eq!(again.body, first.body);
    let again = service.callback("progress", id, RUN, more).await;
    assert_eq!(again.body, progress.body);
    assert_eq!(service.events(id).await, events);
}
