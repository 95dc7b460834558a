"""The retained topic that shows whether somebody is there. Pure.

    {identity}/{session}/status

`{identity}` is the principal, `{session}` the client id up to its first colon (the platform's are `{session}:{random}`), `{client}`
the whole client id. Connections that come to one topic are shown together: who has one is there.
"""

from __future__ import annotations

from companion.core.errors import Invalid
from companion.core.presence import Present
from companion.core.templates import Template
from companion.core.topics import check_topic

PLACEHOLDERS = frozenset({"identity", "session", "client"})


def parse(source: str, field: str = "presence_topic") -> Template:
    """Parse a template; raises `Invalid` for unknown placeholders and for text that is no topic name."""
    template = Template.parse(source, opener="{", allowed=PLACEHOLDERS, field=field)
    try:
        check_topic("x".join(template.literals))
    except Invalid as problem:
        raise Invalid(field, source, problem.allowed) from None
    if "identity" not in template.names:
        raise Invalid(field, source, "a topic with {identity} in it, so that nobody's presence shows as another's")
    return template


def topic_of(template: Template, present: Present, principal: str | None = None) -> str | None:
    """Return the topic on which this connection is shown, or would be as one of `principal`; None for one without a name."""
    session = present.client_id.partition(":")[0]
    identity = present.principal if principal is None else principal
    return template.render({"identity": identity, "session": session, "client": present.client_id})
