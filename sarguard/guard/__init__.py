"""Standing by every request: the policy decides on it, the ledger records it."""
