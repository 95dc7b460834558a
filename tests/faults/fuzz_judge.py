"""What the answers to the fuzzer's requests are worth. Nothing may be allowed, fail, or stay without an explicit answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.fuzz_requests import EVENTS, PATHS, Sent
from tests.support.raw_http import Answer

_SHOWN: Final = 10
_REFUSALS: Final = (400, 401)
_BODILESS: Final = 405


@dataclass(slots=True)
class Verdict:
    """Counts, and the first things that were wrong, with the numbers of their requests."""

    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    allowed: int = 0
    failed: int = 0
    silent: int = 0
    other: int = 0
    controls: int = 0
    problems: list[str] = field(default_factory=list)
    """What else was wrong with the service: a crash, an error in its log."""

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong, and the controls show that something could have been."""
        return not (self.wrong or self.problems) and self.controls > 0

    def judge(self, sent: Sent, answers: Sequence[Answer]) -> None:
        """Judge what came to one request."""
        if sent.family == "control":
            self._control(sent, answers)
            return
        self.requests += 1
        self.families[sent.family] += 1
        for answer in answers:
            self._answer(sent, answer)
        if not answers and not sent.silent:
            self.silent += 1
            self._wrong(sent, "no answer")

    def summary(self) -> str:
        """Return the one line that says it all."""
        told = " ".join(f"{name}={count}" for name, count in sorted(self.answers.items()))
        problems = len(self.problems)
        return (
            f"requests={self.requests} allowed={self.allowed} failed={self.failed} unanswered={self.silent} "
            f"unforeseen={self.other} problems={problems} controls={self.controls} {told}"
        )

    def _control(self, sent: Sent, answers: Sequence[Answer]) -> None:
        if [_result(answer) for answer in answers] == ["allow"]:
            self.controls += 1
        else:
            self._wrong(sent, f"what is right was not allowed: {[(one.status, one.body[:80]) for one in answers]}")

    def _answer(self, sent: Sent, answer: Answer) -> None:
        status, result = answer.status, _result(answer)
        self.answers[result if status == 200 and result else str(status)] += 1
        if status >= 500:
            self.failed += 1
            self._wrong(sent, f"failed: {status} {answer.body[:80]!r}")
        elif result == "deny" or status in _REFUSALS or (sent.no_body and status == _BODILESS):
            return
        elif status >= 400 and sent.path not in PATHS:
            return  # the endpoint's own refusals
        elif 200 <= status < 300 and sent.path == EVENTS and result is None:
            return  # taken, which allows nothing
        elif 200 <= status < 300:
            self.allowed += 1
            self._wrong(sent, f"allowed, or not said that it is not: {status} {answer.body[:80]!r}")
        else:
            self.other += 1
            self._wrong(sent, f"neither a verdict nor a refusal: {status} {answer.body[:80]!r}")

    def _wrong(self, sent: Sent, what: str) -> None:
        if len(self.wrong) < _SHOWN:
            self.wrong.append(f"#{sent.number} ({sent.family}, {sent.path}): {what}\n    {sent.wire[:1500]!r}")


def _result(answer: Answer) -> str | None:
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    result = content.get("result") if isinstance(content, dict) else None
    return result if isinstance(result, str) else None
