//! What the listener, the control endpoints and [`Sim`](super::Sim) have in common: the lock around
//! the world, and everything that is done to it behind the vendors' backs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    SimOptions, Tokens,
    belongings::BelongingKind,
    clock,
    github_webhooks::{self, Delivery, Hook},
    hetzner_belongings, hetzner_servers,
    snapshot::{Belonging, Device, Key, Server, WorkflowRun},
    tailnet::{self, NewKey},
    world::{Event, World},
};

/// One simulation.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) stopping: CancellationToken,
    world: Mutex<World>,
}

type Labels = BTreeMap<String, String>;

impl Shared {
    pub(super) fn new(address: SocketAddr, options: SimOptions) -> Shared {
        Shared {
            address,
            stopping: CancellationToken::new(),
            world: Mutex::new(World::new(options)),
        }
    }

    /// The world as it is now. Never hold it across an await.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // A panic under the lock fails the test that caused it; the others may go on.
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.advance();
        world
    }

    pub(super) fn hetzner_url(&self) -> String {
        format!("http://{}/hetzner/v1", self.address)
    }

    pub(super) fn tailscale_url(&self) -> String {
        format!("http://{}/tailscale", self.address)
    }

    pub(super) fn github_url(&self) -> String {
        format!("http://{}/github", self.address)
    }

    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let options = self.world().options.clone();
        vec![
            ("HCLOUD_TOKEN", options.hcloud_token),
            ("HCLOUD_ENDPOINT", self.hetzner_url()),
            ("TAILSCALE_OAUTH_CLIENT_ID", options.oauth_client_id),
            ("TAILSCALE_OAUTH_CLIENT_SECRET", options.oauth_client_secret),
            ("TAILSCALE_TAILNET", "-".to_owned()),
            ("TAILSCALE_BASE_URL", self.tailscale_url()),
            ("GITHUB_TOKEN", options.github_token),
            ("GITHUB_API_URL", self.github_url()),
            ("BACKSTOP_GITHUB_REPOSITORY", options.github_repository),
            ("BACKSTOP_SIM_URL", format!("http://{}", self.address)),
        ]
    }

    pub(super) fn servers(&self) -> Vec<Server> {
        self.world().project.snapshot(clock::now())
    }

    pub(super) fn devices(&self) -> Vec<Device> {
        self.world().tailnet.snapshot_devices()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.world().tailnet.snapshot_keys(clock::now())
    }

    pub(super) fn runs(&self) -> Vec<WorkflowRun> {
        self.world().actions.snapshot()
    }

    /// A run that nobody dispatched is at work; its id.
    pub(super) fn start_run(&self) -> u64 {
        let mut world = self.world();
        let now = clock::now();
        let id = world.actions.dispatch("main", BTreeMap::new(), now);
        world.actions.change(id, "in_progress", None, now);
        id
    }

    /// Lets the latest attempt of a run stand so, and sends the webhook. False: there is no such run.
    pub(super) fn change_run(&self, id: u64, status: &str, conclusion: Option<&str>) -> bool {
        let mut world = self.world();
        let changed = world.actions.change(id, status, conclusion, clock::now());
        if let Some(hook) = world.hook.clone()
            && let Some(delivery) = github_webhooks::of_run(&world, id, &hook.secret)
        {
            tokio::spawn(github_webhooks::send(hook, delivery));
        }
        changed
    }

    pub(super) fn rerun(&self, id: u64) -> bool {
        self.world().actions.rerun(id, clock::now())
    }

    /// False: that is no address on loopback.
    pub(super) fn send_webhooks_to(&self, url: &str, secret: &str) -> bool {
        let Some((address, path)) = on_loopback(url) else {
            return false;
        };
        self.world().hook = Some(Hook {
            address,
            path,
            secret: secret.to_owned(),
        });
        true
    }

    pub(super) fn webhook_of_run(&self, id: u64, secret: &str) -> Option<Delivery> {
        github_webhooks::of_run(&self.world(), id, secret)
    }

    pub(super) fn webhook_of_job(
        &self,
        id: u64,
        conclusion: &str,
        secret: &str,
    ) -> Option<Delivery> {
        github_webhooks::of_job(&self.world(), id, conclusion, secret)
    }

    pub(super) fn add_server(&self, name: &str, labels: Labels) -> u64 {
        let new = hetzner_servers::plain_server(name, labels);
        self.world().project.place(new, clock::now())
    }

    pub(super) fn add_belonging(
        &self,
        kind: BelongingKind,
        name: &str,
        labels: Labels,
        server: Option<u64>,
    ) -> u64 {
        let new = hetzner_belongings::plain(kind, name, labels, server);
        let mut world = self.world();
        world.project.belongings_mut().place(new, clock::now())
    }

    pub(super) fn belongings(&self) -> Vec<Belonging> {
        self.world().project.belongings().snapshot()
    }

    pub(super) fn schedule_server(&self, after: Duration, name: &str, labels: Labels) {
        let name = name.to_owned();
        self.world()
            .plan(after, Event::ServerArrives { name, labels });
    }

    pub(super) fn relabel_server(&self, id: u64, labels: Labels) -> bool {
        let mut world = self.world();
        let server = world.project.server_mut(id);
        server.map(|server| server.labels = labels).is_some()
    }

    pub(super) fn lock_server(&self, id: u64, lasts: Duration) -> bool {
        let until = clock::later(clock::now(), lasts);
        self.world().project.lock(id, until)
    }

    pub(super) fn set_protected(&self, id: u64, protected: bool) -> bool {
        let mut world = self.world();
        let server = world.project.server_mut(id);
        server.map(|server| server.protected = protected).is_some()
    }

    pub(super) fn add_device(&self, hostname: &str, tags: &[String]) -> String {
        self.world()
            .tailnet
            .add_device(hostname, tags, clock::now())
    }

    pub(super) fn schedule_device(&self, after: Duration, hostname: &str, tags: Vec<String>) {
        let hostname = hostname.to_owned();
        self.world()
            .plan(after, Event::DeviceArrives { hostname, tags });
    }

    pub(super) fn enrol(&self, auth_key: &str, hostname: &str) -> Option<String> {
        self.world().tailnet.enrol(auth_key, hostname, clock::now())
    }

    pub(super) fn mint_key(&self, description: &str, tags: &[String]) -> (String, String) {
        let allows = NewKey {
            description: description.to_owned(),
            tags: tags.to_vec(),
            reusable: false,
            ephemeral: true,
            preauthorized: true,
            expiry: tailnet::DEFAULT_EXPIRY,
            by_oauth_client: true,
        };
        self.world().tailnet.mint(allows, clock::now())
    }

    pub(super) fn change_tokens(&self, tokens: Tokens) {
        let mut world = self.world();
        let replace = |old: &mut String, new: Option<String>| {
            let changed = new.is_some();
            if let Some(new) = new {
                *old = new;
            }
            changed
        };
        let options = &mut world.options;
        replace(&mut options.hcloud_token, tokens.hcloud_token);
        replace(&mut options.tailscale_api_key, tokens.tailscale_api_key);
        replace(&mut options.github_token, tokens.github_token);
        let other_id = replace(&mut options.oauth_client_id, tokens.oauth_client_id);
        let other_secret = replace(&mut options.oauth_client_secret, tokens.oauth_client_secret);
        if other_id || other_secret {
            world.tailnet.end_tokens();
        }
    }

    pub(super) fn set_rate_remaining(&self, remaining: u32) {
        self.world().rate.set_remaining(remaining, clock::now());
    }
}

/// Address and path of an `http` URL that names loopback by its number.
fn on_loopback(url: &str) -> Option<(SocketAddr, String)> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    let address = SocketAddr::new(host, url.port_or_known_default()?);
    (url.scheme() == "http" && address.ip().is_loopback()).then(|| (address, url.path().to_owned()))
}
