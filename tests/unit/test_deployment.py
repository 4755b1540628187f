"""What `make up` and the containers must agree on."""

import json
import re
from pathlib import Path

import yaml

from stack.nats import PERMISSIONS

ROOT = Path(__file__).resolve().parent.parent.parent


def test_containers_give_nats_users_the_same_permissions():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    configuration = json.loads(compose["configs"]["nats"]["content"].replace("$$", "$"))
    users = configuration["authorization"]["users"]
    assert {user["user"]: user["permissions"] for user in users} == PERMISSIONS
    assert configuration["jetstream"]["sync_interval"] == "always"


def test_the_lock_files_name_packages_versions_and_hashes_only():
    line = re.compile(
        r"[a-z0-9-]+==[\w.!+]+( ; [\w\s.'<>=!()]+)? \\\n?"  # a pinned package, where it is for
        r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
        r"|\s*#.*"
    )
    for name in ("requirements.lock", "bootstrap.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert [found for found in text.splitlines() if not line.fullmatch(found)] == []


def test_every_required_package_is_locked():
    wanted = {match[1] for match in re.finditer(r"^([a-z0-9-]+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)}
    locked = {
        match[1] for match in re.finditer(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    }
    assert wanted - locked == set()
