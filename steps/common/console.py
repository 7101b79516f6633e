"""Command lines: how they look, and how they end. User errors are one line, defects keep their traceback."""

import codecs
import contextlib
import errno
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Annotated, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from steps.common.errors import EXIT_USER_ERROR
from steps.common.messages import presentable

DISTRIBUTION = "cvat-detr"
DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""A disk that is full or that we may not use: not a defect, and another try does not help."""
IN_THE_WAY = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOTEMPTY}
"""A folder where a file goes, or the other way round: likewise."""


TERMINATION_LOG = Path("/dev/termination-log")

HELP = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
"""Settings of every command's help: its width, on a terminal that has as many columns, and how it is asked for."""


def create_app(name: str | None, text: str, epilog: str | None = None) -> typer.Typer:
    """Make an empty command line.

    Args:
        name: what users type to start it; None for what they typed.
        text: what it is for.
        epilog: what stands below its help.
    """
    app = typer.Typer(
        name=name,
        help=text,
        epilog=epilog,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=HELP,
    )

    # Typer takes the whole program's options from a function's signature.
    @app.callback()
    def options(
        show_version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None: ...

    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            say(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        except PackageNotFoundError:
            say(f"{DISTRIBUTION}, not installed: run from its source")
        raise typer.Exit


def run_app(commands: Callable[[], typer.Typer], *user_errors: type[Exception]) -> int:
    """Run a command line; give its exit status.

    Args:
        commands: makes them, once it is known that they can run here.
        user_errors: exceptions whose message goes to stderr in one line, without a traceback.

    Returns:
        0; for a user error 2, or the `exit_status` that it carries; 130 after Ctrl-C; what `typer.Exit` carries.
    """
    if os.name != "posix":
        return fail(f"{DISTRIBUTION} needs Linux or macOS: on Windows, run it in WSL")
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8":
        return fail(f"this locale writes file names as {sys.getfilesystemencoding()}, not UTF-8: set PYTHONUTF8=1")
    _guard_the_streams()
    try:
        app = commands()
        # Typer would print the help as an error.
        asked = sys.argv[1:] or (["--help"] if app.info.no_args_is_help is True else [])
        status = app(asked, standalone_mode=False)
    except user_errors as error:
        return fail(str(error), getattr(error, "exit_status", EXIT_USER_ERROR))
    except typer.TyperException as error:
        return fail(usage_error(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS | IN_THE_WAY:
            raise
        remedy = ": move away what is there" if error.errno in IN_THE_WAY else ""
        # A file is renamed into its place, which is the second name.
        name = error.filename2 or error.filename or "a file"
        return fail(f"{name} cannot be opened or written ({error.strerror}){remedy}")
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted", sys.stderr)
        return 130
    finally:
        # Typer has put its own there.
        sys.excepthook = _show_defect
    # A command returns its result; a number is typer's own, of --help and typer.Exit.
    return status if type(status) is int else 0


def _guard_the_streams() -> None:
    """Let nothing past `presentable` that Python itself prints, and no sign end a program that a stream cannot show."""
    threading.excepthook = lambda found: _show_defect(found.exc_type, found.exc_value, found.exc_traceback)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_defect(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip(), sys.stderr)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text as `presentable` has it, on standard output unless told otherwise."""
    print(presentable(text), file=stream or sys.stdout)


class Screen(Console):
    """A terminal for text in colours and tables, each text as `presentable` has it.

    Messages of pods and names of files are shown as they are, whatever brackets and colons they hold.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # All that is shown comes by here, cells of tables too, and before lines are broken.
        if isinstance(renderable, str):
            renderable = presentable(renderable)
        elif isinstance(renderable, Text) and presentable(renderable.plain) != renderable.plain:
            dirty, renderable = renderable, renderable.blank_copy()
            for part in dirty.render(self):
                renderable.append(presentable(part.text), part.style)
        return super().render(renderable, options)


class OneDoor(logging.Formatter):
    """What is logged, as `presentable` has it; a line of the log is one of ours, whatever names are in it."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record.args = tuple(
                " ".join(each.splitlines()) if isinstance(each, str) and "\n" in each else each for each in record.args
            )
        return presentable(super().format(record))


def log_to(stream: TextIO) -> None:
    """Send what the program logs to a stream, through the one door."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneDoor("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def fail(message: str, status: int = EXIT_USER_ERROR) -> int:
    """Print a user error; give the exit status for it."""
    say(f"error: {' '.join(message.splitlines())}", sys.stderr)
    _tell_cluster(message)
    return status


def _tell_cluster(message: str) -> None:
    """Leave a user error where Kubernetes looks, and Argo's page shows it beside the exit status.

    Source: Kubernetes, "Determine the Reason for Pod Failure"; it takes 4096 bytes.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with contextlib.suppress(OSError):
            TERMINATION_LOG.write_bytes(presentable(message).encode()[:4096])


def usage_error(error: typer.TyperException) -> str:
    """Say what is wrong with a command line in one line."""
    text = error.format_message().replace("Invalid value for ", "").replace("Value error, ", "")
    return " ".join(text.split())
