//! What may stand between us and the database: it moves to another server behind the same address,
//! cuts, goes silent, or loses an answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Ends the server's answer to a statement that is not part of a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Longer than any statement here, so that each is read in one piece.
const PIECE: usize = 1 << 20;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Carried,
    Cut,
    /// What either side sends is swallowed, and nothing ever ends. One that has gone silent stays so.
    Silent,
}

/// Stands on an address of its own in front of a server's socket.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// The server's socket, for new connections.
    server: Mutex<PathBuf>,
    /// What happens to new connections.
    new: Mutex<Fate>,
    /// What happens to connections that are there.
    there: watch::Sender<Fate>,
    /// What a client sends whose answer is to be lost, once.
    lose: Mutex<Option<Vec<u8>>>,
    /// What a client sends at which its connection goes silent, each once.
    silent_at: Mutex<Vec<Vec<u8>>>,
}

impl Proxy {
    /// In front of the server that `database` is on.
    pub async fn to(database: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server: Mutex::new(socket(database)),
            new: Mutex::new(Fate::Carried),
            there: watch::channel(Fate::Carried).0,
            lose: Mutex::new(None),
            silent_at: Mutex::default(),
        });
        tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(state.clone().carry(client));
                }
            }
        });
        Self { address, state }
    }

    /// How to reach through it what `database` names.
    pub fn options(&self, database: &PgConnectOptions) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.address.ip().to_string())
            .port(self.address.port())
            .username(database.get_username())
            .database(database.get_database().unwrap())
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL.
    pub fn url(&self, database: &PgConnectOptions) -> String {
        format!(
            "postgres://{}@{}/{}?sslmode=disable",
            database.get_username(),
            self.address,
            database.get_database().unwrap()
        )
    }

    /// Whoever connects from now on comes to this server.
    pub fn move_to(&self, database: &PgConnectOptions) {
        *self.state.server.lock().unwrap() = socket(database);
    }

    /// Ends every connection, and every new one at once.
    pub fn refuse(&self) {
        self.set_new(Fate::Cut);
        self.state.there.send_replace(Fate::Cut);
    }

    /// Swallows what every connection, also a new one, sends from now on.
    pub fn go_silent(&self) {
        self.set_new(Fate::Silent);
        self.silence_what_is_there();
    }

    /// The same for those that are there; new ones are carried.
    pub fn silence_what_is_there(&self) {
        self.state.there.send_replace(Fate::Silent);
    }

    /// Carries whoever connects from now on. What was silent stays silent.
    pub fn carry_again(&self) {
        self.set_new(Fate::Carried);
    }

    /// The next time that a client sends this, the server does it and the answer is lost.
    pub fn lose_the_answer_to(&self, sent: &[u8]) {
        *self.state.lose.lock().unwrap() = Some(sent.to_owned());
    }

    /// Whether that has happened.
    pub fn has_lost_it(&self) -> bool {
        self.state.lose.lock().unwrap().is_none()
    }

    /// The next time that a client sends this, the server never gets it and the connection goes silent.
    pub fn go_silent_at(&self, sent: &[u8]) {
        self.state.silent_at.lock().unwrap().push(sent.to_owned());
    }

    /// Whether each of these has been sent.
    pub fn has_gone_silent(&self) -> bool {
        self.state.silent_at.lock().unwrap().is_empty()
    }

    fn set_new(&self, fate: Fate) {
        *self.state.new.lock().unwrap() = fate;
    }
}

impl State {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let mut fates = self.there.subscribe();
        let mut fate = *self.new.lock().unwrap();
        let server = self.server.lock().unwrap().clone();
        let mut server = match fate {
            Fate::Cut => return,
            Fate::Silent => None,
            Fate::Carried => match UnixStream::connect(server).await {
                Ok(server) => Some(server),
                Err(_) => return,
            },
        };
        let mut loses = false;
        let (mut sent, mut answered) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
        loop {
            tokio::select! {
                read = client.read_buf(&mut sent) => {
                    if read.unwrap_or(0) == 0 {
                        return;
                    }
                    if self.goes_silent(&sent) {
                        fate = Fate::Silent;
                    }
                    if let Some(server) = server.as_mut().filter(|_| fate == Fate::Carried) {
                        loses = loses || self.loses(&sent);
                        if server.write_all(&sent).await.is_err() {
                            return;
                        }
                    }
                    sent.clear();
                }
                read = read(&mut server, &mut answered) => {
                    match (read, fate) {
                        // The server has ended. Who is silent does not tell.
                        (0, Fate::Silent) => server = None,
                        (0, _) => return,
                        (_, Fate::Carried) if loses && answered.ends_with(READY) => return,
                        (_, Fate::Carried) if loses => continue,
                        (_, Fate::Carried) => {
                            if client.write_all(&answered).await.is_err() {
                                return;
                            }
                        }
                        (_, Fate::Silent | Fate::Cut) => {}
                    }
                    answered.clear();
                }
                changed = fates.changed() => match *fates.borrow_and_update() {
                    _ if changed.is_err() => return,
                    Fate::Cut => return,
                    Fate::Silent => fate = Fate::Silent,
                    Fate::Carried => {}
                },
            }
        }
    }

    /// Whether the answer to this is to be lost. Clients send a statement in one piece.
    fn loses(&self, sent: &[u8]) -> bool {
        let mut lose = self.lose.lock().unwrap();
        let hit = lose.as_ref().is_some_and(|lost| contains(sent, lost));
        if hit {
            *lose = None;
        }
        hit
    }

    /// Whether this is where the connection goes silent.
    fn goes_silent(&self, sent: &[u8]) -> bool {
        let mut silent_at = self.silent_at.lock().unwrap();
        let at = silent_at.iter().position(|it| contains(sent, it));
        at.map(|at| silent_at.swap_remove(at)).is_some()
    }
}

fn contains(sent: &[u8], what: &[u8]) -> bool {
    sent.windows(what.len()).any(|part| part == what)
}

async fn read(server: &mut Option<UnixStream>, into: &mut Vec<u8>) -> usize {
    match server {
        Some(server) => server.read_buf(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn socket(database: &PgConnectOptions) -> PathBuf {
    let name = format!(".s.PGSQL.{}", database.get_port());
    database.get_socket().unwrap().join(name)
}
