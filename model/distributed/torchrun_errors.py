"""How a training under torchrun says what is wrong: once, and last.

Each rank meets the same wrong setting, and after the ranks have ended torchrun prints a traceback
of its own. So the first rank to fail speaks for all, hands torchrun the line as the cause, and has
it printed when torchrun is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

# Waits until a process has ended, a minute at most, and prints a line; where no process can be
# waited for but one's own children (not Linux), a second must do.
_AFTERWARDS = """
import os, select, sys, time
try:
    select.select([os.pidfd_open(int(sys.argv[1]))], [], [], 60)
except AttributeError:
    time.sleep(1)
except OSError:
    pass
print(sys.argv[2], file=sys.stderr, flush=True)
"""


def tell(line: str) -> None:
    """Print an error as the last thing that a person sees of this process or of its torchrun."""
    cause = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not cause:
        print(line, file=sys.stderr)
        return
    folder = os.path.dirname(os.path.abspath(cause))
    os.makedirs(folder, exist_ok=True)
    # The form of `torch.distributed.elastic`'s error files.
    extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
    with open(cause, "w", encoding="utf-8") as file:
        json.dump({"message": {"message": line, "extraInfo": extra}}, file)
    try:
        # A folder above those of the ranks of this host: who makes the file speaks.
        os.close(os.open(os.path.join(folder, os.pardir, "said"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    subprocess.Popen(
        [sys.executable, "-c", _AFTERWARDS, str(os.getppid()), line],
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
