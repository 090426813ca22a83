"""What the guard costs and what it saves, each as a ratio of two arms in one run."""
