//! The program on a database that was filled.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use backstop::postgres::PrivatePostgres;
use backstop::sim::Sim;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use standardwebhooks::Webhook;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use uuid::Uuid;

const OPERATOR: &str = "operator-token";
const SECRET: &str = "whsec_c2NhbGUtc2VjcmV0LXNjYWxlLXNlY3JldA==";
const PATIENCE: Duration = Duration::from_secs(60);

/// One installation.
pub struct Service {
    url: String,
    child: Child,
    questions: Vec<(&'static str, String)>,
    /// Provisions that were picked all over the year.
    picked: Vec<Uuid>,
    /// Of somebody who has signed in to the page.
    cookie: String,
}

impl Service {
    /// Makes the database, fills it and serves it.
    pub async fn start(
        name: &str,
        provisions: i64,
        postgres: &PrivatePostgres,
        sim: &Sim,
    ) -> anyhow::Result<Self> {
        let options = postgres.options();
        let mut admin = options.clone().connect().await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut admin)
            .await?;
        let pool = PgPool::connect_with(options.database(name)).await?;
        sqlx::migrate!().run(&pool).await?;
        let seed = include_str!("seed.sql").replace("$1", &provisions.to_string());
        sqlx::raw_sql(AssertSqlSafe(seed)).execute(&pool).await?;
        let picked: Vec<Uuid> = sqlx::query_scalar(
            "select id from provisions where status <> 'provisioning' order by id limit 200",
        )
        .fetch_all(&pool)
        .await?;
        let (server, ip, agent): (String, String, String) = sqlx::query_as(
            "select server_id, server_ip, agent_id from attempts a join provisions p
             on p.id = a.provision_id where p.id = $1",
        )
        .bind(picked[0])
        .fetch_one(&pool)
        .await?;
        pool.close().await;

        let url = postgres.url();
        let (server_of_postgres, _) = url.rsplit_once('/').context("a URL of a database")?;
        let database = format!("{server_of_postgres}/{name}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .arg("serve")
            .envs(sim.environment())
            .env("DATABASE_URL", database)
            .env("BACKSTOP_LISTEN", "127.0.0.1:0")
            .env("BACKSTOP_CALLBACK_SECRETS", SECRET)
            .env("BACKSTOP_OPERATOR_TOKEN", OPERATOR)
            // A sweep would find that nothing of all this exists.
            .env("BACKSTOP_SWEEP_INTERVAL", "3650d")
            .env("BACKSTOP_PROVISION_TIMEOUT", "3650d")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let url = loop {
            match lines.next_line().await? {
                Some(line) => {
                    if let Some(url) = line.strip_prefix("listening on ") {
                        break url.to_owned();
                    }
                }
                None => bail!("the program ended at its start"),
            }
        };
        let mut service = Self {
            url,
            child,
            questions: Vec::new(),
            picked,
            cookie: String::new(),
        };
        service.cookie = service.sign_in().await?;
        service.questions = service.questions_about(&server, &ip, &agent).await?;
        Ok(service)
    }

    /// What is asked, and at which address; `{id}` is another provision each time.
    pub fn questions(&self) -> &[(&'static str, String)] {
        &self.questions
    }

    async fn questions_about(
        &self,
        server: &str,
        ip: &str,
        agent: &str,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        // Twenty pages down the list.
        let (client, mut deep) = (backstop::providers::loopback_client()?, String::new());
        for _ in 0..20 {
            let path = format!("/v1/provisions?limit=200&cursor={deep}");
            let page: Value = self.request(&client, &path, 0).send().await?.json().await?;
            let next = page["next_cursor"].as_str().context("a next page")?;
            next.clone_into(&mut deep);
        }
        Ok(vec![
            ("list", "/v1/provisions".to_owned()),
            ("list, failed", "/v1/provisions?status=failed".to_owned()),
            ("list, stuck", "/v1/provisions?rollback=stuck".to_owned()),
            ("list, done", "/v1/provisions?rollback=done".to_owned()),
            (
                "list, one agent",
                format!("/v1/provisions?agent_id={agent}"),
            ),
            ("list, 4,000 down", format!("/v1/provisions?cursor={deep}")),
            ("record", "/v1/provisions/{id}".to_owned()),
            ("its history", "/v1/provisions/{id}/events".to_owned()),
            ("page: overview", "/".to_owned()),
            ("page: list", "/provisions".to_owned()),
            ("page: provision", "/provisions/{id}".to_owned()),
            ("page: search by agent", "/provisions?q=agent-17".to_owned()),
            ("page: search by server", format!("/provisions?q={server}")),
            ("page: search by address", format!("/provisions?q={ip}")),
            (
                "page: search in vain",
                "/provisions?q=nobody-has-this".to_owned(),
            ),
        ])
    }

    /// A question as a request.
    pub fn request(&self, client: &Client, path: &str, round: usize) -> RequestBuilder {
        let id = self.picked[round % self.picked.len()].to_string();
        client
            .get(format!("{}{}", self.url, path.replace("{id}", &id)))
            .bearer_auth(OPERATOR)
            .header("cookie", &self.cookie)
    }

    /// By hand, for the cookie comes with a redirect.
    async fn sign_in(&self) -> anyhow::Result<String> {
        let host = self.url.trim_start_matches("http://");
        let body = format!("token={OPERATOR}");
        let request = format!(
            "POST /sign-in HTTP/1.0\r\nHost: {host}\r\nOrigin: {}\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            self.url,
            body.len()
        );
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let cookie = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let cookie = value.split(';').next()?;
            name.eq_ignore_ascii_case("set-cookie").then_some(cookie)
        });
        Ok(cookie.context("a cookie")?.to_owned())
    }

    /// From sending a callback to hearing of its provision.
    pub async fn told_by_stream(&self, client: &Client) -> anyhow::Result<Duration> {
        let stream = self.request(client, "/v1/stream", 0).send().await?;
        let mut stream = stream.error_for_status()?;
        // Its greeting: from now on nothing is missed.
        stream.chunk().await?.context("a greeting")?;
        let id = Uuid::new_v4();
        let body = json!({"type": "started", "provision_id": id, "run_id": 7}).to_string();
        let (message, at) = (format!("msg_{id}"), jsonwebtoken::get_current_timestamp());
        let signature =
            Webhook::new(SECRET)?.sign(&message, i64::try_from(at)?, body.as_bytes())?;
        let callback = client
            .post(format!("{}/v1/provisions/{id}/callbacks/started", self.url))
            .header("content-type", "application/json")
            .header("webhook-id", message)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body);
        let began = Instant::now();
        callback.send().await?.error_for_status()?;
        let heard = async {
            while let Some(bytes) = stream.chunk().await? {
                if String::from_utf8_lossy(&bytes).contains(&id.to_string()) {
                    return Ok(began.elapsed());
                }
            }
            bail!("the stream ended")
        };
        tokio::time::timeout(PATIENCE, heard).await?
    }

    /// Stops it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}
