//! The example provisions: how each goes wrong, and what it leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::fresh_id;
use super::workflow::{Made, Stage};

/// How long a provision needs somebody before somebody comes.
const PERSON_TAKES: Duration = Duration::from_secs(30);

/// One example.
pub(super) struct Scene {
    pub name: &'static str,
    plot: Plot,
}

enum Plot {
    Succeeds,
    CleansUpItself,
    LeavesEverything,
    LosesItsOutputs,
    IsLocked,
    IsRerun,
    IsProtected,
}

/// Needs a person, who takes their time: not for a demo that is to end.
pub(super) const PROTECTED: Scene = Scene {
    name: "protected",
    plot: Plot::IsProtected,
};

pub(super) const SCRIPT: [Scene; 6] = [
    Scene {
        name: "succeeds",
        plot: Plot::Succeeds,
    },
    Scene {
        name: "cleans-up",
        plot: Plot::CleansUpItself,
    },
    Scene {
        name: "leaves-all",
        plot: Plot::LeavesEverything,
    },
    Scene {
        name: "lost-outputs",
        plot: Plot::LosesItsOutputs,
    },
    Scene {
        name: "locked",
        plot: Plot::IsLocked,
    },
    Scene {
        name: "re-run",
        plot: Plot::IsRerun,
    },
];

/// How an example ended.
pub(super) struct Ending {
    pub id: Uuid,
    pub name: String,
    pub status: String,
    pub left: &'static str,
    pub proven: String,
    /// From the failure to the proof; `None` if nothing had to go.
    pub took: Option<Duration>,
    pub settled: bool,
    /// Name of the machine that is in use afterwards.
    pub keeps: Option<String>,
}

impl Scene {
    /// Plays it to its end.
    pub(super) async fn play(&self, stage: &Arc<Stage>, name: String) -> anyhow::Result<Ending> {
        let id = fresh_id();
        let run = stage.start(&name, id).await?;
        let made = match self.plot {
            Plot::Succeeds => run.make_all().await?,
            _ => run.make_all_and_leave_key().await?,
        };
        match self.plot {
            // Its outputs never leave the runner: nobody is told an id.
            Plot::LosesItsOutputs => run.progress("vm_created", &Made::default()).await?,
            _ => run.progress("vm_created", &made).await?,
        }
        sleep(Duration::from_millis(300)).await;

        let mut keeps = None;
        let left = match self.plot {
            Plot::Succeeds => {
                run.succeed(&made).await?;
                keeps = Some(run.server_name());
                "-"
            }
            Plot::CleansUpItself => {
                stage.clean_up(&made).await?;
                run.say("its own cleanup deleted server, device and key");
                run.fail("configure", "ansible: host unreachable", &made)
                    .await?;
                "nothing"
            }
            Plot::LeavesEverything | Plot::IsRerun => {
                run.fail("configure", "ansible: task failed", &made).await?;
                "server, device, key"
            }
            Plot::LosesItsOutputs => {
                run.fail("runner", "the runner was lost", &Made::default())
                    .await?;
                "server, device, key; no ids"
            }
            Plot::IsProtected => {
                if let Some(server) = made.server {
                    stage.sim.protect_server(server);
                    run.fail("configure", "ansible: task failed", &made).await?;
                    sleep(PERSON_TAKES).await;
                    stage.sim.unprotect_server(server);
                    run.say("somebody switched its delete protection off");
                }
                "protected server, device, key"
            }
            Plot::IsLocked => {
                if let Some(server) = made.server {
                    stage.sim.lock_server(server, Duration::from_secs(2));
                }
                run.fail("configure", "timed out", &made).await?;
                "locked server, device, key"
            }
        };
        let failed_at = Instant::now();
        if let Plot::IsRerun = self.plot {
            let second = run.again().await?;
            let made = second.make_all().await?;
            second.succeed(&made).await?;
            keeps = Some(second.server_name());
        }
        let outcome = stage.watch(&name, id).await?;
        let nothing_to_undo = matches!(self.plot, Plot::Succeeds);
        if !nothing_to_undo && outcome.settled {
            stage.say(&name, "all proven gone");
        }
        Ok(Ending {
            id,
            name,
            status: outcome.status,
            left,
            proven: proven(&outcome.proofs),
            took: (!nothing_to_undo).then(|| failed_at.elapsed()),
            settled: nothing_to_undo || outcome.settled,
            keeps,
        })
    }
}

/// Each proof with the kinds of thing it is of, in the order of deletion.
fn proven(proofs: &BTreeMap<String, String>) -> String {
    let mut kinds_by_proof: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in ["auth_key", "server", "device"] {
        let Some(proof) = proofs.get(resource) else {
            continue;
        };
        let kind = resource.trim_start_matches("auth_");
        match kinds_by_proof.iter_mut().find(|(known, _)| known == proof) {
            Some((_, kinds)) => kinds.push(kind),
            None => kinds_by_proof.push((proof, vec![kind])),
        }
    }
    if kinds_by_proof.is_empty() {
        return "-".to_owned();
    }
    let parts: Vec<String> = kinds_by_proof
        .iter()
        .map(|(proof, kinds)| format!("{} {}", kinds.join(", "), proof.replace('_', " ")))
        .collect();
    parts.join("; ")
}
