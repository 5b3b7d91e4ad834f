//! The page over HTTP: who gets in, what every answer carries, what is found. What people see of it is
//! for `tests/page`.

use std::sync::LazyLock;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{OPERATOR, Options, READER, Run, Service};
use crate::status_api::in_status;

const RUN: Run = Run(100, 1);

struct Page {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }
}

/// Does not go where it is sent: that is looked at.
#[expect(
    clippy::disallowed_methods,
    reason = "the service's clients follow redirects"
)]
static STAYS: LazyLock<Client> = LazyLock::new(|| {
    let client = Client::builder().redirect(Policy::none()).no_proxy();
    client.build().unwrap()
});

async fn read(request: RequestBuilder) -> Page {
    let answer = STAYS.execute(request.build().unwrap()).await.unwrap();
    Page {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.text().await.unwrap(),
    }
}

/// As a browser posts a form of one of our pages.
fn post(service: &Service, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    service
        .request("POST", path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(fields.join("&"))
}

/// The cookie of a session, as a browser sends it back.
async fn session(service: &Service, token: &str) -> String {
    let page = read(post(service, "/sign-in", &[("token", token)])).await;
    assert_eq!((page.status, page.header("location")), (303, "/"));
    page.header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned()
}

async fn look(service: &Service, cookie: &str, path: &str) -> Page {
    read(service.request("GET", path).header("cookie", cookie)).await
}

#[tokio::test]
async fn whoever_is_not_signed_in_is_sent_to_sign_in() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    for (path, to) in [
        ("/".to_owned(), "/sign-in".to_owned()),
        (
            "/provisions?q=a&status=failed".to_owned(),
            "/sign-in?next=/provisions?q=a%26status=failed".to_owned(),
        ),
        (
            format!("/provisions/{id}"),
            format!("/sign-in?next=/provisions/{id}"),
        ),
        (
            format!("/provisions/{id}/destroy"),
            format!("/sign-in?next=/provisions/{id}/destroy"),
        ),
    ] {
        for cookie in [
            "",
            "backstop=",
            "backstop=1.operator.99999999999.x",
            "backstop=operator-token",
        ] {
            let page = look(&service, cookie, &path).await;
            assert_eq!(
                (page.status, page.header("location")),
                (303, to.as_str()),
                "{path} {cookie}"
            );
        }
        // Followed from elsewhere: the browser keeps the cookie back, and is asked once more.
        let page = read(
            service
                .request("GET", &path)
                .header("sec-fetch-site", "cross-site"),
        )
        .await;
        assert_eq!(page.status, 200);
        assert!(
            page.text.contains("http-equiv=\"refresh\""),
            "{}",
            page.text
        );
        // The script shows what it has, and says so.
        let page = read(
            service
                .request("GET", &path)
                .header("backstop-fragment", "1"),
        )
        .await;
        assert_eq!((page.status, page.text.as_str()), (401, ""));
    }
}

#[tokio::test]
async fn a_token_signs_in_for_what_it_may_and_nothing_else_does() {
    let service = Service::start().await;
    for token in ["", "wrong", "reader-toke", "reader-tokens", "READER-TOKEN"] {
        let page = read(post(
            &service,
            "/sign-in",
            &[("token", token), ("next", "/provisions")],
        ))
        .await;
        assert_eq!(page.status, 403, "{token}");
        assert_eq!(page.header("set-cookie"), "");
        assert!(
            page.text
                .contains("neither the read token nor the operator token")
        );
        assert!(page.text.contains(r#"name="next" value="/provisions""#));
    }
    for next in ["//evil.example", "https://evil.example", "/%5Cevil.example"] {
        let page = read(post(
            &service,
            "/sign-in",
            &[("token", READER), ("next", next)],
        ))
        .await;
        assert_eq!((page.status, page.header("location")), (303, "/"), "{next}");
    }
    let page = read(post(&service, "/sign-in", &[("token", OPERATOR)])).await;
    let (value, attributes) = page.header("set-cookie").split_once("; ").unwrap();
    assert!(value.starts_with("backstop=1.operator."));
    assert_eq!(
        attributes,
        "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"
    );
    let page = read(post(&service, "/sign-out", &[]).header("cookie", value.to_owned())).await;
    assert_eq!(page.header("location"), "/sign-in");
    assert!(
        page.header("set-cookie")
            .starts_with("backstop=; Path=/; Max-Age=0;")
    );
}

#[tokio::test]
async fn behind_https_the_cookie_is_for_https_alone() {
    let service = Service::start_with(Options {
        public_url: Some("https://backstop.example".to_owned()),
        ..Options::default()
    })
    .await;
    let page = read(post(&service, "/sign-in", &[("token", READER)])).await;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("__Host-backstop=1.read."), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(look(&service, cookie, "/").await.status, 200);
    // Through a tunnel, from which no browser would keep that one.
    let tunnel = post(&service, "/sign-in", &[("token", READER)]).header("origin", service.url(""));
    let page = read(tunnel).await;
    assert!(page.header("set-cookie").starts_with("backstop=1.read."));
}

#[tokio::test]
async fn every_answer_of_the_page_has_its_headers() {
    let service = Service::start().await;
    let cookie = session(&service, OPERATOR).await;
    for (path, status) in [
        ("/", 200),
        ("/provisions", 200),
        ("/provisions/no-uuid", 404),
        ("/provisions/00000000-0000-4000-8000-000000000000", 404),
        (
            "/provisions/00000000-0000-4000-8000-000000000000/destroy",
            404,
        ),
        ("/sign-in", 303),
    ] {
        let page = look(&service, &cookie, path).await;
        assert_eq!(page.status, status, "{path}");
        let policy = page.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; "),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        assert!(page.headers.contains_key("x-request-id"));
        // What the policy would not let through.
        assert!(
            !page.text.contains(" style=") && !page.text.contains("<style"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn style_and_script_are_named_by_what_is_in_them_and_kept_for_good() {
    let service = Service::start().await;
    let page = look(&service, "", "/sign-in").await;
    let (_, link) = page.text.split_once(r#"rel="stylesheet" href=""#).unwrap();
    let (path, _) = link.split_once('"').unwrap();
    let style = look(&service, "", path).await;
    assert_eq!(style.status, 200);
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");
    assert_eq!(
        style.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    for path in ["/assets/page.css", "/assets/", "/assets/0123456789ab.css"] {
        assert_eq!(look(&service, "", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_session_reads_the_api_and_changes_nothing_there() {
    let service = Service::start().await;
    let id = in_status(&service, "running").await;
    let cookie = session(&service, OPERATOR).await;
    for path in [
        "/v1/provisions".to_owned(),
        format!("/v1/provisions/{id}/events"),
        "/v1/orphans".to_owned(),
    ] {
        assert_eq!(look(&service, &cookie, &path).await.status, 200, "{path}");
    }
    for (method, path) in [
        ("POST", "/v1/provisions".to_owned()),
        ("POST", format!("/v1/provisions/{id}/rollback")),
        ("DELETE", format!("/v1/provisions/{id}")),
    ] {
        let request = service.request(method, &path).header("cookie", &cookie);
        let answer = service
            .send(request.header("sec-fetch-site", "same-origin"))
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated"),
            "{method} {path}"
        );
    }
    // A token that is there counts, whoever is signed in.
    let request = service
        .request("GET", "/v1/provisions")
        .header("cookie", &cookie);
    assert_eq!(service.send(request.bearer_auth("wrong")).await.status, 401);
    assert_eq!(service.provision(id).await["status"], "running");
}

#[tokio::test]
async fn only_an_operators_form_on_our_own_page_changes_anything() {
    let service = Service::start().await;
    let id = in_status(&service, "running").await;
    let (reader, operator) = (
        session(&service, READER).await,
        session(&service, OPERATOR).await,
    );
    let path = format!("/provisions/{id}/destroy");
    let from = |site: Option<(&str, &str)>, cookie: &str| {
        let request = service
            .request("POST", &path)
            .header("cookie", cookie.to_owned());
        match site {
            Some((name, value)) => request.header(name.to_owned(), value.to_owned()),
            None => request,
        }
    };
    for (site, cookie, status) in [
        (None, &operator, 403),
        (Some(("sec-fetch-site", "cross-site")), &operator, 403),
        (Some(("sec-fetch-site", "same-site")), &operator, 403),
        (Some(("sec-fetch-site", "none")), &operator, 403),
        (Some(("origin", "http://evil.example")), &operator, 403),
        (Some(("origin", "null")), &operator, 403),
        (Some(("sec-fetch-site", "same-origin")), &reader, 403),
        (Some(("sec-fetch-site", "same-origin")), &String::new(), 303),
    ] {
        let page = read(from(site, cookie)).await;
        assert_eq!(page.status, status, "{site:?}");
    }
    assert_eq!(service.provision(id).await["status"], "running");

    let ours = service.url("");
    let page = read(from(Some(("origin", &ours)), &operator)).await;
    assert_eq!(
        page.header("location"),
        format!("/provisions/{id}?said=destroy")
    );
    assert_eq!(service.provision(id).await["status"], "destroyed");
    let retry = format!("/provisions/{id}/rollback");
    let page =
        read(post(&service, &retry, &[("back", "//evil.example")]).header("cookie", &operator))
            .await;
    assert_eq!(page.header("location"), "/?said=retry");
    assert!(service.event_kinds(id).await.contains(&"retry".to_owned()));
}

#[tokio::test]
async fn what_others_wrote_is_text_on_every_page() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let evil = r#"<img src=x onerror=alert(1)>"&'"#;
    let about = json!({"agent_id": evil, "region": evil});
    service.callback("started", id, RUN, about).await;
    let progress = json!({"step": evil});
    service.callback("progress", id, RUN, progress).await;
    let failure = json!({"error": evil, "failed_step": evil});
    service.callback("failure", id, RUN, failure).await;
    let cookie = session(&service, OPERATOR).await;
    let detail = format!("/provisions/{id}");
    for path in [
        "/",
        "/provisions",
        "/provisions?q=%3Cimg%20src%3Dx",
        &detail,
        &format!("{detail}/destroy"),
    ] {
        let page = look(&service, &cookie, path).await;
        assert!(page.text.contains("&lt;img src=x"), "{path}");
        assert!(!page.text.contains("<img"), "{path}");
    }
}

#[tokio::test]
async fn a_search_finds_by_whatever_people_have_in_hand() {
    let service = Service::start().await;
    let mut ids = Vec::new();
    for (run, agent) in [(7001, "Web_1"), (7002, "web-2"), (7003, "db%3")] {
        let (id, run) = (Uuid::new_v4(), Run(run, 1));
        let about = json!({"agent_id": agent});
        service.callback("started", id, run, about).await;
        let made = json!({"server_id": format!("4{}", run.0), "server_ip": format!("192.0.2.{}", run.0 - 7000),
                          "tailscale_ip": format!("fd7a::{}", run.0 - 7000)});
        service.callback("progress", id, run, made).await;
        ids.push(id);
    }
    let cookie = session(&service, READER).await;
    let id = ids[0].to_string();
    for (query, found) in [
        ("", &[0, 1, 2][..]),
        ("q=web", &[0, 1]),
        ("q=WEB", &[0, 1]),
        ("q=web_", &[0]),
        ("q=%25", &[2]),
        ("q=b-2", &[1]),
        ("q=%20web-2%20", &[1]),
        (&format!("q={id}"), &[0]),
        (&format!("q={}", &id[..8]), &[0]),
        (&format!("q=agent-{}-a1", ids[0].simple()), &[0]),
        ("q=7002", &[1]),
        ("q=47003", &[2]),
        ("q=192.0.2.3", &[2]),
        ("q=FD7A:0::1", &[0]),
        ("q=192.0.2", &[]),
        ("q=99999999999999999999", &[]),
        ("q=%00", &[0, 1, 2]),
        ("q=web&status=running", &[]),
        ("q=web&status=provisioning", &[0, 1]),
        ("status=nonsense&rollback=", &[0, 1, 2]),
        ("rollback=pending", &[]),
        ("cursor=nonsense", &[0, 1, 2]),
    ] {
        let page = look(&service, &cookie, &format!("/provisions?{query}")).await;
        assert_eq!(page.status, 200, "{query}");
        for (at, id) in ids.iter().enumerate() {
            let listed = page.text.contains(&format!("id=\"p-{id}\""));
            assert_eq!(listed, found.contains(&at), "{query}: {at}");
        }
    }
}

#[tokio::test]
async fn a_list_goes_on_where_its_page_ended() {
    let service = Service::start().await;
    for number in 0..60 {
        let body = json!({"agent_id": format!("agent-{number}")});
        service.operate("POST", "/v1/provisions", Some(body)).await;
    }
    let cookie = session(&service, READER).await;
    let mut seen = 0;
    let mut path = "/provisions?q=agent-&status=queued".to_owned();
    loop {
        let page = look(&service, &cookie, &path).await;
        seen += page.text.matches("id=\"p-").count();
        let next = page.text.split('"').find(|it| it.contains("cursor="));
        match next {
            Some(next) => path = next.replace("&amp;", "&"),
            None => break,
        }
    }
    assert_eq!(seen, 60);
}

#[tokio::test]
async fn a_fragment_is_what_changes_and_nothing_around_it() {
    let service = Service::start().await;
    in_status(&service, "running").await;
    let cookie = session(&service, READER).await;
    let whole = look(&service, &cookie, "/provisions").await.text;
    let request = service
        .request("GET", "/provisions")
        .header("cookie", &cookie);
    let part = read(request.header("backstop-fragment", "1")).await.text;
    assert!(
        part.starts_with("<div id=\"live\"") && !part.contains("<form"),
        "{part}"
    );
    assert!(whole.contains("<div id=\"live\"") && whole.starts_with("<!DOCTYPE html>"));
}
