//! Runs the workflow file on a runner of our own, against this build: see `tests/workflow`.
//!
//! Needs Node 20.6, npm and what the workflow's scripts need. Where one is missing the tests are left
//! out and a line says so, unless `BACKSTOP_REQUIRE_NODE=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workflow");
const NODE: (u32, u32) = (20, 6);
/// What npm needs to install.
const MANIFEST: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

#[test]
fn the_workflow_file_does_what_it_says_on_a_runner() {
    if let Err(missing) = check_machine() {
        assert!(
            std::env::var_os("BACKSTOP_REQUIRE_NODE").is_none_or(|it| it != "1"),
            "the tests of the workflow file cannot run: {missing}"
        );
        // Not `println!`: what a test prints is shown only when it fails.
        writeln!(
            std::io::stderr(),
            "\nNOT TESTED: the workflow file ({missing})"
        )
        .unwrap();
        return;
    }
    let output = Command::new("node")
        .args(["--test", "--test-reporter=spec"])
        .current_dir(TESTS)
        .env("BACKSTOP_BIN", env!("CARGO_BIN_EXE_backstop"))
        .env("BACKSTOP_NODE_MODULES", installed_packages())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Why the tests cannot run here.
fn check_machine() -> Result<(), String> {
    if cfg!(not(target_os = "linux")) {
        return Err("processes are found through /proc, which only Linux has".to_owned());
    }
    let version = version_of("node")?;
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(format!("node says it is version {version}"));
    };
    if (major, minor) < NODE {
        return Err(format!("node is {version}, and 20.6 is needed"));
    }
    for program in ["npm", "bash", "curl", "jq", "openssl", "python3"] {
        version_of(program)?;
    }
    Ok(())
}

fn version_of(program: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(if program == "openssl" {
            "version"
        } else {
            "--version"
        })
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The `node_modules` of the locked packages: below `target`, for a checkout may be read-only, and
/// moved there when complete, for somebody else may be installing too.
fn installed_packages() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    for file in MANIFEST {
        std::fs::read(Path::new(TESTS).join(file))
            .unwrap()
            .hash(&mut hasher);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("workflow-{:016x}", hasher.finish()));
    if !folder.exists() {
        let fresh = tempfile::tempdir_in(target).unwrap();
        for file in MANIFEST {
            std::fs::copy(Path::new(TESTS).join(file), fresh.path().join(file)).unwrap();
        }
        let output = Command::new("npm")
            .args(["ci", "--ignore-scripts"])
            .current_dir(fresh.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "npm ci of tests/workflow failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Fails if somebody was faster; theirs is the same.
        let _ = std::fs::rename(fresh.path(), &folder);
    }
    let packages = folder.join("node_modules");
    assert!(packages.exists(), "{} is missing", packages.display());
    packages
}
