"""What is done to a ledger later: retention, erasure, holds, reviews."""
