//! Lists of provisions: filters and pages.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run, Service};
use crate::status_api::{STATUSES, check_shape, create, id_of, in_status};

const RUN: Run = Run(100, 1);

#[tokio::test]
async fn lists_filter_by_status_agent_and_rollback() {
    let service = Service::start_with(Options {
        stuck_after: Duration::from_secs(7200),
        ..Options::default()
    })
    .await;
    let mut ids = Vec::new();
    for status in STATUSES {
        ids.push(match status {
            "running" => in_use(&service).await,
            _ => in_status(&service, status).await,
        });
    }
    let done = Uuid::new_v4();
    let fields = json!({"may_exist": []});
    service.callback("failure", done, RUN, fields).await;
    service.settled(done).await;
    create(&service, json!({"agent_id": "w&b=1/ü%"})).await;
    let list = async |query: &str| {
        let answer = service.get(&format!("/v1/provisions?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(answer.body["next_cursor"], Value::Null);
        let provisions = answer.body["provisions"].as_array().unwrap().clone();
        for provision in &provisions {
            check_shape(provision);
            let mut alone = service.provision(id_of(provision)).await;
            alone["rollback"] = provision["rollback"].clone();
            assert_eq!(alone, *provision, "a list shows what GET shows");
        }
        provisions.iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(list("").await.len(), 7);
    assert_eq!(
        list("status=&agent_id=&rollback=&limit=&cursor=&unknown=1")
            .await
            .len(),
        7
    );
    for (status, id) in STATUSES.into_iter().zip(&ids) {
        let found = list(&format!("status={status}")).await;
        assert!(found.contains(id), "{status}");
        let expected = if status == "queued" || status == "failed" {
            2
        } else {
            1
        };
        assert_eq!(found.len(), expected, "{status}");
    }
    assert_eq!(list("agent_id=w%26b%3D1%2F%C3%BC%25").await.len(), 1);
    assert_eq!(list("agent_id=web-1").await.len(), 5);
    assert_eq!(list("agent_id=web-1&status=running").await, [ids[2]]);
    assert_eq!(list("agent_id=WEB-1").await.len(), 0);
    assert_eq!(list("rollback=done").await, [done]);
    assert_eq!(list("rollback=pending").await, [ids[4], ids[3]]);
    assert_eq!(list("rollback=pending&status=failed").await, [ids[3]]);
    assert_eq!(list("rollback=stuck").await.len(), 0);

    // What needs a person is stuck, and with it the whole rollback.
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service.sim.protect_server(made.server);
    service.callback("failure", id, RUN, made.ids()).await;
    let provision = service
        .until(id, |provision| provision["rollback"]["state"] == "stuck")
        .await;
    check_shape(&provision);
    assert_eq!(list("rollback=stuck").await, [id]);
    service.sim.unprotect_server(made.server);
    service.settled(id).await;
    assert_eq!(list("rollback=stuck").await.len(), 0);
    assert_eq!(list("rollback=done").await, [id, done]);
}

/// One that runs, with a machine that is there: else nothing would be proven gone beside it.
async fn in_use(service: &Service) -> Uuid {
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service.callback("success", id, RUN, made.ids()).await;
    id
}

#[tokio::test]
async fn pages_are_newest_first_and_stay_put_while_rows_are_added() {
    let service = Service::start().await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.insert(
            0,
            id_of(&create(&service, json!({"agent_id": "web-1"})).await),
        );
    }
    // Of the same moment: the larger id is first.
    sqlx::query("update provisions set created_at = '2026-01-02T03:04:05.123456Z'")
        .execute(&service.pool)
        .await
        .unwrap();
    expected.sort_unstable_by(|a, b| b.cmp(a));
    for limit in 1..=8 {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/provisions?agent_id=web-1&limit={limit}&cursor={cursor}");
            let page = service.get(&path).await.body;
            let provisions = page["provisions"].as_array().unwrap();
            assert!(provisions.len() <= limit);
            seen.extend(provisions.iter().map(id_of));
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
            // Newer ones do not move what is older.
            let body = json!({"agent_id": "web-1"});
            let newer = id_of(&create(&service, body).await);
            let first = service.get("/v1/provisions?limit=1").await.body;
            assert_eq!(id_of(&first["provisions"][0]), newer);
        }
        let seen: Vec<Uuid> = seen
            .into_iter()
            .filter(|id| expected.contains(id))
            .collect();
        assert_eq!(seen, expected, "limit {limit}");
        sqlx::query("update provisions set agent_id = 'other' where created_at > '2026-01-03'")
            .execute(&service.pool)
            .await
            .unwrap();
    }
    let all = service.get("/v1/provisions?limit=200").await;
    assert!(all.body["provisions"].as_array().unwrap().len() > 7);
}
