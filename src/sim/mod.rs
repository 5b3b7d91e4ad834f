//! Simulated Hetzner Cloud, Tailscale and GitHub, behind real HTTP on loopback.
//!
//! Written from the vendors' documents and checked with the vendors' own clients, so that it shares
//! neither types nor mistakes with this product's clients. One listener serves the vendors and the
//! means to script what goes wrong:
//!
//! | address | what |
//! |---|---|
//! | `/hetzner/v1/…` | Hetzner Cloud |
//! | `/tailscale/api/v2/…` | Tailscale |
//! | `/github/…` | GitHub |
//! | `/sim/…` | faults, state, history, and things that happen behind the vendors' backs |
//!
//! In reading order: `exchange` is the way of every request; `hetzner`, `tailscale` and `github`
//! decide what a request does to `project`, `tailnet` and `actions`; `selector` is the grammar of
//! labels, `catalogue` what servers are made from, `cloud_init` what they do at first boot; `faults`
//! is what can be scripted; `world` holds it all under one lock. Nothing is kept on disk, and nothing
//! outside loopback is ever contacted.
//!
//! ```no_run
//! # use backstop::sim::{Fault, FaultKind, Sim, SimOptions, Vendor};
//! # async fn example() -> std::io::Result<()> {
//! let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default())?;
//! let server = sim.add_server("agent-1", [("managed-by", "backstop")]);
//! sim.fault(Fault::on(
//!     Vendor::Hetzner,
//!     "DELETE",
//!     &format!("/servers/{server}"),
//!     FaultKind::ResetAfter,
//! ));
//! # Ok(())
//! # }
//! ```

mod actions;
mod belongings;
mod catalogue;
mod clock;
mod cloud_init;
mod connection;
mod control;
mod emptiness;
mod exchange;
mod faults;
mod github;
mod github_app;
mod github_webhooks;
mod hetzner;
mod hetzner_belongings;
mod hetzner_json;
mod hetzner_pricing;
mod hetzner_problem;
mod hetzner_servers;
mod listing;
mod lives;
mod options;
mod paging;
mod project;
mod rate;
mod selector;
mod shared;
mod snapshot;
mod tailnet;
mod tailscale;
mod world;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::any};
use tokio::task::JoinHandle;

pub use self::{
    belongings::BelongingKind,
    faults::{BrokenBody, Fault, FaultKind, Vendor},
    github_webhooks::Delivery,
    lives::{Life, LifeKind},
    options::{GithubApp, Grants, Permission, SimOptions, Tokens},
    snapshot::{
        Belonging, Device, Effect, HistoryEntry, Key, RunAttempt, Server, ServerStatus, SshAccess,
        WorkflowRun,
    },
};
use self::{
    connection::{Fuse, Listener},
    shared::Shared,
};

/// Running simulated vendors. They stop when it is dropped.
#[derive(Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[expect(
    clippy::must_use_candidate,
    reason = "what they do is the point, the result a help"
)]
impl Sim {
    /// Starts the vendors on `listen`; port 0 takes any free one. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(listen: SocketAddr, options: SimOptions) -> io::Result<Sim> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = Listener(tokio::net::TcpListener::from_std(listener)?);
        let shared = Arc::new(Shared::new(address, options));
        let routes = control::routes()
            .route("/hetzner/{*rest}", any(exchange::serve_hetzner))
            .route("/tailscale/{*rest}", any(exchange::serve_tailscale))
            .route("/github/{*rest}", any(exchange::serve_github))
            .with_state(Arc::clone(&shared));
        let accepting = tokio::spawn(accept(listener, routes, Arc::clone(&shared)));
        Ok(Sim {
            shared,
            accepting: Some(accepting),
        })
    }

    /// Stops: requests under way are reset, new connections refused. Returns when the port is free.
    pub async fn stop(mut self) {
        self.shared.stopping.cancel();
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself once the connections have; a panic there was reported there.
            let _ = accepting.await;
        }
    }

    /// Where the vendors listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Hetzner's base address, what `HCLOUD_ENDPOINT` wants.
    #[must_use]
    pub fn hetzner_url(&self) -> String {
        self.shared.hetzner_url()
    }

    /// Tailscale's base address, without `/api/v2`.
    #[must_use]
    pub fn tailscale_url(&self) -> String {
        self.shared.tailscale_url()
    }

    /// GitHub's base address, what `GITHUB_API_URL` wants.
    #[must_use]
    pub fn github_url(&self) -> String {
        self.shared.github_url()
    }

    /// What to export so that backstop and the vendors' own tools talk to the simulation. The
    /// Tailscale credential is the OAuth client; the API key works as well, as does the GitHub App.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.shared.environment()
    }

    /// The options as they are now, with the tokens that are valid.
    #[must_use]
    pub fn options(&self) -> SimOptions {
        self.shared.world().options.clone()
    }

    /// Scripts something to go wrong.
    pub fn fault(&self, fault: Fault) {
        self.shared.world().faults.add(fault);
    }

    /// The faults that are still to happen.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.world().faults.list()
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.shared.world().faults.clear();
    }

    /// All servers, also those being deleted, by id.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        self.shared.servers()
    }

    /// All volumes and IPs that somebody put there, by id.
    #[must_use]
    pub fn belongings(&self) -> Vec<Belonging> {
        self.shared.belongings()
    }

    /// All devices, oldest first.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        self.shared.devices()
    }

    /// All auth keys, revoked ones too, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.shared.keys()
    }

    /// All workflow runs that were dispatched, oldest first.
    #[must_use]
    pub fn runs(&self) -> Vec<WorkflowRun> {
        self.shared.runs()
    }

    /// Every server, device and auth key that there ever was, and from when until when.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        lives::all(&self.shared.world())
    }

    /// A workflow run is at work that nobody dispatched; its id.
    pub fn start_run(&self) -> u64 {
        self.shared.start_run()
    }

    /// The latest attempt of a run does this now: `queued`, `in_progress`, `waiting`. False: there is
    /// no such run.
    pub fn set_run(&self, id: u64, status: &str) -> bool {
        self.shared.change_run(id, status, None)
    }

    /// The latest attempt of a run ends with this conclusion. False: there is no such run.
    pub fn end_run(&self, id: u64, conclusion: &str) -> bool {
        self.shared.change_run(id, "completed", Some(conclusion))
    }

    /// Somebody re-runs a run. False: there is no such run.
    pub fn rerun(&self, id: u64) -> bool {
        self.shared.rerun(id)
    }

    /// Sends a signed webhook from now on whenever a run changes. False: that is no `http` URL of an
    /// address on loopback.
    pub fn send_webhooks_to(&self, url: &str, secret: &str) -> bool {
        self.shared.send_webhooks_to(url, secret)
    }

    /// The webhook about a run as it stands, for a test to send. `None`: there is no such run.
    #[must_use]
    pub fn webhook_of_run(&self, id: u64, secret: &str) -> Option<Delivery> {
        self.shared.webhook_of_run(id, secret)
    }

    /// The webhook about a job of a run that has ended. `None`: there is no such run.
    #[must_use]
    pub fn webhook_of_job(&self, id: u64, conclusion: &str, secret: &str) -> Option<Delivery> {
        self.shared.webhook_of_job(id, conclusion, secret)
    }

    /// Every request that the vendors got, in the order in which they were carried out.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.shared.world().history()
    }

    /// Forgets the requests so far.
    pub fn clear_history(&self) {
        self.shared.world().clear_history();
    }

    /// Puts a running server there; its id.
    pub fn add_server<K, V>(&self, name: &str, labels: impl IntoIterator<Item = (K, V)>) -> u64
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.shared.add_server(name, owned(labels))
    }

    /// Puts a volume or an IP there, on a server or on none; its id.
    pub fn add_belonging<K, V>(
        &self,
        kind: BelongingKind,
        name: &str,
        labels: impl IntoIterator<Item = (K, V)>,
        server: Option<u64>,
    ) -> u64
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.shared.add_belonging(kind, name, owned(labels), server)
    }

    /// A running server will be there after a while, without any request.
    pub fn schedule_server<K, V>(
        &self,
        after: Duration,
        name: &str,
        labels: impl IntoIterator<Item = (K, V)>,
    ) where
        K: Into<String>,
        V: Into<String>,
    {
        self.shared.schedule_server(after, name, owned(labels));
    }

    /// Removes a server at once, as if somebody else had. False: there is none with that id.
    pub fn remove_server(&self, id: u64) -> bool {
        self.shared.remove_server(id)
    }

    /// Replaces a server's labels. False: there is none with that id.
    pub fn relabel_server<K, V>(&self, id: u64, labels: impl IntoIterator<Item = (K, V)>) -> bool
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.shared.relabel_server(id, owned(labels))
    }

    /// Locks a server for a while. False: there is none with that id.
    pub fn lock_server(&self, id: u64, lasts: Duration) -> bool {
        self.shared.lock_server(id, lasts)
    }

    /// Protects a server from being deleted. False: there is none with that id.
    pub fn protect_server(&self, id: u64) -> bool {
        self.shared.set_protected(id, true)
    }

    /// Lifts the protection again. False: there is none with that id.
    pub fn unprotect_server(&self, id: u64) -> bool {
        self.shared.set_protected(id, false)
    }

    /// Puts a device there; its node id.
    pub fn add_device(&self, hostname: &str, tags: &[&str]) -> String {
        self.shared.add_device(hostname, &owned_tags(tags))
    }

    /// A device will be there after a while, without any request.
    pub fn schedule_device(&self, after: Duration, hostname: &str, tags: &[&str]) {
        self.shared
            .schedule_device(after, hostname, owned_tags(tags));
    }

    /// Lets a device join by an auth key, the secret; its node id. `None`: the key is unknown,
    /// revoked, expired or used up.
    pub fn enrol_device(&self, auth_key: &str, hostname: &str) -> Option<String> {
        self.shared.enrol(auth_key, hostname)
    }

    /// The machine calls itself something else. False: there is none with that node id.
    pub fn rename_device(&self, node_id: &str, hostname: &str) -> bool {
        self.shared.world().tailnet.rename_device(node_id, hostname)
    }

    /// Removes a device at once. False: there is none with that node id.
    pub fn remove_device(&self, node_id: &str) -> bool {
        self.shared.remove_device(node_id)
    }

    /// Mints a one-off key as the OAuth client would; its id.
    pub fn add_key(&self, description: &str, tags: &[&str]) -> String {
        self.mint_key(description, tags).0
    }

    /// Mints a one-off key as the OAuth client would; its id and its secret.
    pub fn mint_key(&self, description: &str, tags: &[&str]) -> (String, String) {
        self.shared.mint_key(description, &owned_tags(tags))
    }

    /// Makes other tokens valid; those that they replace answer 401 from now on. A change of the
    /// OAuth client also ends the access tokens that it was issued.
    pub fn change_tokens(&self, tokens: Tokens) {
        self.shared.change_tokens(tokens);
    }

    /// Sets how many Hetzner requests are left; they refill from there.
    pub fn set_rate_remaining(&self, remaining: u32) {
        self.shared.set_rate_remaining(remaining);
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
    }
}

/// Runs the vendors until the process is told to stop, and prints where they are.
///
/// Standard output gets one `export NAME=VALUE` line for each variable of [`Sim::environment`],
/// then `listening on http://…`.
///
/// # Errors
/// When the address cannot be listened on, or standard output is closed.
pub async fn run(listen: SocketAddr, options: SimOptions) -> io::Result<()> {
    let sim = Sim::start(listen, options)?;
    // Armed first: whoever reads the address may stop us at once.
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    {
        let mut out = io::stdout().lock();
        for (name, value) in sim.environment() {
            writeln!(out, "export {name}={value}")?;
        }
        writeln!(out, "listening on http://{}", sim.address())?;
        out.flush()?;
    }
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    sim.stop().await;
    Ok(())
}

async fn accept(listener: Listener, routes: Router, shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    let service = routes.into_make_service_with_connect_info::<Fuse>();
    // It never fails: errors of accepting are waited out.
    let _ = axum::serve(listener, service)
        .with_graceful_shutdown(stopping.cancelled_owned())
        .await;
}

fn owned<K, V>(
    labels: impl IntoIterator<Item = (K, V)>,
) -> std::collections::BTreeMap<String, String>
where
    K: Into<String>,
    V: Into<String>,
{
    labels
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn owned_tags(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}
