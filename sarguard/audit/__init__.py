"""The ledger: an append-only, signed record of every request and what held for it."""

from __future__ import annotations

from sarguard.audit.log import AuditLog
from sarguard.audit.storage.appender import Pace
from sarguard.audit.storage.query import Entry, Query
from sarguard.audit.storage.recorder import OnFailure, Receipt

__all__ = ["AuditLog", "Entry", "OnFailure", "Pace", "Query", "Receipt"]
