//! The page under attack: sessions that are made up, forms of other sites, texts that want to be more
//! than text, and ways out to elsewhere. What `tests/service/page.rs` does not try.

use std::sync::LazyLock;

use backstop::http::tokens::Tokens;
use backstop::providers::Timeouts;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{OPERATOR, Options, READER, Run, Service, labels};
use crate::liar::{Liar, Told, changed, made_up};

/// Does not go where it is sent: that is looked at.
#[expect(
    clippy::disallowed_methods,
    reason = "the service's clients follow redirects"
)]
static STAYS: LazyLock<Client> = LazyLock::new(|| {
    let client = Client::builder().redirect(Policy::none()).no_proxy();
    client.build().unwrap()
});

struct Page {
    status: u16,
    location: String,
    cookie: String,
    policy: String,
    text: String,
}

async fn read(request: RequestBuilder) -> Page {
    let answer = STAYS.execute(request.build().unwrap()).await.unwrap();
    let header = |name: &str| {
        let value = answer.headers().get(name);
        value.map_or("", |it| it.to_str().unwrap()).to_owned()
    };
    Page {
        status: answer.status().as_u16(),
        location: header("location"),
        cookie: header("set-cookie"),
        policy: header("content-security-policy"),
        text: answer.text().await.unwrap(),
    }
}

fn sign_in(service: &Service, token: &str, next: &str) -> RequestBuilder {
    service
        .request("POST", "/sign-in")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(format!("token={token}&next={next}"))
}

async fn session(service: &Service, token: &str) -> String {
    let page = read(sign_in(service, token, "/")).await;
    page.cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn no_session_can_be_made_up_cut_or_taken_from_elsewhere() {
    let (service, other) = (
        Service::start().await,
        Service::start_changed(Options::default(), |config| {
            config.tokens = Tokens::new(["another-reader".into()], ["another-operator".into()]);
        })
        .await,
    );
    let id = Uuid::new_v4();
    service.started(id, Run(100, 1)).await;
    let reader = session(&service, READER).await;
    let operator = session(&service, OPERATOR).await;
    let theirs = session(&other, "another-operator").await;
    let mac = operator.rsplit_once('.').unwrap().1.to_owned();
    let of_reader = reader.rsplit_once('.').unwrap().1.to_owned();
    let mut lines = vec![
        ("another installation's".to_owned(), theirs),
        (
            "a reader's as an operator's".to_owned(),
            reader.replace("read", "operator"),
        ),
        (
            "an operator's with a reader's MAC".to_owned(),
            operator.replace(&mac, &of_reader),
        ),
        (
            "with a longer time".to_owned(),
            operator.replacen("1.operator.", "1.operator.9", 1),
        ),
        (
            "with a sign before its time".to_owned(),
            operator.replacen("1.operator.", "1.operator.+", 1),
        ),
        (
            "with a nought before its time".to_owned(),
            operator.replacen("1.operator.", "1.operator.0", 1),
        ),
        (
            "another version".to_owned(),
            operator.replacen("1.operator", "2.operator", 1),
        ),
        (
            "no version".to_owned(),
            operator.replacen("1.operator", "operator", 1),
        ),
        ("padded".to_owned(), format!("{operator}=")),
        ("with more behind it".to_owned(), format!("{operator}.x")),
        (
            "in capitals".to_owned(),
            operator.to_uppercase().replacen("BACKSTOP", "backstop", 1),
        ),
        ("quoted".to_owned(), operator.replacen('=', "=\"", 1) + "\""),
        (
            "under another name".to_owned(),
            operator.replacen("backstop", "Backstop", 1),
        ),
        (
            "the token itself".to_owned(),
            format!("backstop={OPERATOR}"),
        ),
        (
            "the role alone".to_owned(),
            "backstop=1.operator.99999999999.".to_owned(),
        ),
    ];
    for cut in 1..mac.len().min(6) {
        lines.push((
            format!("cut by {cut}"),
            operator[..operator.len() - cut].to_owned(),
        ));
    }
    for (what, cookie) in lines {
        let path = format!("/provisions/{id}");
        let look = read(service.request("GET", &path).header("cookie", &cookie)).await;
        assert_eq!(
            (look.status, look.text.contains("web-1")),
            (303, false),
            "{what}"
        );
        let form = service
            .request("POST", &format!("{path}/destroy"))
            .header("sec-fetch-site", "same-origin");
        let form = read(form.header("cookie", &cookie)).await;
        assert_eq!(
            (form.status, form.location.starts_with("/sign-in")),
            (303, true),
            "{what}"
        );
        let api = service
            .request("GET", "/v1/provisions")
            .header("cookie", &cookie);
        assert_eq!(service.send(api).await.status, 401, "{what}");
    }
    // A reader's beside it gives the reader's rights, and no more.
    let both = format!("{}; {reader}", reader.replace("read", "operator"));
    let form = service
        .request("POST", &format!("/provisions/{id}/destroy"))
        .header("sec-fetch-site", "same-origin")
        .header("cookie", both);
    assert_eq!(read(form).await.status, 403);
    assert_eq!(service.provision(id).await["status"], "provisioning");
}

#[tokio::test]
async fn no_other_sites_form_signs_in_signs_out_retries_or_destroys() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, Run(100, 1)).await;
    let operator = session(&service, OPERATOR).await;
    let own = service.url("");
    let host = own.trim_start_matches("http://").to_owned();
    let from: &[&[(&str, &str)]] = &[
        &[],
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[
            ("origin", "https://evil.example"),
            ("x-forwarded-host", "evil.example"),
        ],
        &[
            ("origin", "https://evil.example"),
            ("forwarded", "host=evil.example"),
        ],
        &[
            ("origin", "https://evil.example"),
            ("referer", own.as_str()),
        ],
        &[("referer", own.as_str())],
        &[("sec-fetch-site", "same-site"), ("origin", own.as_str())],
        &[("sec-fetch-site", "cross-site"), ("origin", own.as_str())],
        &[("sec-fetch-site", "none"), ("origin", own.as_str())],
        &[("sec-fetch-site", "Same-Origin"), ("origin", own.as_str())],
        &[("sec-fetch-site", "same-origin, cross-site")],
        &[("origin", "http://localhost")],
        &[("origin", "http://127.0.0.1")],
        &[("origin", "http://127.0.0.1:1")],
    ];
    let close_by = [
        format!("{own}.evil.example"),
        format!("http://evil.example/{host}"),
        format!("http://x@{host}"),
        format!("{own}/"),
        format!("{own},https://evil.example"),
    ];
    let close_by: Vec<Vec<(&str, &str)>> = close_by
        .iter()
        .map(|origin| vec![("origin", origin.as_str())])
        .collect();
    let from: Vec<&[(&str, &str)]> = from
        .iter()
        .copied()
        .chain(close_by.iter().map(Vec::as_slice))
        .collect();
    for headers in from {
        for path in [
            "/sign-in".to_owned(),
            "/sign-out".to_owned(),
            format!("/provisions/{id}/rollback"),
            format!("/provisions/{id}/destroy"),
        ] {
            for kind in [
                "application/x-www-form-urlencoded",
                "text/plain",
                "application/json",
            ] {
                let mut request = service
                    .request("POST", &path)
                    .header("content-type", kind)
                    .header("cookie", &operator)
                    .body(format!("token={OPERATOR}"));
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let page = read(request).await;
                assert_eq!(
                    (page.status, page.cookie.as_str()),
                    (403, ""),
                    "{path} {headers:?}"
                );
            }
        }
    }
    assert_eq!(
        service.event_kinds(id).await,
        ["created", "callback.started"]
    );
}

#[tokio::test]
async fn whoever_signs_in_stays_here_however_the_way_out_is_spelled() {
    let service = Service::start().await;
    for next in [
        "//evil.example",
        "///evil.example",
        "/%5C/evil.example",
        "%5C%5Cevil.example",
        "/%09/evil.example",
        "/%0d%0aset-cookie:%20backstop=1",
        "/%0aLocation:%20//evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "%20//evil.example",
        "%2F%2Fevil.example",
        "/%E2%80%AE//x",
        "evil.example",
        "@evil.example",
        ".evil.example",
        "/%00//evil.example",
        "http://127.0.0.1@evil.example",
    ] {
        let page = read(sign_in(&service, READER, next)).await;
        assert_eq!((page.status, page.location.as_str()), (303, "/"), "{next}");
        let form = read(service.request("GET", &format!("/sign-in?next={next}"))).await;
        assert!(
            !form.text.contains("evil") && !form.text.contains("alert"),
            "{next}"
        );
    }
    let own = read(sign_in(&service, READER, "/provisions?q=a%26b")).await;
    assert_eq!(own.location, "/provisions?q=a&b");
}

#[tokio::test]
async fn what_vendors_say_is_text_on_every_page() {
    let evil = "<img src=x onerror=alert(1)><script>\"'&";
    let options = Options {
        github: Some(Timeouts::default()),
        ..Options::default()
    };
    let (liar, service) = Liar::start(options, |_| {}).await;
    let refusal = Told::json(404, &json!({"message": evil}));
    let id = Uuid::new_v4();
    let started = service.started(id, Run(100, 1)).await;
    let mut incomplete = labels(&started);
    incomplete.retain(|(name, _)| name != "backstop-run");
    service.sim.add_server("odd", incomplete);
    liar.tell(vec![
        made_up("POST", "/dispatches", move |_| refusal.clone()),
        changed("GET", "/v1/servers", move |_, told| {
            told.changed(|body| {
                for server in body["servers"].as_array_mut().unwrap() {
                    server["name"] = json!(evil);
                }
            })
        }),
        changed("GET", "/v1/pricing", move |_, told| {
            told.changed(|body| body["pricing"]["currency"] = json!(evil))
        }),
        made_up("GET", "/v1/actions", move |_| {
            let error = json!({"code": evil, "message": evil});
            let of = json!([{"id": 1, "type": "server"}]);
            let action = json!({"id": 1, "status": "error", "command": "x", "resources": of, "error": error});
            Told::json(200, &json!({"actions": [action]}))
        }),
    ]);
    let refused = json!({"agent_id": "web-2"});
    let answer = service
        .operate("POST", "/v1/provisions", Some(refused))
        .await;
    let failed: Uuid = answer.body["id"].as_str().unwrap().parse().unwrap();
    service.until(failed, |it| it["status"] == "failed").await;

    let begun = service.begin_sweep().await;
    let (hetzner, tailscale) = liar.clients(&Options::default());
    let vendors = backstop::sweep::Vendors {
        hetzner: std::sync::Arc::new(hetzner),
        tailscale: Some((
            std::sync::Arc::new(tailscale),
            crate::harness::TAG.to_owned(),
        )),
        controller: service.vendors().await.controller,
    };
    let report = backstop::domain::orphans::Mandate::Report;
    Box::pin(backstop::sweep::sweep(
        service.app.pool(),
        &vendors,
        &begun,
        report,
    ))
    .await
    .unwrap();
    assert!(service.orphans().await.to_string().contains("<img"));

    let cookie = session(&service, OPERATOR).await;
    let mut shown = 0;
    for path in [
        "/".to_owned(),
        "/provisions".to_owned(),
        format!("/provisions/{id}"),
        format!("/provisions/{failed}"),
        format!("/provisions/{failed}/destroy"),
    ] {
        for fragment in [false, true] {
            let mut request = service.request("GET", &path).header("cookie", &cookie);
            if fragment {
                request = request.header("backstop-fragment", "1");
            }
            let page = read(request).await;
            assert!(
                !page.text.contains("<img") && !page.text.contains("<script>"),
                "{path}"
            );
            assert!(
                page.policy.starts_with("default-src 'none'; "),
                "{path}: {}",
                page.policy
            );
            assert!(!page.policy.contains("unsafe"), "{path}");
            shown += page.text.matches("&lt;img src=x").count();
        }
    }
    assert!(shown >= 4, "the pages show it {shown} times");
}
