"""Metrics of several processes, shown as one: each copies its own to files of prometheus_client's multiprocess mode.

What a process counts stays in its memory, as plain as with one process; only the copy is shared. A file belongs to a slot, not to
a process: whoever takes the slot of one that died goes on with its counts. What stands now (a gauge) goes with its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

_GAUGES: Final = "gauge_livesum"
_KINDS: Final = {"counter": "counter", "gauge": _GAUGES, "histogram": "histogram"}
_OF_ONE: Final = ("process_", "python_", "companion_build_info")
"""What tells about one process: the one that is scraped shows its own."""


class Sheet:
    """What one process shares, under a slot that no other process has at the same time."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._slot = slot
        self._files: dict[str, MmapedDict] = {}
        self._before: dict[str, float] = {}

    def copy(self, registry: CollectorRegistry) -> None:
        """Write what the registry shows now, on top of what earlier holders of the slot counted."""
        for family in registry.collect():
            kind = _KINDS.get(family.type)
            if kind is None or family.name.startswith(_OF_ONE):
                continue
            file = self._file(kind)
            for name, labels, value in _plain(family):
                key = mmap_key(family.name, name, list(labels), list(labels.values()), family.documentation)
                before = 0.0
                if kind != _GAUGES:
                    if key not in self._before:
                        self._before[key] = file.read_value(key)[0]  # type: ignore[no-untyped-call]
                    before = self._before[key]
                file.write_value(key, before + value, 0.0)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._files.values():
            file.close()  # type: ignore[no-untyped-call]
        self._files.clear()

    def _file(self, kind: str) -> MmapedDict:
        if kind not in self._files:
            path = self._folder / f"{kind}_{self._slot}.db"
            self._files[kind] = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        return self._files[kind]


def forget_gauges(folder: Path, slot: int) -> None:
    """Remove the gauges of a process that ended; what it counted stays."""
    mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]


class Together(Collector):
    """A registry, and what other processes share in a folder, added up."""

    def __init__(self, registry: CollectorRegistry, folder: Path) -> None:
        self._registry = registry
        self._shared = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, its series the sums over the processes."""
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for family in (*self._registry.collect(), *self._shared.collect()):  # type: ignore[no-untyped-call]
            families.setdefault(family.name, family)
            series = sums.setdefault(family.name, {})
            for sample in family.samples:
                # Both sides write the labels in the order of their names, so that one series has one key.
                key = (sample.name, tuple(sorted(sample.labels.items())))
                series[key] = series.get(key, 0.0) + sample.value
        for name, family in families.items():
            merged = Metric(name, family.documentation, family.type)
            for (sample_name, labels), value in sums[name].items():
                merged.add_sample(sample_name, dict(labels), value)
            yield merged


def _plain(family: Metric) -> Iterable[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of what the files hold: each bucket of a histogram by itself, and no count beside them."""
    below: dict[tuple[str, ...], float] = {}
    for sample in family.samples:
        value = sample.value
        if family.type == "histogram":
            if sample.name.endswith("_count"):
                continue
            if sample.name.endswith("_bucket"):
                series = tuple(text for label, text in sample.labels.items() if label != "le")
                value, below[series] = value - below.get(series, 0.0), value
        yield sample.name, sample.labels, value
