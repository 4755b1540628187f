"""The recipe that workflows and runs share: what the API accepts of it, with its bounds, and the checks over fields."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from events.types import Liveness, Resources, StartCommand, Volume
from service.patterns import LABEL, NO_NUL, VARIABLE
from service.problems import Invalid

MIN_SILENCE_SECONDS: Final = 2.0
"""Beats reach the monitor a few times a second at most: silence cannot be told from less."""
MAX_SILENCE_SECONDS: Final = 7 * 86_400

Text = Annotated[str, Meta(max_length=65_536)]
Label = Annotated[str, Meta(min_length=1, max_length=128, pattern=LABEL)]
Argument = Annotated[str, Meta(max_length=32_768, pattern=NO_NUL)]
Arguments = Annotated[tuple[Argument, ...], Meta(max_length=1_000)]
Variable = Annotated[str, Meta(max_length=250, pattern=VARIABLE)]
Variables = Annotated[dict[Variable, Argument], Meta(max_length=1_000)]
Secrets = Annotated[tuple[Variable, ...], Meta(max_length=250)]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86_400)]
Reference = Annotated[str, Meta(min_length=1, max_length=1_000, pattern=LABEL)]
InnerPath = Annotated[str, Meta(max_length=500)]
Share = Annotated[float, Meta(ge=0, le=1)]
Split = Annotated[dict[Label, Share], Meta(max_length=32)]
Document = dict[str, Any]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all request bodies."""


class StartCommandBody(Body, frozen=True):
    """One of the commands that a run starts in order."""

    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=1_000)]
    working_directory: InnerPath = ""


class VolumeBody(Body, frozen=True):
    """A directory or file that is brought before the start, or taken away after the end."""

    place: Reference
    path: InnerPath


class ResourcesBody(Body, frozen=True):
    """How many accelerators of which kind."""

    accelerator: Label = "cpu"
    count: Annotated[int, Meta(ge=1, le=1_024)] = 1

    def value(self) -> Resources:
        """Return it as events hold it."""
        return Resources(accelerator=self.accelerator, count=self.count)


class LivenessBody(Body, frozen=True):
    """How often a run beats, and how long its silence is borne."""

    beat_seconds: Annotated[float, Meta(ge=0.01, le=MAX_SILENCE_SECONDS)] = 5.0
    unresponsive_seconds: Annotated[float, Meta(ge=MIN_SILENCE_SECONDS, le=MAX_SILENCE_SECONDS)] = 15.0
    crashed_seconds: Annotated[float, Meta(gt=MIN_SILENCE_SECONDS, le=MAX_SILENCE_SECONDS)] = 45.0

    def value(self) -> Liveness:
        """Return it as events hold it. Raises `Invalid`."""
        if not self.beat_seconds < self.unresponsive_seconds < self.crashed_seconds:
            raise Invalid("beat_seconds < unresponsive_seconds < crashed_seconds", path="$.liveness")
        return Liveness(
            beat_seconds=self.beat_seconds,
            unresponsive_seconds=self.unresponsive_seconds,
            crashed_seconds=self.crashed_seconds,
        )


Commands = Annotated[tuple[StartCommandBody, ...], Meta(max_length=100)]
Volumes = Annotated[tuple[VolumeBody, ...], Meta(max_length=100)]


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe as events hold them, of those that a body gives. Raises `Invalid`."""
    fields = dict(given)
    if fields.get("command") and fields.get("commands"):
        raise Invalid("either `command`, or `commands` in order", path="$.commands")
    if "command" in fields or "commands" in fields:  # whichever is given replaces both
        argv, several = start_commands(fields.get("command", ()), fields.get("commands", ()))
        fields |= {"command": argv, "commands": several}
    for name in ("import_volumes", "export_volumes"):
        if name in fields:
            fields[name] = volumes(fields[name], f"$.{name}", own_run=name == "export_volumes")
    if fields.get("resources") is not None:
        fields["resources"] = fields["resources"].value()
    if "secrets" in fields:
        fields["secrets"] = tuple(dict.fromkeys(fields["secrets"]))
    check_environment(fields.get("environment", {}))
    check_split(fields.get("dataset_split", {}))
    return fields


def start_commands(
    command: tuple[str, ...], commands: Iterable[StartCommandBody]
) -> tuple[tuple[str, ...], tuple[StartCommand, ...]]:
    """Return `command` and `commands` as events hold them: one command in the run's directory is no list.

    Raises `Invalid`.
    """
    several = tuple(
        StartCommand(
            argv=one.argv,
            working_directory=inner_path(one.working_directory, f"$.commands[{index}].working_directory"),
        )
        for index, one in enumerate(commands)
    )
    for index, one in enumerate(several):
        if not one.argv[0]:
            raise Invalid("a command begins with a program", path=f"$.commands[{index}].argv[0]")
    if command and not command[0]:
        raise Invalid("a command begins with a program", path="$.command[0]")
    if len(several) == 1 and not several[0].working_directory:
        return several[0].argv, ()
    return command, several


_PLACE: Final = re.compile(r"(artifact|volume):(.+)")


def volumes(given: Iterable[VolumeBody], at: str, *, own_run: bool) -> tuple[Volume, ...]:
    """Return volumes as events hold them; an artifact to write is the run's own. Raises `Invalid`."""
    found = []
    for index, one in enumerate(given):
        place = _PLACE.fullmatch(one.place)
        if place is None:
            raise Invalid("a place is `artifact:…` or `volume:…`", path=f"{at}[{index}].place")
        name = inner_path(place[2], f"{at}[{index}].place")
        if not name or (place[1] == "artifact" and not own_run and "/" not in name):
            raise Invalid("a place to read is `artifact:<run>/<name>` or `volume:…`", path=f"{at}[{index}].place")
        found.append(Volume(place=f"{place[1]}:{name}", path=inner_path(one.path, f"{at}[{index}].path")))
    if not own_run:
        paths = [one.path for one in found]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                raise Invalid(f"two volumes would be brought to {path!r}", path=f"{at}[{index}].path")
    return tuple(found)


def inner_path(path: str, at: str) -> str:
    """Return a path inside a run's directory, empty for the directory itself. Raises `Invalid` for what leaves it."""
    slashed = path.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in {"", "."}]
    if slashed.startswith(("/", "~")) or ".." in parts or re.match(r"[A-Za-z]:", slashed):
        raise Invalid(f"{path!r} leaves the run's directory; paths are relative to it", path=at)
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise Invalid("a path has no control characters", path=at)
    return "/".join(parts)


def check_split(split: Mapping[str, float]) -> None:
    """Refuse shares of a dataset that add up to more than all of it. Raises `Invalid`."""
    if sum(split.values()) > 1 + 1e-9:
        raise Invalid("the shares of a dataset add up to 1 at most", path="$.dataset_split", limit=1)


_SECRET_WORDS: Final = ("SECRET", "PASSWORD", "PASSWD", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIAL")


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse literal values under names that look secret: the ledger never forgets. Raises `Invalid`."""
    for name in environment:
        if any(word in name.upper() for word in _SECRET_WORDS):
            raise Invalid(
                f"{name} looks like a secret; name it in `secrets`, and the worker takes it from its own environment",
                path=f"$.environment.{name}",
            )
