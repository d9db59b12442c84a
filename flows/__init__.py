"""Example flows to copy, and the demo that runs them."""
