"""The sandbox's routes, one file a topic."""
