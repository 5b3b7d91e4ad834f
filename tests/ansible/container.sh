# The machine as a container of systemd's, booted from an image of this machine's distribution.
# `run.sh` sources this and says what it must define.
# shellcheck shell=bash disable=SC2034,SC2154

# Its network is its own, joined only to a namespace that the runs start from. Of the ranges that
# Tailscale and documentation use; nothing outside these namespaces sees them.
client=backstop-test-$$
address=100.64.0.2
internet=192.0.2.2

machine="a container of $(. /etc/os-release && echo "$PRETTY_NAME")"
agent_directory=/etc/backstop
left_out=
play_arguments=()

# What the playbook installs. It has no network to fetch it from, and finds it where apt keeps what
# it has downloaded.
offered=(unattended-upgrades systemd-timesyncd nftables)

within() { ip netns exec "$client" "$@"; }

on_machine() { nsenter --target "$leader" --all "$@"; }

start_machine() {
  install_programs
  ssh-keygen -q -t ed25519 -N '' -f "$work/key"
  build_image
  systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$work/image" \
    --machine="$client" --console=pipe --resolv-conf=off --timezone=off --link-journal=no \
    --network-veth-extra="bt$$a:tailscale0" --network-veth-extra="bt$$b:eth0" \
    </dev/null >"$work/console" 2>&1 &
  nspawn=$!
  join_network
}

install_programs() {
  ! type -P mmdebstrap systemd-nspawn nsenter ip ssh >/dev/null || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    mmdebstrap systemd-container util-linux iproute2 openssh-client >/dev/null
}

build_image() {
  local sources=() file
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/{debian,ubuntu}.sources; do
    [[ ! -s $file ]] || sources+=("$file")
  done
  # shellcheck disable=SC2016  # Expanded by mmdebstrap's shell.
  interruptible mmdebstrap --quiet --variant=minbase --skip=cleanup/apt \
    --include=systemd-sysv,dbus,iproute2,openssh-server,python3,python3-apt,procps,ca-certificates \
    --customize-hook='APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq --yes -o APT::Install-Recommends=true --download-only install '"${offered[*]}" \
    "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/image" "${sources[@]}" \
    >"$work/mmdebstrap" 2>&1 || { cat "$work/mmdebstrap" >&2; fail 'the image cannot be made'; }
  install -D -m 600 "$work/key.pub" "$work/image/root/.ssh/authorized_keys"
  # A first boot with errors that it went on after.
  cloud_init_exits_with 2
}

cloud_init_exits_with() {
  printf '#!/bin/sh\necho "cloud-init $*: some detail"\nexit %d\n' "$1" >"$work/image/usr/bin/cloud-init"
  chmod 755 "$work/image/usr/bin/cloud-init"
}

join_network() {
  ip netns add "$client"
  for _ in $(seq 100); do
    read -r leader <"/proc/$nspawn/task/$nspawn/children" && [[ -e /sys/class/net/bt$$b ]] &&
      nsenter --target "$leader" --net ip link show eth0 >/dev/null 2>&1 && break
    sleep 0.1
  done 2>/dev/null
  [[ -n ${leader:-} ]] || { cat "$work/console" >&2; fail 'the container does not start'; }
  join "bt$$a" 100.64.0.1 tailscale0 "$address"
  join "bt$$b" 192.0.2.1 eth0 "$internet"
}

# join OURS ADDRESS THEIRS ADDRESS: the two ends of one wire.
join() {
  ip link set "$1" netns "$client"
  within ip address add "$2/24" dev "$1"
  within ip link set "$1" up
  nsenter --target "$leader" --net ip address add "$4/24" dev "$3"
  nsenter --target "$leader" --net ip link set "$3" up
}

stop_machine() {
  [[ -n ${nspawn:-} ]] || return 0
  kill "$nspawn" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$nspawn" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$nspawn" 2>/dev/null || true
  wait "$nspawn" 2>/dev/null || true
  ip netns delete "$client" 2>/dev/null || true
  rmdir "/run/systemd/nspawn/propagate/$client" 2>/dev/null || true
}

before_runs() {
  refuses internet "This run came in by $internet, which the firewall would shut" \
    "$internet" --tags firewall
  # As root, but through a login shell that forgets how it came in.
  refuses internet-by-su "This run came in by $internet, which the firewall would shut" \
    "$internet" --tags firewall --become --become-method su -e 'ansible_become_flags=-l'
  cloud_init_exits_with 1
  refuses failed-boot 'cloud-init status --wait --long: some detail' "$address"
  cloud_init_exits_with 2
}

after_runs() {
  has 'WARNING: cloud-init is done' cat "$work/first"
  has 'permission denied on key "kernel' cat "$work/first"

  has 'passwordauthentication no' on_machine sshd -T
  has 'kbdinteractiveauthentication no' on_machine sshd -T
  has 'permitrootlogin without-password' on_machine sshd -T
  has 'Permission denied (publickey).' knock "$address" -o PreferredAuthentications=none

  has 'APT::Periodic::Unattended-Upgrade "1";' on_machine apt-config dump
  has 'Debian-Security' on_machine unattended-upgrade --dry-run --debug
  has enabled on_machine systemctl is-enabled unattended-upgrades
  has enabled on_machine systemctl is-enabled systemd-timesyncd
  has 'SystemMaxUse=200M' on_machine systemd-analyze cat-config systemd/journald.conf
  has ' = 0' on_machine sysctl net.ipv4.conf.eth0.accept_redirects
  has ' = 0' on_machine sysctl net.ipv6.conf.eth0.accept_redirects

  # Somebody else's rules outlive ours being loaded again.
  has enabled on_machine systemctl is-enabled nftables
  on_machine nft add table ip tailscale
  on_machine systemctl reload nftables
  has 'table ip tailscale' on_machine nft list tables
  has 'Connection timed out' knock "$internet"
  has active knock "$address" systemctl is-active nftables
  has 'no failed units' no_failed_units
}

# knock ADDRESS [ARGUMENTS]: a new connection.
knock() {
  local to=$1
  shift
  within ssh -i "$work/key" -o UserKnownHostsFile="$work/known_hosts" -o StrictHostKeyChecking=accept-new \
    -o BatchMode=yes -o ConnectTimeout=2 "root@$to" "$@"
}

no_failed_units() {
  [[ $(on_machine systemctl is-system-running) == running ]] && echo 'no failed units'
  on_machine systemctl list-units --failed
}
