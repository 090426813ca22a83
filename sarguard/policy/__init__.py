"""Policies: what has to hold for every answer, in a file that people can read."""
