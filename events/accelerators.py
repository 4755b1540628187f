"""Kinds of accelerators: when one is what somebody asks for. Pure."""

from typing import Final

CPU: Final = "cpu"
ANY_GPU: Final = "gpu"


def serves(kind: str, asked: str) -> bool:
    """Say whether a slot's kind is what is asked for: itself, a wider one (`cuda` of `cuda:h200`), or any GPU."""
    return asked == kind or kind.startswith(f"{asked}:") or (asked == ANY_GPU and kind != CPU)
