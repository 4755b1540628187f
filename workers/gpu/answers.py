"""What an error of the SDK's means to a worker that could ask again."""

import tachograph


def is_passing(error: tachograph.Error) -> bool:
    """Say whether the same call may succeed later."""
    if isinstance(error, tachograph.Problem):
        return error.status >= 500 or error.status in {408, 425, 429}
    return isinstance(error, tachograph.ConnectionFailed)


def is_locked_out(error: tachograph.Error) -> bool:
    """Say whether the key is refused. That is not final: an operator may put it right."""
    return isinstance(error, tachograph.Problem) and error.status in {401, 403}
