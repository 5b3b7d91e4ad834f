//! What Tailscale could say of the token that the client's secret is exchanged for.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run};
use crate::liar::{End, Liar, Lie, Told, changed, made_up};
use crate::lies::Bench;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_about_the_token_sends_a_secret_elsewhere_or_tells_it() {
    let secret = Options::default().sim.oauth_client_secret;
    let with = |name: &'static str, value: Value| {
        changed("POST", "/oauth/token", move |_, told| {
            told.changed(|body| body[name] = value.clone())
        })
    };
    let says = |told: Told| made_up("POST", "/oauth/token", move |_| told.clone());
    let moved = |status, to: &str| says(Told::text(status, "").header("location", to));
    let unsettled: &[(&str, Box<dyn Fn(&str) -> Lie>, &str)] = &[
        ("moves, 301", Box::new(|to| moved(301, to)), "a redirect"),
        ("moves, 302", Box::new(|to| moved(302, to)), "a redirect"),
        ("moves, 307", Box::new(|to| moved(307, to)), "a redirect"),
        ("moves, 308", Box::new(|to| moved(308, to)), "a redirect"),
        (
            "negative time",
            Box::new(|_| with("expires_in", json!(-1))),
            "broken body",
        ),
        (
            "time as a text",
            Box::new(|_| with("expires_in", json!("3600"))),
            "broken body",
        ),
        (
            "more time than there is",
            Box::new(|_| with("expires_in", json!(1e300))),
            "broken body",
        ),
        (
            "a token with a line break",
            Box::new(|_| with("access_token", json!("a\r\nx-forged: b"))),
            "no token",
        ),
        (
            "an empty token",
            Box::new(|_| with("access_token", json!(""))),
            "no token",
        ),
        (
            "no token",
            Box::new(|_| with("access_token", json!(null))),
            "broken body",
        ),
        (
            "another kind of token",
            Box::new(|_| with("token_type", json!("mac"))),
            "no token",
        ),
        (
            "200 with an error",
            Box::new(|_| says(Told::json(200, &json!({"error": "invalid_client"})))),
            "broken body",
        ),
        (
            "our secret as the code of an error",
            Box::new({
                let secret = secret.clone();
                move |_| says(Told::json(400, &json!({"error": secret})))
            }),
            "400",
        ),
        (
            "without an end",
            Box::new(|_| says(Told::text(200, &" ".repeat(65536)).ending(End::Never))),
            "more than",
        ),
    ];
    let mut failures = Vec::new();
    let bench = Bench::start().await;
    for (name, lie, error) in unsettled {
        // Its token is fetched by the first call that needs one.
        let (liar, service) = Liar::start(Options::default(), |_| {}).await;
        liar.tell(vec![lie(&format!("{}/x", bench.elsewhere.url))]);
        let (id, run) = (Uuid::new_v4(), Run(100, 1));
        let made = service.make_all(&service.started(id, run).await);
        service.callback("failure", id, run, made.ids()).await;
        let provision = service
            .until(id, |provision| {
                let steps = provision["rollback"]["steps"].as_array().unwrap();
                let mut of_tailscale = steps.iter().filter(|it| it["resource"] != "server");
                of_tailscale.all(|step| !step["last_error"].is_null())
            })
            .await;
        if !provision["rollback"].to_string().contains(error) {
            failures.push(format!("{name}: {:#}", provision["rollback"]));
        }
        let shown = format!(
            "{provision} {:?} {}",
            service.events(id).await,
            crate::tables::logged()
        );
        if shown.contains(&secret) {
            failures.push(format!("{name}: told the secret"));
        }
        if let Err(odd) = crate::lies::no_text_is_odd(&provision) {
            failures.push(format!("{name}: {odd}"));
        }
        liar.tell(Vec::new());
        service.advance(std::time::Duration::from_secs(60)).await;
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(bench.elsewhere.heard(), Vec::<String>::new());
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    // What is odd about these does no harm.
    for value in [json!(0), json!(null), json!(u64::MAX)] {
        let (liar, service) = Liar::start(Options::default(), |_| {}).await;
        liar.tell(vec![with("expires_in", value)]);
        let (id, run) = (Uuid::new_v4(), Run(100, 1));
        let made = service.make_all(&service.started(id, run).await);
        service.callback("failure", id, run, made.ids()).await;
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new());
    }
}
