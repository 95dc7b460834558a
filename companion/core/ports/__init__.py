"""Ports: what the services need of a store, as Protocols that list only the calls in use.

Every call may raise `Transient` (the store is away; try again) or `Permanent` (it will never work); no driver's own error
passes. Every adapter runs the suites in `tests/contracts/`.
"""

from companion.core.ports.account_changes import AccountChange, AccountChanges
from companion.core.ports.audits import Audits, ChainState
from companion.core.ports.changes import Checkpoints, Inbox, Item, Received, Source, Taken
from companion.core.ports.copies import Compared, Copy, Mirror, Onlooker, Watcher
from companion.core.ports.documents import Batch, Documents, Removed, Replaced, Replacement, Selection
from companion.core.ports.guarding import Lockouts, Proofs
from companion.core.ports.identities import Accounts, Counters, Notices, Rules, Sessions, Uses
from companion.core.ports.leases import Held, Lease, Leases
from companion.core.ports.presence import Presence
from companion.core.ports.revocations import Revocations, Waiting
from companion.core.ports.runs import Runs
from companion.core.ports.statistics import Observed, Seen, Statistics
from companion.core.ports.store import Store
from companion.core.ports.tokens import LongTokens

__all__ = [
    "AccountChange",
    "AccountChanges",
    "Accounts",
    "Audits",
    "Batch",
    "ChainState",
    "Checkpoints",
    "Compared",
    "Copy",
    "Counters",
    "Documents",
    "Held",
    "Inbox",
    "Item",
    "Lease",
    "Leases",
    "Lockouts",
    "LongTokens",
    "Mirror",
    "Notices",
    "Observed",
    "Onlooker",
    "Presence",
    "Proofs",
    "Received",
    "Removed",
    "Replaced",
    "Replacement",
    "Revocations",
    "Rules",
    "Runs",
    "Seen",
    "Selection",
    "Sessions",
    "Source",
    "Statistics",
    "Store",
    "Taken",
    "Uses",
    "Waiting",
    "Watcher",
]
