"""Exports: for people, for spreadsheets, for other systems, for auditors.

`sarguard.audit.export` writes them.
"""

from __future__ import annotations

FORMATS = ("jsonl", "csv", "parquet", "evidence", "otel", "ocsf", "cloudevents")
"""What can be written."""
