//! State of the Hetzner project: servers and the actions that run on them.
//!
//! Actions are real: a server is created, started or deleted when its action ends, and locked until
//! then. Everything that is due happens when the state is next looked at, in the order in which it
//! was due, so there is no task in the background to wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{
    belongings::Belongings,
    catalogue::{Image, Location, ServerType},
    clock::later,
    cloud_init::Enrolment,
    selector::Labels,
    snapshot::{self, ServerStatus, SshAccess},
};

/// A server of the project.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) status: ServerStatus,
    pub(super) protected: bool,
    pub(super) created: DateTime<Utc>,
    pub(super) machine: &'static ServerType,
    pub(super) image: &'static Image,
    pub(super) location: &'static Location,
    /// Locked by hand until then.
    locked_until: Option<DateTime<Utc>>,
    /// When the operating system has shut down.
    off_at: Option<DateTime<Utc>>,
    /// What it does at first boot; `None` once it has begun to.
    enrolment: Option<Enrolment>,
    /// How many actions are running on it.
    busy: usize,
    ssh: SshAccess,
}

impl Server {
    /// Whether an action runs on it, or it was locked by hand.
    pub(super) fn is_locked(&self, now: DateTime<Utc>) -> bool {
        self.busy > 0 || self.locked_until.is_some_and(|until| until > now)
    }

    /// Whether `command` may begin on it now.
    pub(super) fn check(&self, command: Command, now: DateTime<Utc>) -> Result<(), Refusal> {
        if self.is_locked(now) {
            return Err(Refusal::Locked);
        }
        if command == Command::Delete && self.protected {
            return Err(Refusal::Protected);
        }
        Ok(())
    }
}

/// What a new server is made from, all of it checked.
#[derive(Clone, Debug)]
pub(super) struct NewServer {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) machine: &'static ServerType,
    pub(super) image: &'static Image,
    pub(super) location: &'static Location,
    pub(super) start: bool,
    pub(super) enrolment: Option<Enrolment>,
    pub(super) ssh: SshAccess,
}

/// A machine that was switched on for the first time.
#[derive(Debug)]
pub(super) struct FirstBoot {
    pub(super) server: u64,
    pub(super) at: DateTime<Utc>,
    pub(super) enrolment: Enrolment,
}

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Create,
    Start,
    Stop,
    Shutdown,
    Reboot,
    Reset,
    Delete,
    Protect,
    Unprotect,
}

impl Command {
    /// The vendor's name of it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Command::Create => "create_server",
            Command::Start => "start_server",
            Command::Stop => "stop_server",
            Command::Shutdown => "shutdown_server",
            Command::Reboot => "reboot_server",
            Command::Reset => "reset_server",
            Command::Delete => "delete_server",
            Command::Protect | Command::Unprotect => "change_protection",
        }
    }

    /// What the server does while it runs. `None`: what it did before.
    fn status_meanwhile(self) -> Option<ServerStatus> {
        match self {
            Command::Create => Some(ServerStatus::Initializing),
            Command::Start => Some(ServerStatus::Starting),
            Command::Stop => Some(ServerStatus::Stopping),
            Command::Delete => Some(ServerStatus::Deleting),
            Command::Shutdown
            | Command::Reboot
            | Command::Reset
            | Command::Protect
            | Command::Unprotect => None,
        }
    }
}

/// Something that the vendor does to a server, for as long as it takes.
#[derive(Clone, Debug)]
pub(super) struct Action {
    pub(super) id: u64,
    pub(super) command: Command,
    pub(super) server: u64,
    pub(super) started: DateTime<Utc>,
    pub(super) ends_at: DateTime<Utc>,
    /// Code of the error that it ends in. `None`: it succeeds.
    pub(super) error: Option<String>,
    /// What the server goes back to when it fails.
    status_before: ServerStatus,
    ended: bool,
}

impl Action {
    pub(super) fn status(&self) -> &'static str {
        match (self.ended, &self.error) {
            (false, _) => "running",
            (true, None) => "success",
            (true, Some(_)) => "error",
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// How much of it is done, of 100.
    pub(super) fn progress(&self, now: DateTime<Utc>) -> i64 {
        if self.ended {
            return 100;
        }
        let whole = (self.ends_at - self.started).num_milliseconds().max(1);
        ((now - self.started).num_milliseconds() * 100 / whole).clamp(0, 99)
    }
}

/// Why nothing can be done to a server now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Locked,
    Protected,
}

/// The project's servers with what hangs on them, and the actions.
#[derive(Debug)]
pub(super) struct Project {
    servers: BTreeMap<u64, Server>,
    /// Those that are gone, and since when.
    departed: Vec<(Server, DateTime<Utc>)>,
    actions: BTreeMap<u64, Action>,
    /// The actions that have not ended, by when they will.
    running: BTreeSet<(DateTime<Utc>, u64)>,
    first_boots: Vec<FirstBoot>,
    belongings: Belongings,
    next_server: u64,
    next_action: u64,
    action_time: (Duration, Duration),
}

impl Project {
    /// An empty project; an action takes between the two durations.
    pub(super) fn new(action_time: (Duration, Duration)) -> Project {
        Project {
            servers: BTreeMap::new(),
            departed: Vec::new(),
            actions: BTreeMap::new(),
            running: BTreeSet::new(),
            first_boots: Vec::new(),
            belongings: Belongings::new(),
            next_server: 104_217_300,
            next_action: 583_118_265_000_000,
            action_time,
        }
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// The servers that are gone, and since when.
    pub(super) fn departed(&self) -> impl Iterator<Item = &(Server, DateTime<Utc>)> {
        self.departed.iter()
    }

    pub(super) fn server(&self, id: u64) -> Option<&Server> {
        self.servers.get(&id)
    }

    pub(super) fn server_mut(&mut self, id: u64) -> Option<&mut Server> {
        self.servers.get_mut(&id)
    }

    pub(super) fn action(&self, id: u64) -> Option<&Action> {
        self.actions.get(&id)
    }

    pub(super) fn actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.values()
    }

    /// Whether a server has that name, also one that is being deleted.
    pub(super) fn is_name_taken(&self, name: &str) -> bool {
        self.servers.values().any(|server| server.name == name)
    }

    /// Creates a server; the name must be free. Its actions: the creation, then the start.
    pub(super) fn create(&mut self, new: NewServer, now: DateTime<Utc>) -> (u64, Vec<u64>) {
        let start = new.start;
        let id = self.insert(new, ServerStatus::Off, now);
        let created_at = later(now, self.duration());
        let mut actions = Vec::new();
        if start {
            let started_at = later(created_at, self.duration());
            actions.push(self.begin_until(id, Command::Start, now, started_at));
        }
        // Last, because it decides the status that the server has meanwhile.
        actions.insert(0, self.begin_until(id, Command::Create, now, created_at));
        (id, actions)
    }

    /// A server that is simply there, running, without any action.
    pub(super) fn place(&mut self, new: NewServer, now: DateTime<Utc>) -> u64 {
        self.insert(new, ServerStatus::Running, now)
    }

    fn insert(&mut self, new: NewServer, status: ServerStatus, now: DateTime<Utc>) -> u64 {
        let id = self.next_server;
        self.next_server += rand::random_range(1..40);
        let server = Server {
            id,
            name: new.name,
            labels: new.labels,
            status,
            protected: false,
            created: now,
            machine: new.machine,
            image: new.image,
            location: new.location,
            locked_until: None,
            off_at: None,
            enrolment: new.enrolment,
            busy: 0,
            ssh: new.ssh,
        };
        self.servers.insert(id, server);
        id
    }

    /// Begins `command` on a server that exists; changes of protection end at once.
    pub(super) fn begin(&mut self, server: u64, command: Command, now: DateTime<Utc>) -> u64 {
        let takes = match command {
            Command::Protect | Command::Unprotect => Duration::ZERO,
            _ => self.duration(),
        };
        let id = self.begin_until(server, command, now, later(now, takes));
        self.advance(now);
        id
    }

    fn begin_until(
        &mut self,
        server: u64,
        command: Command,
        now: DateTime<Utc>,
        ends_at: DateTime<Utc>,
    ) -> u64 {
        let id = self.next_action;
        self.next_action += rand::random_range(1..400);
        let mut status_before = ServerStatus::Off;
        if let Some(target) = self.servers.get_mut(&server) {
            status_before = target.status;
            target.busy += 1;
            if let Some(status) = command.status_meanwhile() {
                target.status = status;
            }
        }
        let action = Action {
            id,
            command,
            server,
            started: now,
            ends_at,
            error: None,
            status_before,
            ended: false,
        };
        self.actions.insert(id, action);
        self.running.insert((ends_at, id));
        id
    }

    fn duration(&self) -> Duration {
        let (shortest, longest) = self.action_time;
        if shortest < longest {
            rand::random_range(shortest..=longest)
        } else {
            shortest
        }
    }

    /// Makes a running action end in an error.
    pub(super) fn doom(&mut self, action: u64, code: &str) {
        if let Some(action) = self.actions.get_mut(&action) {
            action.error = Some(code.to_owned());
        }
    }

    /// Removes a server at once, as if somebody else had deleted it; whether it was there.
    pub(super) fn remove(&mut self, id: u64, now: DateTime<Utc>) -> bool {
        self.belongings.lose_server(id);
        let removed = self.servers.remove(&id);
        let is_gone = removed.is_some();
        self.departed.extend(removed.map(|server| (server, now)));
        is_gone
    }

    /// The volumes and IPs.
    pub(super) fn belongings(&self) -> &Belongings {
        &self.belongings
    }

    pub(super) fn belongings_mut(&mut self) -> &mut Belongings {
        &mut self.belongings
    }

    /// Locks a server by hand; whether it is there.
    pub(super) fn lock(&mut self, id: u64, until: DateTime<Utc>) -> bool {
        self.servers
            .get_mut(&id)
            .map(|server| server.locked_until = Some(until))
            .is_some()
    }

    /// Lets everything happen that was due by `now`.
    pub(super) fn advance(&mut self, now: DateTime<Utc>) {
        while let Some(&(ends_at, id)) = self.running.first()
            && ends_at <= now
        {
            self.running.pop_first();
            self.end(id);
        }
        for server in self.servers.values_mut() {
            if server.off_at.is_some_and(|at| at <= now) {
                server.off_at = None;
                server.status = ServerStatus::Off;
            }
        }
    }

    /// The machines that were switched on for the first time since this was last asked.
    pub(super) fn take_first_boots(&mut self) -> Vec<FirstBoot> {
        std::mem::take(&mut self.first_boots)
    }

    fn end(&mut self, id: u64) {
        let Some(action) = self.actions.get_mut(&id) else {
            return;
        };
        action.ended = true;
        let Some(server) = self.servers.get_mut(&action.server) else {
            return;
        };
        server.busy = server.busy.saturating_sub(1);
        match (action.command, &action.error) {
            (Command::Delete, None) => {
                let (server, ended_at) = (action.server, action.ends_at);
                self.remove(server, ended_at);
            }
            // What is still running is the start. A failed creation leaves the server behind.
            (Command::Create, _) => {
                server.status = if server.busy > 0 {
                    ServerStatus::Starting
                } else {
                    ServerStatus::Off
                };
            }
            (Command::Start | Command::Reboot | Command::Reset, None) => {
                server.status = ServerStatus::Running;
                self.first_boots
                    .extend(server.enrolment.take().map(|enrolment| FirstBoot {
                        server: action.server,
                        at: action.ends_at,
                        enrolment,
                    }));
            }
            (Command::Stop, None) => server.status = ServerStatus::Off,
            // Success only says that the signal was sent; the machine goes off in its own time.
            (Command::Shutdown, None) => {
                if server.status == ServerStatus::Running {
                    server.off_at = Some(later(action.ends_at, self.action_time.1));
                }
            }
            (Command::Protect, None) => server.protected = true,
            (Command::Unprotect, None) => server.protected = false,
            (
                Command::Start
                | Command::Stop
                | Command::Shutdown
                | Command::Reboot
                | Command::Reset
                | Command::Delete
                | Command::Protect
                | Command::Unprotect,
                Some(_),
            ) => server.status = action.status_before,
        }
    }

    /// Copies of all servers.
    pub(super) fn snapshot(&self, now: DateTime<Utc>) -> Vec<snapshot::Server> {
        self.servers
            .values()
            .map(|server| snapshot::Server {
                id: server.id,
                name: server.name.clone(),
                labels: server.labels.clone(),
                status: server.status,
                locked: server.is_locked(now),
                protected: server.protected,
                created: server.created,
                ssh: server.ssh.clone(),
            })
            .collect()
    }
}
