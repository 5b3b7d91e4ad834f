//! A pooler in transaction mode: each transaction of a client gets the session that came back last.

use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Version 3.0 of the protocol.
const STARTUP: i32 = 196_608;

/// Sessions that nobody has at present.
type Idle = Arc<Mutex<Vec<UnixStream>>>;

/// Stands in front of the server that `database` is on; returns the URL to reach the database by.
pub async fn in_front_of(database: &PgConnectOptions) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let user = database.get_username().to_owned();
    let name = database.get_database().unwrap().to_owned();
    let url = format!("postgres://{user}@{address}/{name}?sslmode=disable");
    let database = database.clone();
    tokio::spawn(async move {
        let idle = Idle::default();
        while let Ok((client, _)) = listener.accept().await {
            let (database, idle) = (database.clone(), idle.clone());
            tokio::spawn(async move { carry(client, &database, &idle).await });
        }
    });
    url
}

/// Until the client goes.
async fn carry(mut client: TcpStream, database: &PgConnectOptions, idle: &Idle) -> Option<()> {
    let length = client.read_i32().await.ok()?;
    let mut startup = vec![0; usize::try_from(length).ok()? - 4];
    client.read_exact(&mut startup).await.ok()?;
    let mut hello = message(b'R', &0_i32.to_be_bytes());
    hello.extend(message(b'S', b"server_version\x0015.0\0"));
    hello.extend(message(b'K', &[0; 8]));
    hello.extend(message(b'Z', b"I"));
    client.write_all(&hello).await.ok()?;
    let mut bound: Option<UnixStream> = None;
    loop {
        let (kind, body) = next(&mut client).await?;
        if kind == b'X' {
            return Some(());
        }
        let mut server = match bound.take().or_else(|| idle.lock().unwrap().pop()) {
            Some(server) => server,
            None => session(database).await?,
        };
        server.write_all(&message(kind, &body)).await.ok()?;
        // Whatever else a client sends is answered when it asks for that.
        let is_idle = matches!(kind, b'Q' | b'S') && answer(&mut server, &mut client).await?;
        if is_idle {
            idle.lock().unwrap().push(server);
        } else {
            bound = Some(server);
        }
    }
}

/// Brings the client the whole answer; returns whether the transaction is over.
async fn answer(server: &mut UnixStream, client: &mut TcpStream) -> Option<bool> {
    loop {
        let (kind, body) = next(server).await?;
        client.write_all(&message(kind, &body)).await.ok()?;
        if kind == b'Z' {
            return Some(body == b"I");
        }
    }
}

/// A session of its own at the server, which asks the kernel who we are.
async fn session(database: &PgConnectOptions) -> Option<UnixStream> {
    let socket = format!(".s.PGSQL.{}", database.get_port());
    let mut server = UnixStream::connect(database.get_socket()?.join(socket))
        .await
        .ok()?;
    let mut startup = STARTUP.to_be_bytes().to_vec();
    for word in [
        "user",
        database.get_username(),
        "database",
        database.get_database()?,
        "",
    ] {
        startup.extend(word.as_bytes());
        startup.push(0);
    }
    let length = i32::try_from(startup.len() + 4).ok()?;
    server.write_all(&length.to_be_bytes()).await.ok()?;
    server.write_all(&startup).await.ok()?;
    while next(&mut server).await?.0 != b'Z' {}
    Some(server)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

async fn next(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let kind = from.read_u8().await.ok()?;
    let length = from.read_i32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).ok()? - 4];
    from.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
