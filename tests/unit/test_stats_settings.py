"""The settings of statistics: from tables and variables to rules, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.core.model import ChangeOp
from companion.core.stats import Kind, Measure, Whom
from companion.loading import load

FILE = """
[observer]
lease = 20

[stats]
collection = "counts.all"
whom = ["actor"]
timezone = "Europe/Berlin"

[stats.timezones]
65f1a2b3c4d5e6f708192a3b = "Asia/Tokyo"

[[stats.measures]]
kind = "sum"
collection = "thing.metrics"
field = "reading.value"
ops = ["create", "update"]
scale = 100
name = "celsius"
"""


def test_from_a_file(tmp_path: Path) -> None:
    """Every table becomes what it says."""
    path = tmp_path / "companion.toml"
    path.write_text(FILE)
    settings = load({"COMPANION_CONFIG": str(path), "COMPANION_OBSERVER": "true"}).settings
    assert (settings.observer, settings.observer_lease, settings.stats_collection) == (True, 20, "counts.all")
    assert settings.stats_whom == (Whom.ACTOR,)
    (measure,) = settings.stats_measures
    ops = frozenset({ChangeOp.CREATE, ChangeOp.UPDATE})
    assert measure.measure() == Measure(Kind.SUM, "thing", "metrics", ops, "reading.value", 100, "celsius")
    assert str(measure) == "sum of thing.metrics.reading.value"
    zones = settings.zones()
    assert [zones.of(owner).key for owner in ("65f1a2b3c4d5e6f708192a3b", "x")] == ["Asia/Tokyo", "Europe/Berlin"]


def test_from_the_environment() -> None:
    """Tables are JSON, names are separated by commas, and - stands for nobody."""
    environ = {
        "COMPANION_STATS_MEASURES": '[{"kind": "size", "collection": "thing.metrics"}]',
        "COMPANION_STATS_TIMEZONES": '{"alice": "Asia/Tokyo"}',
        "COMPANION_STATS_WHOM": "group, client",
    }
    settings = load(environ).settings
    assert settings.stats_measures[0].kind == "size"
    assert settings.stats_timezones == {"alice": "Asia/Tokyo"}
    assert settings.stats_whom == (Whom.GROUP, Whom.CLIENT)
    assert load({"COMPANION_STATS_WHOM": "-"}).settings.stats_whom == ()


@pytest.mark.parametrize(
    ("name", "value", "field", "allowed"),
    [
        ("STATS_WHOM", "owner", "stats_whom", "'actor', 'client' or 'group'"),
        ("STATS_TIMEZONE", "Berlin", "stats_timezone", "the name of a time zone"),
        ("STATS_TIMEZONES", '{"a": "Berlin"}', "stats_timezones", "the name of a time zone"),
        ("STATS_COLLECTION", "stats", "stats_collection", "pattern"),
        ("STATS_MEASURES", "[", "stats_measures", "a JSON list of tables"),
        ("STATS_MEASURES", '[{"kind": "sum", "collection": "a.b"}]', "stats_measures.0", "what is to be summed"),
        ("STATS_MEASURES", '[{"kind": "size", "collection": "b"}]', "stats_measures.0.collection", "pattern"),
        (
            "STATS_MEASURES",
            '[{"kind": "size", "collection": "a.b", "field": "a..b"}]',
            "stats_measures.0.field",
            "path",
        ),
        (
            "STATS_MEASURES",
            '[{"kind": "size", "collection": "a.b"}, {"kind": "size", "collection": "a.b", "field": "c"}]',
            "stats_measures",
            "have names of their own",
        ),
    ],
)
def test_what_is_refused(name: str, value: str, field: str, allowed: str) -> None:
    """One line that names the setting and says what is allowed."""
    with pytest.raises(Invalid) as problem:
        load({f"COMPANION_{name}": value})
    assert problem.value.field == field
    assert allowed in problem.value.allowed
