"""A sample web shop to release: static pages in three versions, a server, and commands that deploy.

- `v1-good` works.
- `v2-stumbles` has a checkout page that is slow to wake: its first visitor after a deployment gets an error.
- `v3-broken` has a checkout page that never works.

`v1-good` holds the whole site; the others hold the pages that they change.
"""
