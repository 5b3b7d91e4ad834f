//! Who gets in, and what every answer carries.

use uuid::Uuid;

use crate::harness::{OPERATOR, READER, Service};
use crate::status_api::in_status;

#[tokio::test]
async fn readers_read_operators_do_both_and_nobody_else_gets_in() {
    let service = Service::start().await;
    let id = in_status(&service, "running").await;
    let calls = [
        ("GET", "/v1/provisions".to_owned(), false),
        ("GET", format!("/v1/provisions/{id}"), false),
        ("GET", format!("/v1/provisions/{id}/events"), false),
        ("GET", format!("/v1/provisions/{}", Uuid::new_v4()), false),
        ("GET", "/v1/provisions/no-uuid".to_owned(), false),
        ("GET", "/v1/provisions?limit=junk".to_owned(), false),
        ("GET", "/v1/orphans".to_owned(), false),
        ("GET", "/metrics".to_owned(), false),
        ("POST", "/v1/provisions".to_owned(), true),
        ("POST", format!("/v1/provisions/{id}/rollback"), true),
        ("DELETE", format!("/v1/provisions/{id}"), true),
        ("DELETE", "/v1/provisions/no-uuid".to_owned(), true),
    ];
    let before = (service.provision(id).await, service.events(id).await);
    for (method, path, changes) in &calls {
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Basic reader-token",
            "reader-token",
            "Bearer reader-token ,",
            "Bearer  reader-token",
            "Bearer reader-toke",
            "Bearer reader-tokens",
            "Bearer READER-TOKEN",
        ] {
            let mut request = service.request(method, path);
            if !value.is_empty() {
                request = request.header("authorization", value);
            }
            let answer = service.send(request).await;
            assert_eq!(
                (answer.status, answer.code()),
                (401, "unauthenticated"),
                "{method} {path} {value:?}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        let answer = service
            .send(service.request(method, path).bearer_auth(READER))
            .await;
        if *changes {
            assert_eq!(
                (answer.status, answer.code()),
                (403, "forbidden"),
                "{method} {path}"
            );
        } else {
            assert_ne!(answer.status / 100, 5);
            let same = service
                .send(service.request(method, path).bearer_auth(OPERATOR))
                .await;
            assert_eq!(
                (same.status, same.code()),
                (answer.status, answer.code()),
                "{path}"
            );
            assert!(![401, 403].contains(&answer.status), "{path}");
        }
    }
    assert_eq!(
        (service.provision(id).await, service.events(id).await),
        before
    );
    // The scheme's case is not looked at.
    let request = service
        .request("GET", "/v1/provisions")
        .header("authorization", "bEARER reader-token");
    assert_eq!(service.send(request).await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_errors_are_problems() {
    let service = Service::start().await;
    for open in ["/livez", "/readyz"] {
        assert_eq!(service.send(service.request("GET", open)).await.status, 200);
    }
    let long = "x".repeat(129);
    for (given, kept) in [
        (Some("my-id_1.2/3"), true),
        (Some(&long[..128]), true),
        (Some(long.as_str()), false),
        (Some(""), false),
        (None, false),
    ] {
        for path in ["/livez", "/v1/provisions", "/nowhere"] {
            let mut request = service.request("GET", path);
            if let Some(given) = given {
                request = request.header("x-request-id", given);
            }
            let answer = service.send(request).await;
            let id = answer.headers["x-request-id"].to_str().unwrap();
            if kept {
                assert_eq!(Some(id), given);
            } else {
                id.parse::<Uuid>().unwrap();
            }
            if answer.status != 200 {
                assert_eq!(answer.body["request_id"], id);
                assert_eq!(answer.body["status"], answer.status);
            }
        }
    }
    let id = in_status(&service, "queued").await;
    let unknown = Uuid::new_v4();
    for (method, path, status) in [
        ("GET", format!("/v1/provisions/{unknown}"), 404),
        ("GET", format!("/v1/provisions/{unknown}/events"), 404),
        ("DELETE", format!("/v1/provisions/{unknown}"), 404),
        ("POST", format!("/v1/provisions/{unknown}/rollback"), 404),
        ("GET", "/nowhere".to_owned(), 404),
        ("GET", "/v1/provisions/".to_owned(), 404),
        ("GET", format!("/v1/provisions/{id}/"), 404),
        ("GET", format!("/v1/provisions/{id}/steps"), 404),
        ("GET", format!("/v1//provisions/{id}"), 404),
        ("PUT", "/v1/provisions".to_owned(), 405),
        ("PATCH", format!("/v1/provisions/{id}"), 405),
        ("POST", format!("/v1/provisions/{id}"), 405),
        ("DELETE", format!("/v1/provisions/{id}/events"), 405),
        ("GET", format!("/v1/provisions/{id}/rollback"), 405),
        ("GET", format!("/v1/provisions/{id}/callbacks/started"), 405),
        ("POST", "/livez".to_owned(), 405),
        ("FROB", "/readyz".to_owned(), 405),
    ] {
        let answer = service.operate(method, &path, None).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let code = if status == 404 {
            "not_found"
        } else {
            "method_not_allowed"
        };
        assert_eq!(answer.code(), code, "{method} {path}");
        assert_eq!(
            answer.headers.contains_key("allow"),
            status == 405,
            "{method} {path}"
        );
    }
}
