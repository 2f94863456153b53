"""Who may know whom: the contracts of pyproject.toml, and what they cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("card_personalization", "pipeline", "config", "workers", "producers")


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


@cache
def imported(path: Path) -> set[str]:
    """Top-level names of the packages a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_import_contracts_hold() -> None:
    """In a process of its own: the linter sets up logging for whole processes."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


DOORS = {
    "sqlalchemy": ("pipeline/store/",),
    "alembic": ("pipeline/store/",),
    "psycopg": ("pipeline/store/",),
    "dramatiq": ("workers/", "producers/relay.py"),
    "httpx2": ("pipeline/gateways/",),
    "PIL": (
        "pipeline/photo/",
        "card_personalization/face.py",
        "producers/simulators/",
        "producers/cli/photo_bench.py",
    ),
    "cryptography": (
        "pipeline/store/sealing.py",
        "pipeline/gateways/objects.py",
        "pipeline/webhook_signing.py",
        "card_personalization/",
    ),
    "chinese_calendar": ("pipeline/calendar.py",),
    "python_calamine": ("producers/batch_file.py",),
    "smartcard": ("card_personalization/transport/pcsc.py",),
    "pkcs11": ("card_personalization/keys/pkcs11/",),
    "pydantic_settings": ("config/settings.py",),
}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    behind = [path.relative_to(ROOT).as_posix() for path in modules() if library in imported(path)]
    assert behind, f"nobody imports {library}: take it off this list"
    assert [name for name in behind if not name.startswith(DOORS[library])] == []


def test_nothing_that_runs_imports_the_tests() -> None:
    assert [path.name for path in modules() if "tests" in imported(path)] == []
