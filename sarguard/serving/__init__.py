"""Many callers, one model: requests wait in line, and a worker answers in batches."""
