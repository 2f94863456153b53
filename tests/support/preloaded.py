"""What every command needs, imported once: the process that imports this is the parent of the commands that tests give."""

from importlib import import_module
from pkgutil import iter_modules

import producers.cli

for _module in iter_modules(producers.cli.__path__, "producers.cli."):
    import_module(_module.name)
