"""The ledger on disk: appending, reading and surviving failures."""
