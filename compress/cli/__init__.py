"""The command line: one file a command; each parses, calls one function and prints. Heavy imports stay inside commands.

`compress --help` imports click and nothing heavier; a test holds that.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

# Command -> its one line in `compress --help`. The file is compress/cli/<command>.py, the function has the command's name.
COMMANDS: Mapping[str, str] = {
    "train": "Train a style network from photos and one painting.",
    "prune": "Remove weights or channels, and fine-tune what is left.",
    "finetune": "Fine-tune a network by distillation or with a painting.",
    "strip": "Remove dead channels exactly, and prove it.",
    "inspect": "Show what a network is made of, and what its channels do.",
    "export": "Make ONNX and TFLite files, each executed and compared.",
    "bench": "Time networks and files side by side.",
    "devices": "List the phones that adb sees, and what stands in the way.",
    "stylize": "Run a network on photos of any size.",
    "check": "Hold files and measurements against a budget.",
    "demo": "The whole way on a bundled network, in a few minutes.",
}


class LazyGroup(click.Group):
    """Imports a command's file when the command is used, not to list it."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:  # type: ignore[override]
        """Run, with every error as one line (a JSON document with --json) and its exit code."""
        from compress.cli.common import errors_as_lines

        arguments = list(sys.argv[1:] if args is None else args)
        with errors_as_lines("--json" in arguments):
            code = super().main(arguments, *rest, **{**extra, "standalone_mode": False})
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"compress.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class _Version:
    """Found only when it is asked for: reading package metadata is slow."""

    @staticmethod
    def show(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            import compress

            click.echo(f"compress {compress.__version__}")
            ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_Version.show, help="Show the version.")
def main() -> None:
    """Make image-to-image CNNs small and fast for phones: prune, prove, ship, gate."""
