//! The stream: nothing missed, nothing twice, nobody waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::store::feed::{self, Position, Then};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::harness::{PATIENCE, READER, Run, Service};
use crate::status_api::{check_shape, create, id_of};

const RUN: Run = Run(100, 1);
const STUCK_AFTER: Duration = Duration::from_secs(3600);

/// A reader of the stream that remembers what it was told.
struct Reader {
    response: reqwest::Response,
    text: String,
    last_id: Option<String>,
    comments: usize,
    seen: BTreeMap<Uuid, Value>,
}

impl Reader {
    async fn open(service: &Service) -> Self {
        Self::resume(&service.url("/v1/stream"), None).await
    }

    async fn resume(url: &str, last_id: Option<&str>) -> Self {
        let client = backstop::providers::loopback_client().unwrap();
        let mut request = client.get(url).bearer_auth(READER).timeout(PATIENCE * 5);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let mut reader = Self {
            response,
            text: String::new(),
            last_id: last_id.map(str::to_owned),
            comments: 0,
            seen: BTreeMap::new(),
        };
        // From where to resume is known before anything has happened.
        reader.block().await.expect("a stream begins with an id");
        assert!(reader.last_id.is_some());
        reader
    }

    /// Reads on to the next event or comment; what it told, `None` for a comment or an id alone. At
    /// the end of the stream an error.
    async fn block(&mut self) -> Result<Option<Value>, &'static str> {
        let block = loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                break block;
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await;
            match chunk.expect("the stream tells something").unwrap() {
                Some(chunk) => self.text += std::str::from_utf8(&chunk).unwrap(),
                None => return Err("the stream has ended"),
            }
        };
        if block == ":" {
            self.comments += 1;
            return Ok(None);
        }
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .collect();
        let Some(data) = fields.get("data") else {
            assert_eq!(fields.len(), 1, "{block}");
            self.last_id = Some(fields["id"].to_owned());
            return Ok(None);
        };
        assert_eq!(fields["event"], "provision");
        let id = fields["id"];
        if let Some(last) = &self.last_id {
            assert!(place(last) < place(id), "{last} and then {id}");
        }
        self.last_id = Some(id.to_owned());
        let provision: Value = serde_json::from_str(data).unwrap();
        check_shape(&provision);
        self.seen.insert(id_of(&provision), provision.clone());
        Ok(Some(provision))
    }

    /// The next event.
    async fn event(&mut self) -> Result<Value, &'static str> {
        loop {
            if let Some(provision) = self.block().await? {
                return Ok(provision);
            }
        }
    }

    /// Reads until it was told what `GET` shows.
    async fn until_it_knows(&mut self, service: &Service, id: Uuid) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = service.provision(id).await;
            if self.seen.get(&id) == Some(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{:#?}\n{shown:#}", self.seen);
            self.event().await.unwrap();
        }
    }

    /// Reads to the end of the stream.
    async fn read_to_end(&mut self) {
        while self.block().await.is_ok() {}
    }
}

fn place(id: &str) -> (u64, Uuid) {
    let (transaction, provision) = id.split_once('.').unwrap();
    (transaction.parse().unwrap(), provision.parse().unwrap())
}

#[tokio::test]
async fn a_reader_is_told_whatever_get_would_show() {
    let service = Service::start().await;
    let mut reader = Reader::open(&service).await;
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    reader.until_it_knows(&service, id).await;
    let made = service.make_all(&service.started(id, RUN).await);
    reader.until_it_knows(&service, id).await;
    service
        .callback("progress", id, RUN, json!({"step": "vm_created"}))
        .await;
    let shown = reader.until_it_knows(&service, id).await;
    assert_eq!(shown["step"], "vm_created");
    // The first heartbeat of a minute, and whatever a heartbeat brings along.
    service.callback("progress", id, RUN, json!({})).await;
    let shown = reader.until_it_knows(&service, id).await;
    assert!(shown["last_heartbeat_at"].is_string());
    service.pass(Duration::from_secs(60)).await;
    service.callback("progress", id, RUN, json!({})).await;
    reader.until_it_knows(&service, id).await;
    service
        .callback("progress", id, RUN, json!({"server_ip": "192.0.2.9"}))
        .await;
    let shown = reader.until_it_knows(&service, id).await;
    assert_eq!(shown["server_ip"], "192.0.2.9");
    // Every try of every step.
    service.sim.protect_server(made.server);
    service.callback("failure", id, RUN, made.ids()).await;
    while reader.event().await.unwrap()["rollback"]["state"] != "stuck" {}
    service.sim.unprotect_server(made.server);
    service.settled(id).await;
    let shown = reader.until_it_knows(&service, id).await;
    assert_eq!(shown["rollback"]["state"], "done");
}

#[tokio::test]
async fn what_gets_stuck_by_its_time_is_told() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let mut reader = Reader::open(&service).await;
    service.callback("failure", id, RUN, json!({})).await;
    // Nobody looks at these steps any more.
    sqlx::query(
        "update steps set next_at = next_at + interval '10 years' where next_at is not null",
    )
    .execute(&service.pool)
    .await
    .unwrap();
    service.advance(STUCK_AFTER + Duration::from_secs(1)).await;
    while reader.event().await.unwrap()["rollback"]["state"] != "stuck" {}
    reader.until_it_knows(&service, id).await;
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_overtaken() {
    let service = Service::start().await;
    let mut reader = Reader::open(&service).await;
    let earlier = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    reader.until_it_knows(&service, earlier).await;
    let mut db = service.pool.acquire().await.unwrap();
    let begun = feed::end(&mut db).await.unwrap();

    let mut transaction = service.pool.begin().await.unwrap();
    sqlx::query("update provisions set region = 'late' where id = $1")
        .bind(earlier)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let later = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    let held = feed::after(&mut db, begun, 10, STUCK_AFTER).await.unwrap();
    assert_eq!(
        (held.changed.len(), held.end, held.then),
        (0, begun, Then::HeldUp)
    );
    transaction.commit().await.unwrap();

    assert_eq!(id_of(&reader.event().await.unwrap()), earlier);
    assert_eq!(id_of(&reader.event().await.unwrap()), later);
    let all = feed::after(&mut db, begun, 10, STUCK_AFTER).await.unwrap();
    assert_eq!(all.changed.len(), 2);
}

#[tokio::test]
async fn a_change_that_is_taken_back_is_not_told() {
    let service = Service::start().await;
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    let mut reader = Reader::open(&service).await;
    let mut transaction = service.pool.begin().await.unwrap();
    sqlx::query("update provisions set region = 'nowhere'")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    let other = id_of(&create(&service, json!({"agent_id": "web-2"})).await);
    reader.until_it_knows(&service, other).await;
    // That it was created may have been told late.
    assert!(reader.seen.get(&id).is_none_or(|it| it["region"].is_null()));
}

/// Whoever comes back, to whichever replica, ends with what is there, and no event came twice.
#[tokio::test]
async fn readers_that_come_and_go_miss_nothing_while_others_write() {
    let service = Service::start().await;
    let replica = service.replica().await;
    let urls = [
        service.url("/v1/stream"),
        format!("http://{}/v1/stream", replica.address()),
    ];
    let first = Reader::open(&service).await.last_id.unwrap();

    let ids: Vec<Uuid> = (0..12).map(|_| Uuid::new_v4()).collect();
    let write = async {
        let lives = ids.iter().map(async |&id| {
            let made = service.make_all(&service.started(id, RUN).await);
            for step in 0..3 {
                let step = json!({"step": format!("step-{step}")});
                service.callback("progress", id, RUN, step).await;
            }
            service.callback("failure", id, RUN, made.ids()).await;
            service.settled(id).await;
        });
        futures::future::join_all(lives).await;
    };
    let all_known = |seen: &BTreeMap<Uuid, Value>| {
        ids.iter().all(|id| {
            let state = seen.get(id).map(|it| &it["rollback"]["state"]);
            state == Some(&json!("done"))
        })
    };
    let read = async |turn: usize| {
        let (mut last_id, mut seen) = (first.clone(), BTreeMap::new());
        for round in turn.. {
            let url = &urls[round % urls.len()];
            let mut reader = Reader::resume(url, Some(&last_id)).await;
            for _ in 0..=(round % 5) {
                if all_known(&seen) {
                    return seen;
                }
                let provision = reader.event().await.unwrap();
                seen.insert(id_of(&provision), provision);
            }
            last_id = reader.last_id.unwrap();
        }
        unreachable!("it returns when it knows all")
    };
    let ((), one, two, three) = tokio::join!(write, read(0), read(1), read(2));
    for seen in [one, two, three] {
        for id in &ids {
            assert_eq!(seen[id], service.provision(*id).await);
        }
    }
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn an_id_of_long_ago_or_of_another_database_is_answered_with_what_is_there() {
    let service = Service::start().await;
    let mut expected: Vec<Uuid> = Vec::new();
    for _ in 0..3 {
        expected.push(id_of(&create(&service, json!({"agent_id": "a"})).await));
    }
    expected.sort_unstable();
    let future = format!("{}.{}", u64::MAX, Uuid::nil().simple());
    for id in [Position::BEGINNING.to_string(), future] {
        // What has gone from the feed was outdated by what is there.
        let client = backstop::providers::loopback_client().unwrap();
        let request = client
            .get(service.url("/v1/stream"))
            .bearer_auth(READER)
            .header("last-event-id", id);
        let mut reader = Reader {
            response: request.send().await.unwrap(),
            text: String::new(),
            last_id: None,
            comments: 0,
            seen: BTreeMap::new(),
        };
        for _ in 0..expected.len() {
            reader.event().await.unwrap();
        }
        assert!(reader.seen.keys().eq(&expected));
    }
}

#[tokio::test]
async fn the_feed_keeps_the_newest_change_of_each_provision_also_of_a_restored_database() {
    let service = Service::start().await;
    for _ in 0..3 {
        let id = id_of(&create(&service, json!({"agent_id": "a"})).await);
        service.started(id, RUN).await;
        service
            .callback("progress", id, RUN, json!({"server_ip": "192.0.2.9"}))
            .await;
    }
    let of_another = Uuid::new_v4();
    sqlx::query("insert into feed values ('18446744073709551000', $1)")
        .bind(of_another)
        .execute(&service.pool)
        .await
        .unwrap();
    let count = async || {
        sqlx::query_as::<_, (i64, i64)>("select count(*), count(distinct provision_id) from feed")
            .fetch_one(&service.pool)
            .await
            .unwrap()
    };
    assert_eq!(count().await, (10, 4));
    let mut db = service.pool.acquire().await.unwrap();
    // What a transaction that still runs could have to do with is left alone.
    let deadline = Instant::now() + PATIENCE;
    while count().await != (4, 4) {
        assert!(Instant::now() < deadline);
        feed::tidy(&mut db).await.unwrap();
    }
    let mut piece = Position::BEGINNING;
    let mut changed = 0;
    while changed < 3
        || !piece
            .to_string()
            .ends_with(&of_another.simple().to_string())
    {
        assert!(Instant::now() < deadline);
        let read = feed::after(&mut db, piece, 10, STUCK_AFTER).await.unwrap();
        (piece, changed) = (read.end, changed + read.changed.len());
    }
    assert_eq!(changed, 3);
}

#[tokio::test]
async fn what_is_no_id_of_the_stream_is_refused() {
    let service = Service::start().await;
    for id in ["7", "x", "-1.0", "7.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a"] {
        let request = service.request("GET", "/v1/stream").bearer_auth(READER);
        let answer = service.send(request.header("last-event-id", id)).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_parameter"));
    }
    let answer = service.send(service.request("GET", "/v1/stream")).await;
    assert_eq!((answer.status, answer.code()), (401, "unauthenticated"));
    // Clients that have had no event send an empty one.
    Reader::resume(&service.url("/v1/stream"), Some("")).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_let_go_and_can_come_back() {
    let service = Service::start().await;
    let mut fast = Reader::open(&service).await;
    let begun = fast.last_id.clone().unwrap();
    let mut slow = TcpStream::connect(service.app.address()).await.unwrap();
    let request =
        format!("GET /v1/stream HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {READER}\r\n\r\n");
    slow.write_all(request.as_bytes()).await.unwrap();
    slow.readable().await.unwrap();

    // More than the system takes for a connection that nobody reads.
    for _ in 0..20 {
        create(&service, json!({"agent_id": "web-1"})).await;
    }
    sqlx::query("update attempts set error = repeat('x', 1000000)")
        .execute(&service.pool)
        .await
        .unwrap();
    while fast
        .seen
        .values()
        .filter(|it| it["error"].is_string())
        .count()
        < 20
    {
        fast.event().await.unwrap();
    }
    // More changes than are kept for one that is behind, told one by one.
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    for round in 0..70 {
        sqlx::query("update provisions set region = $2 where id = $1")
            .bind(id)
            .bind(format!("r{round}"))
            .execute(&service.pool)
            .await
            .unwrap();
        service.advance(Duration::ZERO).await;
        fast.until_it_knows(&service, id).await;
    }
    let mut received = Vec::new();
    timeout(PATIENCE, async {
        let mut piece = vec![0; 1 << 20];
        // The end of a body of chunks.
        while !received.ends_with(b"\r\n0\r\n\r\n") {
            let read = slow.read(&mut piece).await.unwrap();
            assert!(read > 0, "the connection ended in the middle of an answer");
            received.extend_from_slice(&piece[..read]);
        }
    })
    .await
    .expect("the stream of a reader that is too slow ends");
    let received = String::from_utf8(received).unwrap();
    assert!(!received.contains("\"region\":\"r69\""));

    let mut again = Reader::resume(&service.url("/v1/stream"), Some(&begun)).await;
    again.until_it_knows(&service, id).await;
    assert_eq!(again.seen.len(), 21);
}

#[tokio::test]
async fn a_stop_ends_every_stream_at_once() {
    let service = Service::start().await;
    let mut readers = vec![Reader::open(&service).await, Reader::open(&service).await];
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    readers[0].until_it_knows(&service, id).await;
    let begun = Instant::now();
    service.app.stop().await.unwrap();
    // Callers that hang are waited for that long.
    assert!(begun.elapsed() < Duration::from_secs(5));
    for reader in &mut readers {
        reader.read_to_end().await;
    }
}

#[tokio::test]
async fn a_comment_comes_every_15_seconds() {
    let service = Service::start().await;
    let mut reader = Reader::open(&service).await;
    for _ in 0..2 {
        let comment = timeout(Duration::from_secs(20), reader.block()).await;
        assert_eq!(comment.expect("a comment"), Ok(None));
    }
    assert_eq!(reader.comments, 2);
}
