"""Deploys a version of the sample storefront to staging, and from there to production.

    python -m flows.storefront.deploy --site DIR deploy|promote|rollback VERSION

DIR holds a copy of the site for each deployment in `releases/`, and two links into it, `staging` and `production`. Each
command may be repeated: what is done already stays as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = "v1-good"
VERSIONS = sorted(path.name for path in HERE.glob("v*-*") if path.is_dir())


class DeploymentError(Exception):
    """It cannot be done; the message says why."""


def deploy(site: Path, version: str) -> None:
    """Make a fresh copy of a version and let staging serve it."""
    if version not in VERSIONS:
        raise DeploymentError(f"there is no version {version}; there are {', '.join(VERSIONS)}")
    releases = site / "releases"
    releases.mkdir(parents=True, exist_ok=True)
    release = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=releases))
    for source in (HERE / BASE, HERE / version):
        shutil.copytree(source, release, dirs_exist_ok=True)
    print(f"Copied {len(list(release.iterdir()))} files of {version} to {release}")
    before = version_of(site / "staging")
    point(site / "staging", release)
    print(f"Staging serves {version} (before: {before or 'nothing'})")


def promote(site: Path, version: str) -> None:
    """Let production serve what staging serves."""
    if version_of(site / "staging") != version:
        raise DeploymentError(f"staging serves {version_of(site / 'staging') or 'nothing'}, not {version}")
    before = version_of(site / "production")
    point(site / "production", (site / "staging").resolve())
    print(f"Production serves {version} (before: {before or 'nothing'})")


def rollback(site: Path, version: str) -> None:
    """Let staging serve what production serves."""
    staging, production = site / "staging", site / "production"
    if staging.resolve() != production.resolve() and version_of(staging) not in (version, None):
        raise DeploymentError(f"staging serves {version_of(staging)}, not {version}: somebody else has deployed")
    if production.exists():
        point(staging, production.resolve())
    else:
        staging.unlink(missing_ok=True)
    print(f"Staging serves {version_of(staging) or 'nothing'} again")


def version_of(link: Path) -> str | None:
    """Say which version a link points to."""
    return link.resolve().name.rpartition("-")[0] if link.exists() else None


def point(link: Path, release: Path) -> None:
    """Let a link point to a release, in one step: a visitor sees the one or the other."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(release, link.parent.resolve()))
    new.replace(link)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="flows.storefront.deploy", description="Deploy the sample storefront.")
    parser.add_argument("--site", type=Path, required=True, metavar="DIR", help="where the site lives")
    parser.add_argument("action", choices=["deploy", "promote", "rollback"])
    parser.add_argument("version", help=", ".join(VERSIONS))
    given = parser.parse_args()
    try:
        {"deploy": deploy, "promote": promote, "rollback": rollback}[given.action](given.site, given.version)
    except (DeploymentError, OSError) as error:
        print(f"{given.action} {given.version}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
