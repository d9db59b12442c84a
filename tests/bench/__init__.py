"""`make bench`: what waiting costs, compared in one run on one machine."""
