"""The ledger: an append-only, signed record of every request and what held for it."""
