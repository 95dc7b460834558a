"""The bounds of the histograms, in seconds."""

from __future__ import annotations

from typing import Final

HOOK_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
ACK_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
JOB_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 14_400, 86_400)
LAG_SECONDS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600)
