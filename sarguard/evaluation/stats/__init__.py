"""Rates, intervals, targets and findings."""
