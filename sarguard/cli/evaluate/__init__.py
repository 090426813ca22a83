"""The `sarguard evaluate` command."""
