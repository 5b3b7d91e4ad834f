//! `GET /metrics`: the names and types that the contract fixes, and numbers that are true.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::sim::{Fault, FaultKind, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{OPERATOR, PATIENCE, READER, Run, SECRET, Service};

const RUN: Run = Run(4711, 1);

/// The text, parsed.
#[derive(Debug, Default)]
struct Scrape {
    text: String,
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(service: &Service) -> Self {
        let answer = service.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.headers["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        let Value::String(text) = answer.body else {
            panic!("no text: {answer:?}")
        };
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} twice");
            } else if let Some(line) = line.strip_prefix("# HELP ") {
                assert!(line.split_once(' ').unwrap().1.ends_with('.'), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let before = scrape
                    .samples
                    .insert(sample.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{sample} twice");
            }
        }
        scrape.text = text;
        scrape
    }

    /// Looks until the numbers are as described: totals are kept for a moment.
    async fn until(service: &Service, is: impl Fn(&Self) -> bool) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let scrape = Self::of(service).await;
            if is(&scrape) {
                return scrape;
            }
            assert!(tokio::time::Instant::now() < deadline, "{}", scrape.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    #[track_caller]
    fn is(&self, sample: &str, value: f64) {
        let found = self.get(sample).unwrap_or(f64::NAN);
        assert!(
            (found - value).abs() < 1e-9,
            "{sample} {found}\n{}",
            self.text
        );
    }
}

const ALL_GONE: &str = "backstop_rollback_steps{resource=\"device\",state=\"gone\"}";

#[tokio::test]
async fn names_types_and_numbers_are_those_of_the_contract() {
    let service = Service::start().await;
    let began = tokio::time::Instant::now();
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let made = service.make_all(&started);
    service.callback("failure", id, RUN, made.ids()).await;
    service.settled(id).await;
    service.callback("success", id, RUN, made.ids()).await;
    service.started(Uuid::new_v4(), RUN).await;
    let scrape = Scrape::until(&service, |scrape| {
        scrape.get("backstop_provisions{status=\"provisioning\"}") == Some(1.0)
    })
    .await;

    for (name, kind) in [
        ("backstop_callbacks_total", "counter"),
        ("backstop_provisions", "gauge"),
        ("backstop_rollback_steps", "gauge"),
        ("backstop_rollback_settle_seconds", "histogram"),
        ("backstop_vendor_requests_total", "counter"),
        ("backstop_vendor_rate_remaining", "gauge"),
        ("backstop_oldest_unsettled_step_seconds", "gauge"),
        ("backstop_orphans", "gauge"),
        ("backstop_github_verdicts_total", "counter"),
        ("backstop_http_requests_total", "counter"),
        ("backstop_http_request_seconds", "histogram"),
        ("backstop_http_connections", "gauge"),
        ("backstop_http_refused_total", "counter"),
        ("backstop_database_connections", "gauge"),
        ("backstop_database_connections_max", "gauge"),
        ("backstop_database_up", "gauge"),
    ] {
        assert_eq!(
            scrape.types.get(name).map(String::as_str),
            Some(kind),
            "{name}"
        );
    }
    assert_eq!(scrape.types.len(), 16, "{:?}", scrape.types);

    scrape.is(
        "backstop_callbacks_total{kind=\"started\",result=\"accepted\"}",
        2.0,
    );
    scrape.is(
        "backstop_callbacks_total{kind=\"progress\",result=\"accepted\"}",
        0.0,
    );
    scrape.is(
        "backstop_callbacks_total{kind=\"failure\",result=\"accepted\"}",
        1.0,
    );
    scrape.is(
        "backstop_callbacks_total{kind=\"success\",result=\"already_failed\"}",
        1.0,
    );
    for (status, count) in [
        ("queued", 0.0),
        ("provisioning", 1.0),
        ("running", 0.0),
        ("failed", 1.0),
        ("destroyed", 0.0),
    ] {
        scrape.is(
            &format!("backstop_provisions{{status=\"{status}\"}}"),
            count,
        );
    }
    for resource in ["auth_key", "server", "device"] {
        for state in ["due", "waiting", "leased", "gone", "refused"] {
            let count = if state == "gone" { 2.0 } else { 0.0 };
            let labels = format!("{{resource=\"{resource}\",state=\"{state}\"}}");
            scrape.is(&format!("backstop_rollback_steps{labels}"), count);
        }
    }
    scrape.is("backstop_rollback_settle_seconds_count", 1.0);
    scrape.is("backstop_rollback_settle_seconds_bucket{le=\"+Inf\"}", 1.0);
    let took = scrape.get("backstop_rollback_settle_seconds_sum").unwrap();
    assert!(took > 0.0 && took < began.elapsed().as_secs_f64(), "{took}");
    for (vendor, method, status, count) in [
        ("hetzner", "DELETE", "200", 1.0),
        ("tailscale", "DELETE", "200", 2.0),
        ("tailscale", "POST", "200", 1.0),
    ] {
        let labels = format!("{{vendor=\"{vendor}\",method=\"{method}\",status=\"{status}\"}}");
        scrape.is(&format!("backstop_vendor_requests_total{labels}"), count);
    }
    let left = scrape
        .get("backstop_vendor_rate_remaining{vendor=\"hetzner\"}")
        .unwrap();
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    // Which tells nothing.
    assert_eq!(
        scrape.get("backstop_vendor_rate_remaining{vendor=\"tailscale\"}"),
        None
    );
    scrape.is("backstop_oldest_unsettled_step_seconds", 0.0);
    scrape.is("backstop_orphans{vendor=\"hetzner\"}", 0.0);
    scrape.is("backstop_orphans{vendor=\"tailscale\"}", 0.0);
    for (kind, status, count) in [
        ("started", "200", 2.0),
        ("failure", "202", 1.0),
        ("success", "409", 1.0),
    ] {
        let route = format!("route=\"/v1/provisions/{{id}}/callbacks/{kind}\"");
        let labels = format!("{{method=\"POST\",{route},status=\"{status}\"}}");
        scrape.is(&format!("backstop_http_requests_total{labels}"), count);
        let labels = format!("{{method=\"POST\",{route}}}");
        scrape.is(
            &format!("backstop_http_request_seconds_count{labels}"),
            count,
        );
    }
    scrape.is("backstop_database_connections_max", 6.0);
    scrape.is("backstop_database_up", 1.0);
    let connections: f64 = ["idle", "in_use"]
        .iter()
        .map(|state| format!("backstop_database_connections{{state=\"{state}\"}}"))
        .map(|sample| scrape.get(&sample).unwrap())
        .sum();
    assert!((1.0..=6.0).contains(&connections), "{connections}");

    for secret in [
        &id.to_string(),
        &id.simple().to_string(),
        &made.server.to_string(),
        &made.device.unwrap(),
        &made.key.unwrap(),
        "4711",
        "web-1",
        "127.0.0.1",
        SECRET,
        READER,
        OPERATOR,
        &service.sim.options().hcloud_token,
        &service.sim.options().oauth_client_secret,
    ] {
        assert!(!scrape.text.contains(secret), "{secret} in {}", scrape.text);
    }
}

#[tokio::test]
async fn what_callers_make_up_is_no_label() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    for (method, path) in [
        ("FROB", "/readyz".to_owned()),
        ("GET", "/nowhere/x1".to_owned()),
        ("GET", format!("/v1/provisions/{id}")),
        ("POST", format!("/v1/provisions/{id}/callbacks/x2")),
        ("POST", format!("/v1/provisions/x3/callbacks/{}", "started")),
        ("POST", format!("/v1/provisions/{id}/callbacks/%ff")),
    ] {
        service.send(service.request(method, &path)).await;
    }
    service.send(service.signed("x4", id, "{}")).await;
    service.send(service.signed("started", id, "{}")).await;
    let scrape = Scrape::of(&service).await;
    for (kind, result, count) in [
        ("unknown", "unauthenticated", 2.0),
        ("started", "unauthenticated", 1.0),
        ("unknown", "not_found", 1.0),
        ("started", "invalid_body", 1.0),
    ] {
        let labels = format!("{{kind=\"{kind}\",result=\"{result}\"}}");
        scrape.is(&format!("backstop_callbacks_total{labels}"), count);
    }
    for (method, route, status) in [
        ("other", "/readyz", "405"),
        ("GET", "none", "404"),
        ("GET", "/v1/provisions/{id}", "401"),
    ] {
        let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
        scrape.is(&format!("backstop_http_requests_total{labels}"), 1.0);
    }
    for made_up in ["FROB", "nowhere", "x1", "x2", "x3", "x4", &id.to_string()] {
        assert!(
            !scrape.text.contains(made_up),
            "{made_up} in {}",
            scrape.text
        );
    }
}

#[tokio::test]
async fn what_is_unsettled_shows_its_age_and_what_a_vendor_did_not_answer_is_counted() {
    let service = Service::start().await;
    let reset = Fault::on(Vendor::Hetzner, "GET", "/servers", FaultKind::ResetBefore);
    service.sim.fault(reset);
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    // The server may still arrive: it is watched for.
    service.callback("failure", id, RUN, json!({})).await;
    service.advance(Duration::from_secs(100)).await;
    let unanswered =
        "backstop_vendor_requests_total{vendor=\"hetzner\",method=\"GET\",status=\"none\"}";
    let scrape = Scrape::until(&service, |scrape| scrape.get(unanswered) == Some(1.0)).await;
    let age = scrape
        .get("backstop_oldest_unsettled_step_seconds")
        .unwrap();
    assert!(
        (100.0..100.0 + PATIENCE.as_secs_f64()).contains(&age),
        "{age}"
    );
    scrape.is("backstop_rollback_settle_seconds_count", 0.0);

    service.advance(Duration::from_secs(600)).await;
    service.settled(id).await;
    let scrape = Scrape::until(&service, |scrape| scrape.get(ALL_GONE) == Some(1.0)).await;
    scrape.is("backstop_oldest_unsettled_step_seconds", 0.0);
    scrape.is("backstop_rollback_settle_seconds_bucket{le=\"600\"}", 0.0);
    scrape.is("backstop_rollback_settle_seconds_bucket{le=\"900\"}", 1.0);
}

#[tokio::test]
async fn a_rollback_that_is_done_again_is_not_measured_again() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    service.settled(id).await;
    let made = service.make_all(&started);
    service.callback("failure", id, RUN, made.ids()).await;
    service.until(id, |_| service.alive().is_empty()).await;
    service.settled(id).await;
    let scrape = Scrape::until(&service, |scrape| scrape.get(ALL_GONE) == Some(2.0)).await;
    scrape.is("backstop_rollback_settle_seconds_count", 1.0);
}

#[tokio::test]
async fn services_in_one_process_count_for_themselves_and_share_what_is_in_the_database() {
    let mut service = Service::start().await;
    let other = Service::start().await;
    let replica = service.replica().await;
    service.started(Uuid::new_v4(), RUN).await;
    let accepted = "backstop_callbacks_total{kind=\"started\",result=\"accepted\"}";
    let provisioning = "backstop_provisions{status=\"provisioning\"}";
    Scrape::until(&service, |scrape| scrape.get(provisioning) == Some(1.0)).await;
    let scrape = Scrape::of(&other).await;
    scrape.is(accepted, 0.0);
    scrape.is(provisioning, 0.0);
    let first = std::mem::replace(&mut service.app, replica);
    let scrape = Scrape::of(&service).await;
    scrape.is(accepted, 0.0);
    scrape.is(provisioning, 1.0);
    first.stop().await.unwrap();
}

#[tokio::test]
async fn while_the_database_does_not_answer_nothing_is_shown_as_if_it_were_known() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service.callback("failure", id, RUN, made.ids()).await;
    service.settled(id).await;
    Scrape::of(&service).await;
    let rename = |from, to| {
        let statement = format!("alter table {from} rename to {to}");
        let pool = service.pool.clone();
        async move {
            let statement = sqlx::AssertSqlSafe(statement);
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
    };
    rename("rate_budgets", "away").await;
    let scrape = Scrape::of(&service).await;
    scrape.is("backstop_database_up", 0.0);
    scrape.is("backstop_rollback_settle_seconds_count", 1.0);
    scrape.is(
        "backstop_callbacks_total{kind=\"failure\",result=\"accepted\"}",
        1.0,
    );
    for name in [
        "backstop_provisions",
        "backstop_rollback_steps",
        "backstop_oldest_unsettled_step_seconds",
        "backstop_vendor_rate_remaining",
        "backstop_orphans",
    ] {
        assert!(
            !scrape.text.contains(&format!("{name}{{")),
            "{}",
            scrape.text
        );
        assert!(
            !scrape.text.contains(&format!("{name} ")),
            "{}",
            scrape.text
        );
    }
    rename("away", "rate_budgets").await;
    let scrape = Scrape::of(&service).await;
    scrape.is("backstop_database_up", 1.0);
    scrape.is("backstop_provisions{status=\"failed\"}", 1.0);
}
