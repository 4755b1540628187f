"""Names of runs: a workflow's name and a session id, or a memorable pair of words; and hierarchical paths."""

import secrets
from typing import Final

from service.problems import Invalid

_QUALITIES: Final = ["amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cosmic", "crisp", "daring", "deep", "eager", "early", "fair", "fleet", "fresh", "gentle", "golden", "grand", "green", "happy", "honest", "keen", "kind", "light", "lively", "lucid", "lucky", "mellow", "merry", "mild", "modest", "noble", "patient", "plain", "proud", "pure", "quick", "quiet", "rapid", "ready", "robust", "royal", "serene", "sharp", "silent", "silver", "simple", "sleek", "smooth", "solid", "steady", "still", "strong", "subtle", "sunny", "sure", "swift", "tidy", "true", "vivid", "warm", "wise", "witty", "young"]
_THINGS: Final = ["anchor", "arrow", "aspen", "badger", "beacon", "birch", "bridge", "brook", "canyon", "cedar", "cliff", "cloud", "comet", "coral", "crane", "creek", "delta", "dune", "eagle", "ember", "falcon", "fern", "field", "finch", "fjord", "forest", "fox", "garden", "glacier", "grove", "harbor", "hawk", "heron", "hill", "island", "ivy", "lake", "lantern", "lark", "maple", "meadow", "mesa", "moon", "moss", "mountain", "oak", "ocean", "orbit", "orchid", "osprey", "otter", "owl", "pebble", "pine", "planet", "pond", "prairie", "quartz", "rain", "raven", "reef", "ridge", "river", "robin", "sage", "sparrow", "spruce", "star", "stone", "stream", "summit", "swan", "thistle", "tide", "trail", "valley", "walnut", "wave", "willow", "wind", "wolf", "wren"]


def session_id() -> str:
    """Return eight characters that tell the runs of a workflow apart."""
    return secrets.token_hex(4)


def memorable_name() -> str:
    """Return a name such as `quiet-harbor-417`."""
    return f"{secrets.choice(_QUALITIES)}-{secrets.choice(_THINGS)}-{secrets.randbelow(900) + 100}"


def clean_path(path: str | None) -> str:
    """Return a run's path: None is `default`, `/` the root, backslashes count as slashes.

    Raises `Invalid` for what climbs or cannot be a name.
    """
    if path is None:
        return "default"
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    for part in parts:
        if part in {".", ".."} or part.startswith("~") or ":" in part or any(ord(letter) < 32 for letter in part):
            raise Invalid(f"{part!r} cannot be part of a path", path="$.path")
    return "/".join(parts) or "/"
