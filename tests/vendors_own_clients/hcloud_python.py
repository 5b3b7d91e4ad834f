"""Drives Hetzner's Python library against the simulation; `run.sh` calls it."""

import json
import os
import time
import urllib.request

from hcloud import APIException, Client
from hcloud.actions import ActionFailedException
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.ssh_keys import SSHKey

ENDPOINT = os.environ["HCLOUD_ENDPOINT"]
CONTROL = os.environ["BACKSTOP_SIM_URL"]
NAME = f"python-{os.getpid()}"
LABELS = {"managed-by": "backstop", "test": NAME}


def client(token: str = os.environ["HCLOUD_TOKEN"]) -> Client:
    return Client(token=token, api_endpoint=ENDPOINT, poll_interval=0.1)


def say(text: str) -> None:
    print(f"hcloud for Python: {text}", flush=True)


def fault(**fields: object) -> None:
    """Scripts something to go wrong with Hetzner's answers."""
    request = urllib.request.Request(
        f"{CONTROL}/sim/faults",
        data=json.dumps({"vendor": "hetzner", **fields}).encode(),
        headers={"content-type": "application/json"},
        method="POST",
    )
    urllib.request.urlopen(request).close()


def code_of(call) -> str:
    """The code of the error that the call must end in."""
    try:
        call()
    except APIException as error:
        return str(error.code)
    raise AssertionError("the call was expected to fail")


def create(hetzner: Client, name: str):
    return hetzner.servers.create(
        name=name,
        server_type=ServerType(name="cx22"),
        image=Image(name="ubuntu-24.04"),
        location=Location(name="fsn1"),
        ssh_keys=[SSHKey(name="sim")],
        labels=LABELS,
    )


def main() -> None:
    hetzner = client()

    assert hetzner.server_types.get_by_name("cx22").architecture == "x86"
    assert hetzner.images.get_by_name_and_architecture("ubuntu-24.04", "arm") is not None
    assert hetzner.locations.get_by_name("fsn1").network_zone == "eu-central"
    assert hetzner.ssh_keys.get_by_name("sim") is not None
    say("the catalogue is there")

    created = create(hetzner, NAME)
    assert created.server.status == "initializing", created.server.status
    assert created.action.status == "running"
    assert [action.command for action in created.next_actions] == ["start_server"]
    assert code_of(created.server.delete) == "locked"
    say("a new server is locked while it is being created")

    created.action.wait_until_finished()
    for action in created.next_actions:
        action.wait_until_finished()
    server = hetzner.servers.get_by_name(NAME)
    assert server.id == created.server.id
    assert server.status == "running", server.status
    assert server.labels == LABELS
    assert server.server_type.name == "cx22" and server.location.name == "fsn1"
    assert server.public_net.ipv4.ip and server.image.name == "ubuntu-24.04"
    say("created, and found by name")

    assert code_of(lambda: create(hetzner, NAME)) == "uniqueness_error"
    assert code_of(lambda: hetzner.servers.get_by_id(1)) == "not_found"
    assert code_of(client("wrong").servers.get_all) == "unauthorized"
    say("a taken name, an unknown id and a wrong token are refused")

    selectors = {
        f"test={NAME}": 1,
        f"test=={NAME},managed-by": 1,
        f"test in ({NAME},other),!missing": 1,
        f"test notin (other),test={NAME}": 1,
        f"test={NAME},managed-by!=backstop": 0,
        f"test={NAME},!managed-by": 0,
    }
    for selector, count in selectors.items():
        found = hetzner.servers.get_all(label_selector=selector)
        assert len(found) == count, (selector, found)
    assert code_of(lambda: hetzner.servers.get_all(label_selector="a in b")) == "invalid_input"
    say("label selectors find what they should")

    others = [create(hetzner, f"{NAME}-{number}") for number in range(3)]
    page = hetzner.servers.get_list(label_selector=f"test={NAME}", page=2, per_page=3)
    assert len(page.servers) == 1 and page.meta.pagination.total_entries == 4
    assert page.meta.pagination.last_page == 2 and page.meta.pagination.next_page is None
    say("lists come in pages")

    server.change_protection(delete=True, rebuild=True).wait_until_finished()
    assert code_of(server.delete) == "protected"
    server.change_protection(delete=False, rebuild=False).wait_until_finished()
    say("delete protection holds until it is lifted")

    fault(method="DELETE", path=f"/servers/{server.id}", kind="locked", for_ms=300)
    assert code_of(server.delete) == "locked"
    time.sleep(0.4)
    say("a lock is reported, and passes")

    fault(method="DELETE", path=f"/servers/{server.id}", kind="action_fails")
    try:
        server.delete().wait_until_finished()
        raise AssertionError("the action was expected to fail")
    except ActionFailedException as error:
        assert error.action.error["code"] == "action_failed"
    assert hetzner.servers.get_by_id(server.id).status == "running"
    say("an action that fails leaves the server as it was")

    # The library tries again by itself, five times.
    fault(method="GET", path="/servers", kind="status", status=429, times=2)
    assert hetzner.servers.get_by_name(NAME) is not None
    impatient = client()
    impatient._client._retry_max_retries = 0
    fault(method="GET", path="/servers", kind="status", status=429)
    assert code_of(lambda: impatient.servers.get_by_name(NAME)) == "rate_limit_exceeded"
    say("the rate limit is waited out, or reported")

    place = Location(name="fsn1")
    volume = hetzner.volumes.create(size=10, name=NAME, location=place, labels=LABELS).volume
    attached = hetzner.volumes.create(size=10, name=f"{NAME}-on", server=server, labels=LABELS)
    assert attached.volume.server.id == server.id
    assert [action.command for action in attached.next_actions] == ["attach_volume"]
    primary = hetzner.primary_ips.create(
        type="ipv4", name=NAME, location=place, assignee_type="server", labels=LABELS
    ).primary_ip
    floating = hetzner.floating_ips.create(
        type="ipv6", name=NAME, home_location=place, labels=LABELS
    ).floating_ip
    selector = f"test={NAME}"
    assert len(hetzner.volumes.get_all(label_selector=selector)) == 2
    assert hetzner.volumes.get_by_name(NAME).server is None
    assert hetzner.primary_ips.get_all(label_selector=selector)[0].assignee_id is None
    assert hetzner.floating_ips.get_all(label_selector=selector)[0].server is None
    assert code_of(attached.volume.delete) == "conflict"
    for unattached in [volume, primary, floating]:
        assert unattached.delete()
    assert len(hetzner.volumes.get_all(label_selector=selector)) == 1
    say("volumes and IPs are created, found by label, and deleted when no server has them")

    server.shutdown().wait_until_finished()
    for gone in [server, *(other.server for other in others)]:
        for action in gone.get_actions(status=["running"]):
            action.wait_until_finished()
        action = gone.delete()
        assert action.command == "delete_server"
        action.wait_until_finished()
    assert hetzner.servers.get_all(label_selector=f"test={NAME}") == []
    assert hetzner.volumes.get_by_name(f"{NAME}-on").server is None
    assert hetzner.volumes.get_by_name(f"{NAME}-on").delete()
    assert code_of(lambda: hetzner.servers.get_by_id(server.id)) == "not_found"
    say("deleted, and gone once the actions have ended")


main()
