"""Where the `compress` command starts, and `python -m compress` (an old Unix program may shadow the command).

Ctrl-C is taken care of before anything else is loaded: until the command line itself does, it ends the program silently.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it: so be it
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from compress.cli import main

    main(prog_name="compress")
    raise AssertionError("the command line exits by itself")


if __name__ == "__main__":
    run()
