"""Starting processes as a terminal does."""

import signal


def hear_ctrl_c() -> None:
    """Run in a new process before its program: a shell's background jobs, CI's for one, are started deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
