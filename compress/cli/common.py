"""What all commands share: their options, their errors, their two channels (results on stdout, talk on stderr).

A command is a function that takes `talk: Talk` first, and returns one JSON document (a dict) or None.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from compress.errors import OF_OTHERS, CompressError, MissingToolError, OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from compress.networks.load import LoadedNetwork, NetOptions

# Package -> the extra that brings it, for those that commands import without asking `require` first.
EXTRAS = {"torch": "train", "safetensors": "train"}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Talk:
    """How a command speaks: `say` and `warn` on stderr, `show` a result on stdout unless `--json` takes that place."""

    as_json: bool = False
    quiet: bool = False

    def say(self, text: str) -> None:
        """Progress and facts for people: stderr, silenced by --quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Something the user should know and may have to act on: stderr, never silenced."""
        click.echo(f"warning: {text}", err=True)

    def show(self, text: str) -> None:
        """The result for people: stdout; with --json the document takes its place."""
        if not self.as_json:
            click.echo(text)

    def table(
        self, headers: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, left: Sequence[str] = ()
    ) -> None:
        """The result as a table for people: stdout. The first column is left-aligned, and those in `left`; the others right."""
        if self.as_json:
            return
        from rich import box
        from rich.table import Table

        console, table = (
            self._console(stderr=False),
            Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold"),
        )
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index == 0 or header in left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        if title:
            console.print(title, soft_wrap=True)  # the table's own title is no wider than the table
        if rows:
            console.print(table)

    @property
    def stderr(self) -> Console:
        """The console that progress bars draw on; it draws nothing with --quiet."""
        return self._console(stderr=True)

    def _console(self, stderr: bool) -> Console:
        from rich.console import Console

        wide = 140 if not (sys.stderr if stderr else sys.stdout).isatty() else None
        return Console(stderr=stderr, quiet=self.quiet and stderr, width=wide, highlight=False, markup=False, emoji=False)


class _NamedAsWritten(click.ParamType[Any]):
    """Help shows the name as it is: click would write it in capitals."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.name


class ShapeType(_NamedAsWritten):
    name = "1x3xHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from compress.spec import parse_shape

        return value if isinstance(value, tuple) else parse_shape(value)


class SizeType(_NamedAsWritten):
    name = "N or HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from compress.spec import parse_size

        return value if isinstance(value, tuple) else parse_size(str(value))


class JsonObject(click.ParamType[Any]):
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--args is not JSON: {error}", """for example --args '{"width": 16}'""") from error
        if not isinstance(parsed, dict):
            raise UsageError(f"--args must be a JSON object, got {value}", """for example --args '{"width": 16}'""")
        return parsed


SIZE, SHAPE, PATH = SizeType(), ShapeType(), click.Path(path_type=Path)


def command(*, example: str) -> Callable[[Callable[..., dict[str, Any] | None]], click.Command]:
    """Make a click command of a function: `--json --seed --quiet --force`, and help with `example`.

    Errors need no handling in a command: `errors_as_lines` is around all of them.
    """

    def decorate(function: Callable[..., dict[str, Any] | None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> None:
            with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a network's own prints are not our document
                document = function(Talk(as_json, quiet), *args, **kwargs)
            if as_json and document is not None:
                click.echo(json.dumps(document, indent=2))

        epilog = "\b\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
        made = click.command(epilog=epilog)(run)
        for option in _COMMON_OPTIONS:
            made = option(made)
        return made

    return decorate


_COMMON_OPTIONS = (
    click.option("--force", is_flag=True, help="Replace outputs that exist."),
    click.option("--quiet", is_flag=True, help="No talk on stderr, only errors and warnings."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of all randomness."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
)


def net_options(function: Function) -> Function:
    """Add `--network --args --example --image-format`; the command gets them as `net: NetOptions`."""

    @functools.wraps(function)
    def with_net(*args: Any, **kwargs: Any) -> Any:
        from compress.image_format import ImageFormat
        from compress.networks.load import NetOptions

        text = kwargs.pop("image_format")
        kwargs["net"] = NetOptions(
            kwargs.pop("network"), kwargs.pop("arguments"), kwargs.pop("example"), ImageFormat.parse(text) if text else None
        )
        return function(*args, **kwargs)

    for option in (
        click.option("--image-format", metavar="F", help="0..1, 0..255, -1..1, imagenet, caffe, or spelled out."),
        click.option("--example", type=SHAPE, multiple=True, help="Example input shape, once an input."),
        click.option("--args", "arguments", type=JsonObject(), help="Arguments of the network's factory."),
        click.option("--network", metavar="NAME|PKG.MODULE:FACTORY", help="Which network; needed where no file says it."),
    ):
        with_net = option(with_net)
    return with_net  # type: ignore[return-value]


def output_option(help: str, required: bool = True) -> Callable[[Function], Function]:
    """`-o/--output PATH`, given to the command as `output`."""
    return click.option("-o", "--output", type=PATH, required=required, help=help)


def open_net(path: Path, net: NetOptions, talk: Talk) -> LoadedNetwork:
    """Open a NET argument, and say what was found."""
    from compress.networks.load import open_network

    loaded = open_network(path, net)
    parameters = sum(p.numel() for p in loaded.module.parameters())
    talk.say(f"{path.name}: {loaded.spec.network}, {parameters:,} parameters")
    return loaded


@contextmanager
def errors_as_lines(as_json: bool) -> Iterator[None]:
    """Whatever a user can cause becomes one line on stderr (or a JSON document) and an exit code; the rest is a traceback."""
    try:
        with _ctrl_c_stays_ctrl_c():
            yield
    except CompressError as error:
        _fail(error, as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        hint = error.ctx.command_path + " --help shows how" if isinstance(error, click.UsageError) and error.ctx else None
        _fail(UsageError(error.format_message(), hint), as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        if as_json:
            click.echo(json.dumps({"error": {"kind": "stopped", "message": "stopped", "hint": None}}, indent=2))
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        from compress.memory import is_exhausted

        if not is_exhausted(error):
            raise
        _fail(CompressError("out of memory", "a smaller --size or --batch needs less"), as_json)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(MissingToolError(f"{package} is not installed", f"pip install 'mobile-compress[{EXTRAS[package]}]'"), as_json)
    except OSError as error:
        if not error.filename:
            raise
        _fail(OutputError(f"{error.filename}: {error.strerror}"), as_json)


def _fail(error: CompressError, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps(error.to_json(), indent=2))
    else:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
    sys.exit(error.exit_code)


@contextmanager
def _ctrl_c_stays_ctrl_c() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C; and whatever interrupted code makes of it (numpy's import an ImportError), it was Ctrl-C."""
    asked: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        asked.append(number)
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if callable(signal.getsignal(signal.SIGINT)):  # a shell's background job ignores it: so be it
        numbers.append(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in numbers} if is_main else {}
    try:
        yield
    except (CompressError, SystemError, *OF_OTHERS) as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
