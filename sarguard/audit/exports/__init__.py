"""Write records out: for people, for spreadsheets, for other systems, for auditors."""

from __future__ import annotations

from sarguard.audit.exports.writing import FORMATS, Written, export

__all__ = ["FORMATS", "Written", "export"]
