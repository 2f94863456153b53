"""Groups of commands that have a module of their own, imported when one of its commands is given: `zhika version` needs no database."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from typer.core import TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from typer._click import Command, Context

_MODULES = (
    "bundle",
    "outlet",
    "fee",
    "blank",
    "bank",
    "encoder",
    "erase",
    "custody",
    "event",
    "broker",
    "webhook",
    "keys",
    "card",
    "photo",
)
"""Names of groups, in the order of the help; each is a module of this package with its Typer application as `app`."""


class Groups(TyperGroup):
    """The command's own groups, and those that wait in modules."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Names of all groups and commands."""
        return [*super().list_commands(ctx), *_MODULES]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The group or command of this name, with its module imported."""
        if cmd_name in _MODULES and cmd_name not in self.commands:
            group = get_group(import_module(f"producers.cli.{cmd_name}").app)
            group.name = cmd_name
            self.add_command(group)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """As the library's, but a misspelt name is compared with the names of all groups."""
        if args and self.get_command(ctx, args[0]) is None:
            for name in _MODULES:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)
