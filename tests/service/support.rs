//! What several of these tests look at or send.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::harness::{SECRET, Service, sign};

/// A provision as callbacks and operators leave it: without what workers do to its steps, which
/// is a matter of time.
pub fn face(provision: &Value) -> Value {
    let mut face = provision.clone();
    if let Some(rollback) = face["rollback"].as_object_mut() {
        rollback.remove("state");
        rollback.remove("settled_at");
        rollback["steps"] = json!(step_names(provision));
    }
    face
}

/// The steps of a provision as `attempt resource id`; no id: it searches.
pub fn step_names(provision: &Value) -> Vec<String> {
    named(provision["rollback"]["steps"].as_array())
}

/// The same of steps that stand somewhere else.
pub fn named(steps: Option<&Vec<Value>>) -> Vec<String> {
    let mut names: Vec<String> = steps
        .into_iter()
        .flatten()
        .map(|step| {
            format!(
                "{} {} {}",
                step["attempt"],
                step["resource"].as_str().unwrap(),
                step["vendor_id"].as_str().unwrap_or("-")
            )
        })
        .collect();
    names.sort();
    names
}

/// The part of the history that callbacks and operators write.
pub async fn said(service: &Service, id: Uuid) -> Vec<Value> {
    let mut events = service.events(id).await;
    events.retain(|event| {
        let kind = event["kind"].as_str().unwrap();
        !kind.starts_with("step.") && kind != "rollback.done"
    });
    events
}

/// The kinds of these events.
pub fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect()
}

/// Sends a request that no client library would, and reads the answer: its status and body.
pub async fn raw(service: &Service, head: &str, body: &[u8]) -> (u16, Value) {
    let head = format!(
        "{head}\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    exchange(service, &[head.as_bytes(), body].concat()).await
}

/// Sends these bytes, the request that closes the connection; the answer's status and body.
pub async fn exchange(service: &Service, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(service.app.address()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.to_ascii_lowercase().contains("\r\nx-request-id: "));
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The headers of a proven callback with this body, as lines of a request's head.
pub fn proof_lines(body: &str) -> String {
    let (at, signature) = sign(SECRET, "msg_raw", body);
    format!(
        "webhook-id: msg_raw\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\
         content-type: application/json"
    )
}
