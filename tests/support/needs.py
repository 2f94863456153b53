"""What a test needs of the machine: where it is missing the test is skipped with the reason; with CI=true it fails, so that no gap hides."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """End the test for want of something; `reason` says how to get it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
