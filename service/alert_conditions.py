"""What an alert rule may wait for, and a webhook be told, and where."""

from difflib import get_close_matches
from urllib.parse import urlsplit

from events.alerts import Condition, MetricBeyond, NoImprovement
from events.codec import EVENT_TYPES, TELEMETRY
from service.problems import Invalid


def check_condition(condition: Condition) -> None:
    """Refuse what could never come about. Raises `Invalid`."""
    types = getattr(condition, "types", None)
    if types is not None:
        check_types(types, "$.condition.types")
    if getattr(condition, "statuses", None) == ():
        raise Invalid("at least one status is named", path="$.condition.statuses")
    metric = getattr(condition, "metric", None)
    if metric is not None and not 0 < len(metric.encode()) <= 250:
        raise Invalid("a metric's name has 1 to 250 bytes", path="$.condition.metric", limit=250)
    if isinstance(condition, MetricBeyond) and condition.value != condition.value:
        raise Invalid("nothing is above or below NaN; see the condition `nan`", path="$.condition.value")
    if isinstance(condition, NoImprovement):
        bounds = [bound for bound in (condition.steps, condition.seconds) if bound is not None]
        if not bounds or min(bounds) <= 0:
            raise Invalid("say `steps` or `seconds`, above 0", path="$.condition")


def check_types(types: tuple[str, ...], path: str) -> None:
    """Refuse what is no type of event. Raises `Invalid`."""
    if not types:
        raise Invalid("at least one type is named", path=path)
    known = [*EVENT_TYPES, *TELEMETRY]
    for one in types:
        if one not in known:
            near = get_close_matches(one, known, cutoff=0.5)
            meant = f"; near it: {', '.join(near)}" if near else ""
            raise Invalid(f"{one!r} is no type of event{meant}; all are listed at /schema/events", path=path)


def check_address(url: str, path: str) -> None:
    """Refuse what no event can be sent to. Raises `Invalid`."""
    try:
        parts = urlsplit(url)
        fitting = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.username
    except ValueError:
        fitting = False
    if not fitting or any(not "!" <= letter <= "~" for letter in url):
        raise Invalid("a webhook has an http or https address, without a user", path=path)
