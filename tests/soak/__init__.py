"""The soak: hundreds of gates at once, faults from a seed, processes killed at random; `python -m tests.soak`."""
