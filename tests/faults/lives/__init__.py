"""Lives of jobs and services that end at a step, each in a process of its own: `python -m tests.faults.lives`."""
