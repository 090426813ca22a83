"""Answering and labelling every item of every arm."""
