"""The `sarguard audit` commands."""
