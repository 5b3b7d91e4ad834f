//! The GitHub App: who proves to be it, and the installation tokens that it gets.
//!
//! See <https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app>.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::json;

use super::{
    clock::{self, later, stamp},
    exchange::{Answer, Request},
    github::Problem,
    options::Permission,
    snapshot::Effect,
    world::World,
};

/// The app's installation on the repository's owner.
const INSTALLATION: u64 = 41_530_117;
/// The furthest that the end of a proof may lie ahead, in seconds.
const LONGEST_PROOF: i64 = 600;

/// What a proof must say.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
    exp: i64,
}

/// Checks the proof that the app itself asks: a JSON web token signed with its key.
pub(super) fn authenticate(world: &World, request: &Request) -> Result<(), Problem> {
    let refused = |message: &str| Problem::new(StatusCode::UNAUTHORIZED, message);
    let undecodable = || refused("A JSON web token could not be decoded");
    let app = world.options.github_app.as_ref().ok_or_else(undecodable)?;
    let proof = request
        .authorization
        .as_deref()
        .and_then(|header| header.strip_prefix("Bearer "))
        .ok_or_else(undecodable)?;
    let key = DecodingKey::from_rsa_pem(app.public_key.as_bytes()).map_err(|_| undecodable())?;
    let mut validation = Validation::new(Algorithm::RS256);
    // Times are checked below, by the simulation's own clock.
    validation.validate_exp = false;
    let claims = decode::<Claims>(proof, &key, &validation)
        .map_err(|_| undecodable())?
        .claims;
    let now = clock::now().timestamp();
    if claims.iss != app.id {
        return Err(Problem::new(StatusCode::NOT_FOUND, "Integration not found"));
    }
    if claims.iat > now {
        return Err(refused(
            "'Issued at' claim ('iat') must be an Integer representing the time that the \
             assertion was issued",
        ));
    }
    if claims.exp <= now {
        return Err(refused(
            "'Expiration time' claim ('exp') must be a numeric value representing the future \
             time at which the assertion expires",
        ));
    }
    if claims.exp > now + LONGEST_PROOF {
        return Err(refused(
            "'Expiration time' claim ('exp') is too far in the future",
        ));
    }
    Ok(())
}

/// The app's installation on the repository.
pub(super) fn installation(world: &World) -> Answer {
    Answer::json(
        StatusCode::OK,
        json!({
            "id": INSTALLATION,
            "repository_selection": "selected",
            "access_tokens_url":
                format!("https://api.github.com/app/installations/{INSTALLATION}/access_tokens"),
            "permissions": world.options.grants.github_app,
            "suspended_at": null,
        }),
    )
}

/// A request for a token. Without repositories or permissions: all that the installation has.
pub(super) struct NewToken {
    repositories: Option<Vec<String>>,
    permissions: Option<BTreeMap<String, String>>,
}

impl NewToken {
    pub(super) fn parse(installation: &str, body: &[u8]) -> Result<NewToken, Problem> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body {
            repositories: Option<Vec<String>>,
            permissions: Option<BTreeMap<String, String>>,
        }
        if installation != INSTALLATION.to_string() {
            return Err(Problem::not_found());
        }
        let body: Body = match body {
            [] => Body::default(),
            body => serde_json::from_slice(body)
                .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?,
        };
        Ok(NewToken {
            repositories: body.repositories,
            permissions: body.permissions,
        })
    }

    fn permission(&self, has: &BTreeMap<String, String>) -> Result<Permission, Problem> {
        let wanted = self.permissions.as_ref().unwrap_or(has);
        let granted = |(name, level): (&String, &String)| {
            has.get(name)
                .is_some_and(|it| it == level || (it == "write" && level == "read"))
        };
        if !wanted.iter().all(granted) {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The permissions requested are not granted to this installation.",
            ));
        }
        Ok(match wanted.get("actions").map(String::as_str) {
            Some("write") => Permission::Write,
            _ => Permission::Read,
        })
    }
}

/// Hands out a token of the installation.
pub(super) fn issue_token(world: &mut World, wanted: &NewToken) -> Result<Answer, Problem> {
    let permission = wanted.permission(&world.options.grants.github_app)?;
    let (_, known) = world
        .options
        .github_repository
        .split_once('/')
        .unwrap_or_default();
    let all_known = wanted
        .repositories
        .iter()
        .flatten()
        .all(|name| name.eq_ignore_ascii_case(known));
    if !all_known {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "There is at least one repository that does not exist or is not accessible to the \
             parent installation.",
        ));
    }
    let until = later(clock::now(), world.options.github_app_token_lifetime);
    let token = world.actions.issue_token(permission, until);
    let actions = match permission {
        Permission::Read => "read",
        Permission::Write => "write",
    };
    let body = json!({
        "token": token,
        "expires_at": stamp(until),
        "permissions": {"actions": actions, "metadata": "read"},
        "repository_selection": "selected",
    });
    Ok(Answer::json(StatusCode::CREATED, body).with_effect(Effect::TokenIssued))
}
