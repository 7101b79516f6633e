"""How a command ends: with one line when the user is at fault, with a traceback when we are."""

import errno
import sys

import typer

from steps.common.errors import EXIT_USER_ERROR

DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""A disk that is full or not ours to write to: no defect of ours, and nothing that another try mends."""


def run_app(app: typer.Typer, *mistakes: type[Exception]) -> int:
    """Run a command line; give its exit status.

    Args:
        app: the commands.
        mistakes: exceptions that are the user's to mend: their message goes to stderr in one line.

    Returns:
        0; 2 for a mistake of the user's; 130 after Ctrl-C; what `typer.Exit` carries.
    """
    try:
        # Asked for nothing, Typer would raise an error that has the help as its message.
        arguments = sys.argv[1:] or (["--help"] if app.info.no_args_is_help is True else [])
        status = app(args=arguments, standalone_mode=False)
    except mistakes as error:
        return fail(str(error))
    except typer.TyperException as error:
        return fail(usage_error(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return fail(f"{error.filename or 'a file'} cannot be written: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    # A command gives back what it made; a number is typer's own, of --help and typer.Exit.
    return status if isinstance(status, int) else 0


def fail(message: str) -> int:
    """Print a user's mistake; give the exit status for it."""
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def usage_error(error: typer.TyperException) -> str:
    """Say what is wrong with a command line in one line."""
    text = error.format_message().replace("Invalid value for ", "").replace("Value error, ", "")
    return " ".join(text.split())
