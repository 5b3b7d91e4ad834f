//! What a client may take of the service, and for how long it may say nothing. These are sockets, whose
//! time cannot be moved: the patience is short instead.

use std::time::Duration;

use backstop::http::serve::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Run, Service, callback_body};
use crate::support::proof_lines;

const SHORT: Duration = Duration::from_millis(300);
const GET: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

async fn with(change: impl FnOnce(&mut Limits)) -> Service {
    Service::start_changed(Options::default(), |config| change(&mut config.limits)).await
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.app.address()).await.unwrap()
}

/// What comes until the service closes, which must be soon.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut bytes))
            .await
            .expect("it is closed")
        {
            Ok(read) if read > 0 => text.extend_from_slice(&bytes[..read]),
            // A reset is an end as well.
            Ok(_) | Err(_) => return String::from_utf8(text).unwrap(),
        }
    }
}

/// One answer on a connection that stays open.
async fn answered(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut bytes)).await;
    let read = read.expect("it is answered").unwrap();
    assert!(bytes[..read].starts_with(b"HTTP/1.1 200 "));
}

async fn connections(service: &Service) -> f64 {
    let Value::String(text) = service.get("/metrics").await.body else {
        panic!("no text")
    };
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("backstop_http_connections "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_says_nothing_or_dribbles_a_head_is_let_go() {
    let service = with(|limits| limits.head_patience = SHORT).await;
    let mut silent = connect(&service).await;
    assert_eq!(rest(&mut silent).await, "");

    let (mut read, mut write) = connect(&service).await.into_split();
    let dribbles = tokio::spawn(async move {
        for byte in GET.iter().cycle() {
            if write.write_all(&[byte | 0x20]).await.is_err() {
                break;
            }
            sleep(SHORT / 20).await;
        }
    });
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, read.read_to_end(&mut bytes)).await;
    // Closed, or reset for what was still on its way.
    let _ = ended.expect("it is closed");
    assert!(bytes.is_empty());
    dribbles.await.unwrap();
}

#[tokio::test]
async fn a_connection_may_wait_for_its_next_request_and_for_its_body_for_longer_than_for_a_head() {
    let service = with(|limits| limits.head_patience = SHORT).await;
    let mut stream = connect(&service).await;
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        answered(&mut stream).await;
        sleep(SHORT * 2).await;
    }
    let id = Uuid::new_v4();
    let body = callback_body("started", id, Run(1, 1), json!({})).to_string();
    let head = format!(
        "POST /v1/provisions/{id}/callbacks/started HTTP/1.1\r\nhost: x\r\n{}\r\n\
         content-length: {}\r\n\r\n",
        proof_lines(&body),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    sleep(SHORT * 2).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    answered(&mut stream).await;
    // Once the next head has begun it must go on.
    stream.write_all(&GET[..10]).await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_closed_some_time() {
    let service = with(|limits| limits.idle_patience = SHORT).await;
    let mut stream = connect(&service).await;
    stream.write_all(GET).await.unwrap();
    answered(&mut stream).await;
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let service = Service::start().await;
    let many: Vec<String> = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = many.concat();
    for head in [
        format!(
            "GET /livez HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
            "x".repeat(20_000)
        ),
        format!(
            "GET /livez?{} HTTP/1.1\r\nhost: x\r\n\r\n",
            "x".repeat(20_000)
        ),
        format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        // Without an end, and no more of it is read.
        format!("GET /livez HTTP/1.1\r\nx-long: {}", "x".repeat(20_000)),
    ] {
        let mut stream = connect(&service).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 431 "), "{head:.60}: {text}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answers_is_let_go() {
    let service = with(|limits| limits.write_patience = SHORT).await;
    let before = connections(&service).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(service.app.address()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    // More than any buffer on the way holds.
    let asks = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let _ = timeout(PATIENCE, stream.write_all(&asks)).await.unwrap();
    while connections(&service).await > before {
        assert!(Instant::now() < deadline, "it is kept");
        sleep(SHORT / 10).await;
    }
    drop(stream);
}

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_does() {
    let service = with(|limits| limits.connections = 16).await;
    // One of them has a stream open, which is no silence.
    let mut reads = service
        .request("GET", "/v1/stream")
        .bearer_auth(crate::harness::READER)
        .send()
        .await
        .unwrap();
    assert!(reads.chunk().await.unwrap().is_some());
    let mut first = connect(&service).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(connect(&service).await);
    }
    service.started(Uuid::new_v4(), Run(1, 1)).await;
    assert_eq!(rest(&mut first).await, "");
    assert!(connections(&service).await <= 16.0);
    service.started(Uuid::new_v4(), Run(1, 1)).await;
    let mut text = String::new();
    while !text.contains("event: provision") {
        let chunk = timeout(PATIENCE, reads.chunk()).await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.expect("it goes on")));
    }
}
