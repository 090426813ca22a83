"""Labelling answers."""
