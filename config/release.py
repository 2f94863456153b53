"""Which release runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version of the installed package; `0` in a checkout that was not installed."""
    try:
        return version("zhika")
    except PackageNotFoundError:
        return "0"
