"""Refusal vectors: how they are computed, kept on disk and put to work."""
