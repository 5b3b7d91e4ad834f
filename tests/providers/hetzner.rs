//! Servers and actions.

use std::time::Duration;

use backstop::providers::Vendor;
use backstop::providers::hetzner::{Action, ActionStatus, Deletion, RateLimit, Server};
use serde_json::{Value, json};

use crate::canned::{Canned, TOKEN, json_answer, kind, script, serve, text};

fn server(id: u64) -> Value {
    json!({
        "id": id, "name": format!("agent-{id}"), "status": "running", "locked": false,
        "labels": {"backstop-provision": "p1"}, "protection": {"delete": false, "rebuild": false},
        "created": "2026-01-30T23:55:00Z",
        "public_net": {"ipv4": {"ip": "1.2.3.4", "blocked": false}, "ipv6": null},
        "some_new_field": {"that": ["nobody", "knows"]},
    })
}

fn servers(ids: &[u64], page: u64, next: Option<u64>, total: Option<u64>) -> Canned {
    let servers: Vec<Value> = ids.iter().map(|id| server(*id)).collect();
    let pagination = json!({
        "page": page, "per_page": 50, "previous_page": null, "next_page": next,
        "last_page": null, "total_entries": total,
    });
    json_answer(
        200,
        &json!({"servers": servers, "meta": {"pagination": pagination}}),
    )
}

fn hetzner_error(status: u16, code: &str, message: &str) -> Canned {
    let error = json!({"code": code, "message": message, "details": null});
    json_answer(status, &json!({"error": error}))
}

fn action(id: u64, status: &str) -> Value {
    json!({
        "id": id, "command": "delete_server", "status": status, "progress": 0,
        "started": "2026-01-30T23:55:00Z", "finished": null, "error": null,
        "resources": [{"id": 42, "type": "server"}],
    })
}

fn ids(servers: &[Server]) -> Vec<u64> {
    servers.iter().map(|server| server.id).collect()
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let pages = [
        servers(&[1, 2], 1, Some(2), Some(5)),
        servers(&[3, 4], 2, Some(3), Some(5)),
        servers(&[5], 3, None, Some(5)),
    ];
    let vendor = script([pages.clone(), pages].concat()).await;
    let found = vendor
        .hetzner()
        .servers_by_label("a in (b,c),d")
        .await
        .unwrap();
    assert_eq!(ids(&found), [1, 2, 3, 4, 5]);
    assert_eq!(found[0].labels["backstop-provision"], "p1");
    assert_eq!(found[0].ipv4.as_deref(), Some("1.2.3.4"));
    assert!(found[0].created.is_some());
    let query = "label_selector=a+in+%28b%2Cc%29%2Cd&sort=id%3Aasc&per_page=50";
    let asked = |page: u64| format!("GET /v1/servers?{query}&page={page}");
    // Twice: nothing came and nothing went between two of its pages.
    assert_eq!(vendor.lines(), [1, 2, 3, 1, 2, 3].map(asked));
    let seen = vendor.seen.lock().unwrap();
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        seen.iter()
            .all(|s| s.authorization.as_ref() == Some(&bearer))
    );
}

#[tokio::test]
async fn a_list_that_changes_between_pages_is_read_again() {
    // Server 1 goes after the first page: 3 moves up to it, and the second page is empty of it.
    let vendor = script([
        servers(&[1, 2], 1, Some(2), Some(3)),
        servers(&[], 2, None, Some(2)),
        servers(&[2, 3], 1, None, Some(2)),
    ])
    .await;
    let found = vendor.hetzner().servers_by_label("a").await.unwrap();
    assert_eq!(ids(&found), [2, 3]);
}

#[tokio::test]
async fn one_that_comes_and_one_that_goes_hide_nothing_between_two_pages() {
    // Server 1 goes after the first page and 5 comes: 3 is on neither page, and the total stays.
    let whole = [
        servers(&[2, 3], 1, Some(2), Some(4)),
        servers(&[4, 5], 2, None, Some(4)),
    ];
    let shifted = [
        servers(&[1, 2], 1, Some(2), Some(4)),
        servers(&[4, 5], 2, None, Some(4)),
    ];
    let script_of = |readings: &[&[Canned; 2]]| {
        let readings: Vec<Canned> = readings.iter().flat_map(|it| it.to_vec()).collect();
        script(readings)
    };
    let vendor = script_of(&[&shifted, &whole, &whole]).await;
    let found = vendor.hetzner().servers_by_label("a").await.unwrap();
    assert_eq!(ids(&found), [2, 3, 4, 5]);

    // It shifts whenever it is read: what is shown is there, and no absence is proven.
    let vendor = script_of(&[&whole, &shifted, &whole]).await;
    let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
    assert!(
        error.to_string().contains("changed between two readings"),
        "{error}"
    );
    let vendor = script_of(&[&whole, &shifted, &whole]).await;
    let shown = vendor.hetzner().servers_shown("a").await.unwrap();
    assert_eq!(ids(&shown.things), [2, 3, 4, 5]);
    assert!(shown.not_all.is_some());
}

#[tokio::test]
async fn what_a_list_that_never_stands_still_shows_is_there_and_proves_no_absence() {
    // One goes between the pages, each time.
    let restless = || {
        let first = servers(&[1, 2], 1, Some(2), Some(4));
        [first, servers(&[4], 2, None, Some(3))]
    };
    let vendor = script([restless(), restless(), restless()].concat()).await;
    let shown = vendor.hetzner().servers_shown("a").await.unwrap();
    assert_eq!(ids(&shown.things), [1, 2, 4]);
    assert!(shown.not_all.is_some());

    let vendor = script([restless(), restless(), restless()].concat()).await;
    let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );

    let vendor = script([servers(&[7], 1, None, Some(1))]).await;
    let shown = vendor.hetzner().servers_shown("a").await.unwrap();
    assert_eq!(
        (ids(&shown.things), shown.not_all.is_none()),
        (vec![7], true)
    );
}

#[tokio::test]
async fn lists_that_prove_nothing_are_errors() {
    let broken = [
        (
            "another page",
            vec![
                servers(&[1], 1, Some(2), None),
                servers(&[1], 1, Some(2), None),
            ],
        ),
        (
            "nothing new",
            vec![
                servers(&[1], 1, Some(2), None),
                servers(&[1], 2, Some(3), None),
            ],
        ),
        ("a page skipped", vec![servers(&[1], 1, Some(3), None)]),
        ("never adds up", vec![servers(&[], 1, None, Some(1)); 3]),
        (
            "a page fails",
            vec![
                servers(&[1], 1, Some(2), Some(2)),
                hetzner_error(503, "unavailable", "later"),
            ],
        ),
        ("no meta", vec![json_answer(200, &json!({"servers": []}))]),
        (
            "no next_page",
            vec![json_answer(
                200,
                &json!({"servers": [], "meta": {"pagination": {"page": 1}}}),
            )],
        ),
        (
            "no servers",
            vec![json_answer(
                200,
                &json!({"meta": {"pagination": {"page": 1, "next_page": null}}}),
            )],
        ),
        (
            "servers null",
            vec![json_answer(
                200,
                &json!({"servers": null, "meta": {"pagination": {"page": 1, "next_page": null}}}),
            )],
        ),
        (
            "no labels",
            vec![json_answer(
                200,
                &json!({"servers": [{"id": 1}], "meta": {"pagination": {"page": 1, "next_page": null}}}),
            )],
        ),
        ("cut off", vec![text(200, "{\"servers\": [")]),
        ("a proxy's page", vec![text(200, "<html>welcome</html>")]),
        ("empty", vec![text(200, "")]),
        (
            "no such route",
            vec![hetzner_error(404, "not_found", "api route not found")],
        ),
    ];
    for (name, answers) in broken {
        let scripted = answers.len();
        let vendor = script(answers).await;
        let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{name}: {error}");
        assert_ne!(error.call().status(), Some(599), "{name}");
        assert_eq!(vendor.lines().len(), scripted, "{name}");
    }
}

#[tokio::test]
async fn an_endless_list_ends() {
    let vendor = serve(|seen| {
        let (_, page) = seen.line.rsplit_once("page=").unwrap();
        let page: u64 = page.parse().unwrap();
        servers(&[page], page, Some(page + 1), None)
    })
    .await;
    let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
    assert!(error.to_string().contains("never ends"), "{error}");
    assert_eq!(vendor.lines().len(), 200);
}

#[tokio::test]
async fn absent_fields_of_a_server_are_no_error() {
    let bare = json!({"id": 42, "labels": {}, "public_net": {"ipv4": null}, "created": "soon"});
    let vendor = script([json_answer(200, &json!({"server": bare}))]).await;
    let found = vendor.hetzner().server(42).await.unwrap().unwrap();
    assert_eq!(
        (found.id, found.name.as_str(), found.locked),
        (42, "", false)
    );
    assert_eq!((found.ipv4, found.created), (None, None));
}

#[tokio::test]
async fn a_server_is_absent_only_when_its_vendor_says_so_of_it() {
    let gone = hetzner_error(404, "not_found", "server with ID '42' not found");
    let vendor = script([gone.clone(), gone]).await;
    let hetzner = vendor.hetzner();
    assert_eq!(hetzner.server(42).await.unwrap(), None);
    assert_eq!(
        hetzner.delete_server(42).await.unwrap(),
        Deletion::AlreadyGone
    );
    assert_eq!(
        vendor.lines(),
        ["GET /v1/servers/42", "DELETE /v1/servers/42"]
    );

    let not_absent = [
        hetzner_error(404, "not_found", "api route not found"),
        hetzner_error(404, "something_else", "not found"),
        text(404, "404 page not found"),
        text(404, ""),
        json_answer(200, &json!({"server": server(43)})),
        json_answer(200, &json!({})),
    ];
    for answer in not_absent {
        let body = String::from_utf8(answer.body.clone()).unwrap();
        let vendor = script([answer.clone(), answer]).await;
        let error = vendor.hetzner().server(42).await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{body}");
        let error = vendor.hetzner().delete_server(42).await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{body}");
    }
}

#[tokio::test]
async fn each_refusal_of_hetzner_is_told_apart_by_its_code() {
    // <https://docs.hetzner.cloud/reference/cloud#errors>
    let table = [
        (400, "json_error", "Rejected"),
        (401, "unauthorized", "Unauthorized"),
        (401, "token_readonly", "Forbidden"),
        (403, "token_readonly", "Forbidden"),
        (403, "forbidden", "Forbidden"),
        (403, "maintenance", "Unavailable"),
        (403, "resource_limit_exceeded", "Rejected"),
        (405, "method_not_allowed", "Rejected"),
        (408, "new_code", "Unavailable"),
        (409, "uniqueness_error", "Rejected"),
        (409, "conflict", "Locked"),
        (410, "deprecated_api_endpoint", "Rejected"),
        (412, "resource_unavailable", "Unavailable"),
        (412, "primary_ip_version_mismatch", "Rejected"),
        (422, "invalid_input", "Rejected"),
        (422, "service_error", "Unavailable"),
        (422, "unsupported_error", "Rejected"),
        (422, "must_be_unassigned", "Rejected"),
        (423, "locked", "Locked"),
        (423, "protected", "Protected"),
        (423, "new_code", "Locked"),
        (429, "rate_limit_exceeded", "RateLimited"),
        (500, "server_error", "Unavailable"),
        (502, "bad_gateway", "Unavailable"),
        (503, "unavailable", "Unavailable"),
        (504, "timeout", "Unavailable"),
    ];
    for (status, code, expected) in table {
        let vendor = script([hetzner_error(status, code, "for people")]).await;
        let error = vendor.hetzner().delete_server(42).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{status} {code}");
        let person = ["Protected", "Unauthorized", "Forbidden"].contains(&expected);
        assert_eq!(error.needs_person(), person, "{status} {code}");
        assert_eq!(error.call().vendor(), Vendor::Hetzner);
        assert_eq!(
            (error.call().status(), error.call().code()),
            (Some(status), Some(code))
        );
        let line = format!("hetzner DELETE /v1/servers/42: {status} {code}");
        assert_eq!(error.to_string(), line);
    }
}

#[tokio::test]
async fn without_a_code_the_status_decides() {
    let table = [
        (302, "Unavailable"),
        (400, "Rejected"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "Unavailable"),
        (409, "Locked"),
        (423, "Locked"),
        (429, "RateLimited"),
        (501, "Rejected"),
        (502, "Unavailable"),
    ];
    for (status, expected) in table {
        for body in ["<html>", "", "{\"error\": \"x\"}"] {
            let vendor = script([text(status, body)]).await;
            let error = vendor.hetzner().delete_server(42).await.unwrap_err();
            assert_eq!(kind(&error), expected, "{status} {body}");
        }
    }
}

#[tokio::test]
async fn a_code_that_is_no_code_stays_out_of_the_error() {
    let vendor = script([hetzner_error(422, "drop\n<script>", "x")]).await;
    let error = vendor.hetzner().delete_server(42).await.unwrap_err();
    assert_eq!(error.to_string(), "hetzner DELETE /v1/servers/42: 422");
}

#[tokio::test]
async fn a_wait_is_told_by_the_vendors_own_clock() {
    let date = "Fri, 30 Jan 2026 23:55:00 GMT";
    let unix = 1_769_817_300;
    let limited = || hetzner_error(429, "rate_limit_exceeded", "").header("date", &date);
    let seconds = |s| Some(Duration::from_secs(s));
    let table = [
        (limited(), None),
        (
            limited().header("ratelimit-reset", &(unix + 30)),
            seconds(30),
        ),
        (
            limited().header("ratelimit-reset", &(unix + 3000)),
            seconds(60),
        ),
        (limited().header("ratelimit-reset", &(unix - 5)), None),
        (limited().header("retry-after", &7), seconds(7)),
        (
            limited().header("retry-after", &"Fri, 30 Jan 2026 23:55:09 GMT"),
            seconds(9),
        ),
        (limited().header("retry-after", &u64::MAX), seconds(3600)),
        (limited().header("retry-after", &"soon"), None),
    ];
    for (answer, expected) in table {
        let headers = format!("{:?}", answer.headers);
        let vendor = script([answer]).await;
        let error = vendor.hetzner().delete_server(42).await.unwrap_err();
        assert_eq!(kind(&error), "RateLimited");
        assert_eq!(error.retry_after(), expected, "{headers}");
    }
}

#[tokio::test]
async fn the_budget_is_what_the_newest_answer_told() {
    let told = |remaining: u64, date: &str| {
        hetzner_error(404, "not_found", "server not found")
            .header("ratelimit-limit", &3600)
            .header("ratelimit-remaining", &remaining)
            .header("ratelimit-reset", &1_769_817_400)
            .header("date", &date)
    };
    let vendor = script([
        told(99, "Fri, 30 Jan 2026 23:55:00 GMT"),
        told(500, "Fri, 30 Jan 2026 23:54:00 GMT"),
    ])
    .await;
    let hetzner = vendor.hetzner();
    assert_eq!(hetzner.rate(), None);
    for _ in 0..2 {
        hetzner.server(42).await.unwrap();
    }
    let expected = RateLimit {
        limit: 3600,
        remaining: 99,
        reset: 1_769_817_400,
        told_at: Some(1_769_817_300),
    };
    assert_eq!(hetzner.rate(), Some(expected));
}

#[tokio::test]
async fn a_delete_returns_the_action_to_wait_for() {
    let vendor = script([json_answer(200, &json!({"action": action(7, "running")}))]).await;
    let running = Action {
        id: 7,
        deletes: Some(42),
        status: ActionStatus::Running,
    };
    let deletion = vendor.hetzner().delete_server(42).await.unwrap();
    assert_eq!(deletion, Deletion::Accepted(running));
}

#[tokio::test]
async fn an_action_that_is_no_delete_of_that_one_server_is_no_answer() {
    for (name, value) in [
        ("resources", json!([{"id": 43, "type": "server"}])),
        ("resources", json!([{"id": 42, "type": "volume"}])),
        (
            "resources",
            json!([{"id": 42, "type": "server"}, {"id": 43, "type": "server"}]),
        ),
        ("resources", json!([])),
        ("resources", json!(null)),
        ("command", json!("poweroff")),
        ("command", json!(null)),
    ] {
        let mut action = action(7, "success");
        action[name] = value.clone();
        let vendor = script([json_answer(200, &json!({"action": action}))]).await;
        let error = vendor.hetzner().delete_server(42).await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{name}: {value}");
    }
}

#[tokio::test]
async fn actions_are_asked_for_25_at_a_time_and_strangers_left_out() {
    let vendor = serve(|seen| {
        let (_, query) = seen.line.split_once('?').unwrap();
        let asked = query
            .split('&')
            .map(|pair| pair.strip_prefix("id=").unwrap());
        let asked = asked.map(|id| id.parse::<u64>().unwrap());
        let mut actions: Vec<Value> = asked
            .filter(|id| *id != 3)
            .map(|id| action(id, "success"))
            .collect();
        actions.push(action(999, "success"));
        json_answer(200, &json!({"actions": actions}))
    })
    .await;
    let mut asked: Vec<u64> = (1..=30).rev().collect();
    asked.push(30);
    let found = vendor.hetzner().actions(&asked).await.unwrap();
    let found: Vec<u64> = found.iter().map(|action| action.id).collect();
    let known: Vec<u64> = (1..=30).filter(|id| *id != 3).collect();
    assert_eq!(found, known);
    assert_eq!(vendor.lines().len(), 2);
    assert!(vendor.hetzner().actions(&[]).await.unwrap().is_empty());
    assert_eq!(vendor.lines().len(), 2);
}

#[tokio::test]
async fn an_unknown_action_does_not_hide_the_others() {
    let vendor = serve(|seen| match seen.line.as_str() {
        "GET /v1/actions/1" => json_answer(200, &json!({"action": action(1, "success")})),
        _ => hetzner_error(404, "not_found", "action not found"),
    })
    .await;
    let found = vendor.hetzner().actions(&[1, 2]).await.unwrap();
    assert_eq!(
        found.iter().map(|action| action.id).collect::<Vec<_>>(),
        [1]
    );
}

#[tokio::test]
async fn only_success_is_success() {
    let mut failed = action(1, "error");
    failed["error"] = json!({"code": "action_failed", "message": "Action\nfailed"});
    let actions = [
        failed,
        action(2, "error"),
        action(3, "finished"),
        action(4, "success"),
    ];
    let vendor = script([json_answer(200, &json!({"actions": actions}))]).await;
    let found = vendor.hetzner().actions(&[1, 2, 3, 4]).await.unwrap();
    let codes = found.iter().map(|action| match &action.status {
        ActionStatus::Running => "running",
        ActionStatus::Success => "success",
        ActionStatus::Error { code, .. } => code,
    });
    assert_eq!(
        codes.collect::<Vec<_>>(),
        ["action_failed", "unknown", "unknown_status", "success"]
    );
}
