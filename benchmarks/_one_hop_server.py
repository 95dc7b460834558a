"""The whole product in the role `hooks`, as in `_hooks_server`, giving EMQX the whole policy with a login.

Argument: its folder. Sessions end with their tokens, so that every answer is known beforehand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks._hooks_server import hooks_settings, serve
from companion.background import run

if __name__ == "__main__":
    run(serve(hooks_settings(data_dir=Path(sys.argv[1]), hooks_acl=True, hooks_acl_seconds=0), ()))
