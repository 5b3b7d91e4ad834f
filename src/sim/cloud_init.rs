//! What a machine does at its first boot, as far as joining the tailnet and letting people in go.
//!
//! A real machine runs its user data; this one only looks for the `tailscale up` in it, and for two of
//! cloud-init's settings. See
//! <https://cloudinit.readthedocs.io/en/latest/explanation/format.html>,
//! <https://cloudinit.readthedocs.io/en/latest/reference/modules.html#ssh> and
//! <https://tailscale.com/kb/1241/tailscale-up>.

use serde::Deserialize;

use super::snapshot::SshAccess;

/// A machine's wish to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Enrolment {
    /// The secret of an auth key.
    pub(super) auth_key: String,
    /// What the machine calls itself.
    pub(super) hostname: String,
}

/// The enrolment that user data asks for. `None`: the machine stays outside.
pub(super) fn enrolment(user_data: &str, server_name: &str) -> Option<Enrolment> {
    let (_, arguments) = user_data.split_once("tailscale")?;
    let auth_key = ["--auth-key", "--authkey"]
        .iter()
        .find_map(|name| value(arguments, name))?;
    Some(Enrolment {
        auth_key: auth_key.to_owned(),
        hostname: value(arguments, "--hostname")
            .unwrap_or(server_name)
            .to_owned(),
    })
}

/// The settings of cloud-init that matter here.
#[derive(Default, Deserialize)]
struct CloudConfig {
    #[serde(default)]
    ssh_authorized_keys: Vec<String>,
    /// Whether sshd takes passwords. `None`: as the image has it, and Hetzner's takes them where the
    /// machine got a root password.
    ssh_pwauth: Option<bool>,
}

/// Who can log in by SSH as root, where the vendor put `keys` on the machine and made a root password if
/// there are none.
pub(super) fn ssh_access(user_data: &str, keys: Vec<String>) -> SshAccess {
    let config: CloudConfig = user_data
        .strip_prefix("#cloud-config")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let by_password = keys.is_empty() && config.ssh_pwauth != Some(false);
    let mut authorized_keys = keys;
    authorized_keys.extend(config.ssh_authorized_keys);
    SshAccess {
        authorized_keys,
        by_password,
    }
}

/// The value of `--name=value` or `--name value`, in a shell's line or a list of words.
fn value<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    let is_between = |c: char| c.is_whitespace() || "=\"',[]".contains(c);
    let (_, rest) = arguments.split_once(name)?;
    rest.trim_start_matches(is_between)
        .split(is_between)
        .next()
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolment_is_found_in_words_and_in_lines() {
        for user_data in [
            r#"#cloud-config
               {"runcmd":[["tailscale","up","--auth-key=tskey-auth-1","--hostname=agent-1","--ssh"]]}"#,
            "#!/bin/sh\ntailscale up --ssh --authkey tskey-auth-1 --hostname agent-1\n",
        ] {
            let expected = Enrolment {
                auth_key: "tskey-auth-1".to_owned(),
                hostname: "agent-1".to_owned(),
            };
            assert_eq!(enrolment(user_data, "other"), Some(expected), "{user_data}");
        }
        assert_eq!(enrolment("#!/bin/sh\necho --auth-key=x\n", "other"), None);
        let nameless = enrolment("tailscale up --auth-key=k", "agent-2").unwrap();
        assert_eq!(nameless.hostname, "agent-2");
    }

    #[test]
    fn a_machine_without_keys_takes_its_root_password_unless_told_otherwise() {
        let access = |user_data: &str, keys: &[&str]| {
            let keys = keys.iter().map(ToString::to_string).collect();
            let access = ssh_access(user_data, keys);
            (access.authorized_keys.join(" "), access.by_password)
        };
        assert_eq!(access("", &[]), (String::new(), true));
        assert_eq!(access("", &["a"]), ("a".to_owned(), false));
        let told = "#cloud-config\n{\"ssh_pwauth\": false, \"ssh_authorized_keys\": [\"b\"]}";
        assert_eq!(access(told, &[]), ("b".to_owned(), false));
        assert_eq!(access(told, &["a"]), ("a b".to_owned(), false));
    }
}
