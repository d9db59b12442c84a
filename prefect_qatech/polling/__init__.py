"""Until a run has ended: when to poll it, what its progress and its past say, and the wait itself."""
