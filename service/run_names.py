"""Names of runs: a workflow's name and a session id, or a memorable pair of words; and hierarchical paths."""

import re
from collections.abc import Iterator
from random import Random
from typing import Final
from uuid import UUID

from service.problems import Invalid

_QUALITIES: Final = [
    "amber",
    "bold",
    "brave",
    "bright",
    "brisk",
    "calm",
    "clear",
    "clever",
    "cosmic",
    "crisp",
    "daring",
    "deep",
    "eager",
    "early",
    "fair",
    "fleet",
    "fresh",
    "gentle",
    "golden",
    "grand",
    "green",
    "happy",
    "honest",
    "keen",
    "kind",
    "light",
    "lively",
    "lucid",
    "lucky",
    "mellow",
    "merry",
    "mild",
    "modest",
    "noble",
    "patient",
    "plain",
    "proud",
    "pure",
    "quick",
    "quiet",
    "rapid",
    "ready",
    "robust",
    "royal",
    "serene",
    "sharp",
    "silent",
    "silver",
    "simple",
    "sleek",
    "smooth",
    "solid",
    "steady",
    "still",
    "strong",
    "subtle",
    "sunny",
    "sure",
    "swift",
    "tidy",
    "true",
    "vivid",
    "warm",
    "wise",
    "witty",
    "young",
]
_THINGS: Final = [
    "anchor",
    "arrow",
    "aspen",
    "badger",
    "beacon",
    "birch",
    "bridge",
    "brook",
    "canyon",
    "cedar",
    "cliff",
    "cloud",
    "comet",
    "coral",
    "crane",
    "creek",
    "delta",
    "dune",
    "eagle",
    "ember",
    "falcon",
    "fern",
    "field",
    "finch",
    "fjord",
    "forest",
    "fox",
    "garden",
    "glacier",
    "grove",
    "harbor",
    "hawk",
    "heron",
    "hill",
    "island",
    "ivy",
    "lake",
    "lantern",
    "lark",
    "maple",
    "meadow",
    "mesa",
    "moon",
    "moss",
    "mountain",
    "oak",
    "ocean",
    "orbit",
    "orchid",
    "osprey",
    "otter",
    "owl",
    "pebble",
    "pine",
    "planet",
    "pond",
    "prairie",
    "quartz",
    "rain",
    "raven",
    "reef",
    "ridge",
    "river",
    "robin",
    "sage",
    "sparrow",
    "spruce",
    "star",
    "stone",
    "stream",
    "summit",
    "swan",
    "thistle",
    "tide",
    "trail",
    "valley",
    "walnut",
    "wave",
    "willow",
    "wind",
    "wolf",
    "wren",
]


TRIES: Final = 32


def names(workflow: str | None, chance: Random) -> Iterator[tuple[str, str]]:
    """Return names with their session ids, `TRIES` of them: `<workflow>-<session id>`, or such as `quiet-harbor-417`.

    Every fourth that is taken makes the next longer, so that a project never runs out of them.
    """
    for tried in range(TRIES):
        longer = tried // 4
        session = f"{chance.getrandbits(32 + 8 * longer):0{8 + 2 * longer}x}"
        least = 10 ** (2 + longer)
        words = f"{chance.choice(_QUALITIES)}-{chance.choice(_THINGS)}-{chance.randrange(least, 10 * least)}"
        yield (f"{workflow}-{session}" if workflow else words), session


MAX_PATH: Final = 200
_PATH: Final = re.compile(r"[A-Za-z0-9_/-]+")


def clean_path(path: str | None) -> str:
    """Return a run's path: None is `default`, `/` or nothing the root, backslashes count as slashes.

    Raises `Invalid` for anything but letters, digits, `_`, `-` and `/`, which `..` is not made of.
    """
    if path is None:
        return "default"
    slashed = path.replace("\\", "/")
    if slashed in {"", "/"}:
        return "/"
    parts = [part for part in slashed.split("/") if part]
    if not parts or not _PATH.fullmatch(slashed):
        raise Invalid(f"{path!r} is no path: letters, digits, `_` and `-`, between slashes", path="$.path")
    clean = "/".join(parts)
    if len(clean) > MAX_PATH:
        raise Invalid(f"a path has {MAX_PATH} characters at most", path="$.path", limit=MAX_PATH)
    return clean


def no_id(name: str) -> str:
    """Return a name under which something is looked up. Raises `Invalid` if it reads like an id."""
    try:
        UUID(name)
    except ValueError:
        return name
    raise Invalid("a name does not look like an id: it could not be found by it", path="$.name")
