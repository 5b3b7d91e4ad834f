//! What cannot be used is said at start: which variable, and no secret.

use backstop::sim::{Sim, SimOptions};

use crate::child::{command, database_url, run, settings};
use crate::harness::SECRET;

/// Shows that a value was quoted.
const SECRET_VALUE: &str = "very-secret-value";

/// What is changed about settings that work, and what the error must name. `None` unsets.
type Case = (
    &'static [(&'static str, Option<&'static str>)],
    &'static str,
);

const CASES: &[Case] = &[
    // missing
    (&[("HCLOUD_TOKEN", None)], "HCLOUD_TOKEN"),
    (&[("HCLOUD_TOKEN", Some(""))], "HCLOUD_TOKEN"),
    (
        &[("BACKSTOP_CALLBACK_SECRETS", None)],
        "BACKSTOP_CALLBACK_SECRETS",
    ),
    (
        &[("BACKSTOP_CALLBACK_SECRETS", Some(""))],
        "BACKSTOP_CALLBACK_SECRETS",
    ),
    (
        &[
            ("BACKSTOP_READ_TOKEN", None),
            ("BACKSTOP_OPERATOR_TOKEN", Some("")),
        ],
        "BACKSTOP_READ_TOKEN",
    ),
    (
        &[("BACKSTOP_READ_TOKEN", Some("very-secret-value,"))],
        "BACKSTOP_READ_TOKEN",
    ),
    (
        &[("BACKSTOP_OPERATOR_TOKEN", Some(" , very-secret-value"))],
        "BACKSTOP_OPERATOR_TOKEN",
    ),
    (
        &[("BACKSTOP_TRUSTED_PROXIES", Some("proxy.example"))],
        "BACKSTOP_TRUSTED_PROXIES",
    ),
    (
        &[("BACKSTOP_MAX_CONNECTIONS", Some("0"))],
        "BACKSTOP_MAX_CONNECTIONS",
    ),
    // half-set
    (
        &[("TAILSCALE_OAUTH_CLIENT_SECRET", None)],
        "TAILSCALE_OAUTH_CLIENT_SECRET",
    ),
    (
        &[("TAILSCALE_OAUTH_CLIENT_ID", Some(""))],
        "TAILSCALE_OAUTH_CLIENT_ID",
    ),
    (
        &[("TAILSCALE_API_KEY", Some(SECRET_VALUE))],
        "TAILSCALE_API_KEY",
    ),
    (
        &[
            ("TAILSCALE_API_KEY", Some(SECRET_VALUE)),
            ("TAILSCALE_OAUTH_CLIENT_ID", None),
        ],
        "TAILSCALE_OAUTH_CLIENT_ID",
    ),
    (
        &[("BACKSTOP_GITHUB_REPOSITORY", None)],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    (
        &[("BACKSTOP_GITHUB_REPOSITORY", Some(""))],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    (
        // Known by its number only, it cannot be dispatched.
        &[("BACKSTOP_GITHUB_REPOSITORY", Some("1296269"))],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    (
        &[("GITHUB_TOKEN", None), ("GITHUB_APP_ID", Some("314159"))],
        "GITHUB_APP_PRIVATE_KEY",
    ),
    (
        &[
            ("GITHUB_TOKEN", None),
            ("GITHUB_APP_PRIVATE_KEY", Some(SECRET_VALUE)),
        ],
        "GITHUB_APP_ID",
    ),
    (
        &[("GITHUB_APP_PRIVATE_KEY", Some(SECRET_VALUE))],
        "GITHUB_APP_ID",
    ),
    (
        &[
            ("GITHUB_APP_ID", Some("314159")),
            ("GITHUB_APP_PRIVATE_KEY", Some(SECRET_VALUE)),
        ],
        "GITHUB_TOKEN",
    ),
    (
        &[(
            "BACKSTOP_WEBHOOK_URL",
            Some("https://hooks.example/very-secret-value"),
        )],
        "BACKSTOP_WEBHOOK_SECRET",
    ),
    (
        &[
            ("BACKSTOP_WEBHOOK_URL", Some("")),
            ("BACKSTOP_WEBHOOK_SECRET", Some("whsec_very-secret-value")),
        ],
        "BACKSTOP_WEBHOOK_URL",
    ),
    (
        &[("BACKSTOP_OIDC_ISSUER", Some("https://issuer.example"))],
        "BACKSTOP_PUBLIC_URL",
    ),
    (
        &[
            ("BACKSTOP_OIDC_AUDIENCE", Some("https://backstop.example")),
            ("GITHUB_TOKEN", None),
            ("BACKSTOP_GITHUB_REPOSITORY", None),
        ],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    // secrets that cannot be
    (
        &[("GITHUB_TOKEN", Some("very-secret-value two"))],
        "GITHUB_TOKEN",
    ),
    (
        &[
            ("GITHUB_TOKEN", None),
            ("GITHUB_APP_ID", Some("314159")),
            ("GITHUB_APP_PRIVATE_KEY", Some(SECRET_VALUE)),
        ],
        "GITHUB_APP_PRIVATE_KEY",
    ),
    (
        &[("HCLOUD_TOKEN", Some("very-secret-value two"))],
        "HCLOUD_TOKEN",
    ),
    (
        &[("TAILSCALE_OAUTH_CLIENT_SECRET", Some("very-secret-value\n"))],
        "TAILSCALE_OAUTH_CLIENT_SECRET",
    ),
    (
        &[
            ("TAILSCALE_OAUTH_CLIENT_ID", None),
            ("TAILSCALE_OAUTH_CLIENT_SECRET", None),
            ("TAILSCALE_API_KEY", Some("very-secret-value\t")),
        ],
        "TAILSCALE_API_KEY",
    ),
    (
        &[("BACKSTOP_CALLBACK_SECRETS", Some(SECRET_VALUE))],
        "BACKSTOP_CALLBACK_SECRETS",
    ),
    (
        &[(
            "BACKSTOP_CALLBACK_SECRETS",
            Some("whsec_very-secret-value!"),
        )],
        "BACKSTOP_CALLBACK_SECRETS",
    ),
    (
        &[("BACKSTOP_CALLBACK_SECRETS", Some(","))],
        "BACKSTOP_CALLBACK_SECRETS",
    ),
    (
        &[
            (
                "BACKSTOP_WEBHOOK_URL",
                Some("https://hooks.example/very-secret-value"),
            ),
            ("BACKSTOP_WEBHOOK_SECRET", Some("whsec_very-secret-value!")),
        ],
        "BACKSTOP_WEBHOOK_SECRET",
    ),
    (
        &[("BACKSTOP_GITHUB_WEBHOOK_SECRET", Some("very-secret"))],
        "BACKSTOP_GITHUB_WEBHOOK_SECRET",
    ),
    (
        &[
            ("BACKSTOP_GITHUB_WEBHOOK_SECRET", Some(SECRET_VALUE)),
            ("GITHUB_TOKEN", None),
            ("BACKSTOP_GITHUB_REPOSITORY", None),
        ],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    // unparsable
    (
        &[("BACKSTOP_LISTEN", Some("everywhere"))],
        "BACKSTOP_LISTEN",
    ),
    (&[("HCLOUD_ENDPOINT", Some("not a url"))], "HCLOUD_ENDPOINT"),
    (
        &[
            (
                "BACKSTOP_WEBHOOK_URL",
                Some("ftp://hooks.example/very-secret-value"),
            ),
            ("BACKSTOP_WEBHOOK_SECRET", Some(SECRET)),
        ],
        "BACKSTOP_WEBHOOK_URL",
    ),
    (
        &[
            (
                "BACKSTOP_WEBHOOK_URL",
                Some("https://me:very-secret-value@hooks.example/"),
            ),
            ("BACKSTOP_WEBHOOK_SECRET", Some(SECRET)),
        ],
        "BACKSTOP_WEBHOOK_URL",
    ),
    (
        &[(
            "HCLOUD_ENDPOINT",
            Some("https://me:very-secret-value@api.example"),
        )],
        "HCLOUD_ENDPOINT",
    ),
    (
        &[("TAILSCALE_BASE_URL", Some("ftp://example"))],
        "TAILSCALE_BASE_URL",
    ),
    (&[("TAILSCALE_TAILNET", Some("a/b"))], "TAILSCALE_TAILNET"),
    (
        &[("BACKSTOP_TAILSCALE_TAG", Some("agent"))],
        "BACKSTOP_TAILSCALE_TAG",
    ),
    (
        &[("BACKSTOP_TAILSCALE_TAG", Some("tag:"))],
        "BACKSTOP_TAILSCALE_TAG",
    ),
    (
        &[("GITHUB_API_URL", Some("ftp://example"))],
        "GITHUB_API_URL",
    ),
    (
        &[("BACKSTOP_GITHUB_REPOSITORY", Some("agents"))],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    (
        // Also where nothing is dispatched.
        &[
            ("GITHUB_TOKEN", Some("")),
            ("BACKSTOP_GITHUB_REPOSITORY", Some("a/b/c")),
        ],
        "BACKSTOP_GITHUB_REPOSITORY",
    ),
    (
        &[("BACKSTOP_GITHUB_WORKFLOW", Some(".github/workflows/a.yml"))],
        "BACKSTOP_GITHUB_WORKFLOW",
    ),
    (&[("BACKSTOP_GITHUB_REF", Some(""))], "BACKSTOP_GITHUB_REF"),
    (
        // Whoever is on the way could put keys of his own there.
        &[
            ("BACKSTOP_OIDC_ISSUER", Some("http://issuer.example")),
            ("BACKSTOP_OIDC_AUDIENCE", Some("https://backstop.example")),
        ],
        "BACKSTOP_OIDC_ISSUER",
    ),
    (
        &[
            ("BACKSTOP_OIDC_AUDIENCE", Some("https://backstop.example")),
            (
                "BACKSTOP_OIDC_CALLED_WORKFLOWS",
                Some("provision-agent.yml"),
            ),
        ],
        "BACKSTOP_OIDC_CALLED_WORKFLOWS",
    ),
    (
        &[
            ("BACKSTOP_OIDC_AUDIENCE", Some("https://backstop.example")),
            ("BACKSTOP_GITHUB_OWNER_ID", Some("acme")),
        ],
        "BACKSTOP_GITHUB_OWNER_ID",
    ),
    (
        &[("BACKSTOP_PROVISION_TIMEOUT", Some("soon"))],
        "BACKSTOP_PROVISION_TIMEOUT",
    ),
    (
        &[("BACKSTOP_HEARTBEAT_TIMEOUT", Some("never"))],
        "BACKSTOP_HEARTBEAT_TIMEOUT",
    ),
    (
        &[("BACKSTOP_CORS_ORIGINS", Some("https://a.example, *"))],
        "BACKSTOP_CORS_ORIGINS",
    ),
    (
        &[("BACKSTOP_PUBLIC_URL", Some("backstop.example.com"))],
        "BACKSTOP_PUBLIC_URL",
    ),
    (
        &[(
            "BACKSTOP_PUBLIC_URL",
            Some("https://me:very-secret-value@backstop.example.com"),
        )],
        "BACKSTOP_PUBLIC_URL",
    ),
    (
        &[("BACKSTOP_PROVISION_TIMEOUT", Some("30"))],
        "BACKSTOP_PROVISION_TIMEOUT",
    ),
    (
        &[("BACKSTOP_LATE_ARRIVAL_WINDOW", Some("0s"))],
        "BACKSTOP_LATE_ARRIVAL_WINDOW",
    ),
    (
        &[("BACKSTOP_RETRY_BASE", Some("-1s"))],
        "BACKSTOP_RETRY_BASE",
    ),
    (
        &[
            ("BACKSTOP_RETRY_BASE", Some("1h")),
            ("BACKSTOP_RETRY_CAP", Some("1s")),
        ],
        "BACKSTOP_RETRY_CAP",
    ),
    (
        &[("BACKSTOP_STUCK_AFTER", Some("1000y"))],
        "BACKSTOP_STUCK_AFTER",
    ),
    (
        &[("BACKSTOP_SWEEP_INTERVAL", Some("often"))],
        "BACKSTOP_SWEEP_INTERVAL",
    ),
    (
        &[("BACKSTOP_SWEEP_DELETE", Some("perhaps"))],
        "BACKSTOP_SWEEP_DELETE",
    ),
    (
        &[("BACKSTOP_RATE_RESERVE", Some("1.01"))],
        "BACKSTOP_RATE_RESERVE",
    ),
    (
        &[("BACKSTOP_RATE_RESERVE", Some("-0.1"))],
        "BACKSTOP_RATE_RESERVE",
    ),
    (
        &[("BACKSTOP_RATE_RESERVE", Some("20%"))],
        "BACKSTOP_RATE_RESERVE",
    ),
    (
        &[("BACKSTOP_DATABASE_CONNECTIONS", Some("0"))],
        "BACKSTOP_DATABASE_CONNECTIONS",
    ),
    (
        &[("BACKSTOP_DATABASE_CONNECTIONS", Some("many"))],
        "BACKSTOP_DATABASE_CONNECTIONS",
    ),
    // the database
    (
        &[(
            "DATABASE_URL",
            Some("mysql://me:very-secret-value@127.0.0.1/x"),
        )],
        "DATABASE_URL",
    ),
    (
        &[("DATABASE_URL", Some("very-secret-value"))],
        "DATABASE_URL",
    ),
    (
        &[(
            "DATABASE_URL",
            Some("postgres://me:very-secret-value@127.0.0.1:1/x"),
        )],
        "DATABASE_URL",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_ends_serve_with_an_error_that_names_the_variable_and_no_secret() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let url = database_url().await;
    let mut problems = Vec::new();
    for (changes, named) in CASES {
        let mut environment = settings(&sim);
        environment.push(("DATABASE_URL".to_owned(), url.clone()));
        for (name, value) in *changes {
            environment.retain(|(known, _)| known != name);
            if let Some(value) = value {
                environment.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        let ended = run(command(&["serve"], &environment)).await;
        let case = format!("{changes:?}: {:?} {}", ended.code, ended.stderr);
        if !matches!(ended.code, Some(1 | 2)) {
            problems.push(format!("exit code of {case}"));
        }
        if !ended.stderr.contains(named) {
            problems.push(format!("{named} is not named by {case}"));
        }
        if ended.stderr.contains("very-secret")
            || ended.stderr.contains(&sim.options().hcloud_token)
            || ended.stderr.contains(&sim.options().github_token)
        {
            problems.push(format!("a secret is shown by {case}"));
        }
        if !ended.stdout.is_empty() {
            problems.push(format!("{} was printed by {case}", ended.stdout));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_taken_is_named() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let mut environment = settings(&sim);
    environment.retain(|(name, _)| name != "BACKSTOP_LISTEN");
    environment.push(("DATABASE_URL".to_owned(), database_url().await));
    environment.push(("BACKSTOP_LISTEN".to_owned(), sim.address().to_string()));
    let ended = run(command(&["serve"], &environment)).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("BACKSTOP_LISTEN"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_the_database_cannot_be_reached_is_said_once_and_in_one_sentence() {
    let elsewhere = database_url().await.replace("/test_", "/not_test_");
    for (url, cause) in [
        ("postgres://me@127.0.0.1:1/x", "Connection refused"),
        (elsewhere.as_str(), "does not exist"),
    ] {
        let environment = vec![("DATABASE_URL".to_owned(), url.to_owned())];
        let ended = run(command(&["migrate"], &environment)).await;
        assert_eq!(ended.code, Some(1));
        let said = ended.stderr.trim_end();
        assert_eq!(said.matches(cause).count(), 1, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("backstop: DATABASE_URL"), "{said}");
    }
}
