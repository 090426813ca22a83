"""Proof that a ledger is complete and unchanged."""
