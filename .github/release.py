"""Prepares a release and checks it: version, changelog and citation must agree.

    python .github/release.py cut 2026-12-31   # moves what is unreleased below the version
    python .github/release.py check v0.1.0     # raises unless the tag is fit to publish
    python .github/release.py notes            # prints the newest version's part of the changelog

The version is in one place, `keras_swift/__init__.py`.
"""

from __future__ import annotations

import datetime
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEADING = re.compile(r"^## \[(.+?)\](?: - (\S+))?$", re.MULTILINE)


def version(root: pathlib.Path) -> str:
    text = (root / "keras_swift" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def sections(root: pathlib.Path) -> list[tuple[str, str | None, str]]:
    """Name, date and text of every part of the changelog, the newest first."""
    parts = HEADING.split((root / "CHANGELOG.md").read_text(encoding="utf-8"))[1:]
    return [(parts[i], parts[i + 1], parts[i + 2].strip()) for i in range(0, len(parts), 3)]


def cited(root: pathlib.Path) -> dict[str, str]:
    """`version` and `date-released` of the citation, where it has them."""
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    return dict(re.findall(r"^(version|date-released): (\S+)$", text, re.MULTILINE))


def disagreements(root: pathlib.Path) -> list[str]:
    """What does not fit together, whether or not a release is near."""
    found = []
    released = [section for section in sections(root) if section[0] != "Unreleased"]
    now, citation = version(root), cited(root)
    if citation.get("version") != now:
        found.append(f"CITATION.cff has version {citation.get('version')}, the package {now}.")
    names = [name for name, _, _ in released]
    if sorted(set(names), key=numbers, reverse=True) != names:
        found.append(f"CHANGELOG.md must list every version once, newest first: {names}.")
    if names and numbers(names[0]) > numbers(now):
        found.append(f"CHANGELOG.md is at version {names[0]}, the package at {now}.")
    for name, date, _ in released:
        if not is_date(date):
            found.append(f"CHANGELOG.md must date version {name}, as in 2026-12-31. Has: {date}.")
    if names and names[0] == now and citation.get("date-released") != released[0][1]:
        found.append(
            f"CITATION.cff must have `date-released: {released[0][1]}`, the changelog's date. "
            f"Has: {citation.get('date-released')}."
        )
    return found


def obstacles(root: pathlib.Path, tag: str) -> list[str]:
    """Why `tag` must not be published."""
    found = disagreements(root)
    if tag != f"v{version(root)}":
        found.append(f"The tag must be v{version(root)}. Received: {tag}.")
    unreleased, *released = sections(root)
    if unreleased[0] != "Unreleased" or unreleased[2]:
        found.append('CHANGELOG.md must begin with an empty "Unreleased". `cut` moves its lines.')
    if not released or released[0][0] != version(root):
        found.append(f"CHANGELOG.md has no part for version {version(root)}. `cut` makes it.")
    return found


def cut(root: pathlib.Path, date: str) -> None:
    """Moves what is unreleased below a heading of the version, and dates the citation."""
    if not is_date(date):
        raise SystemExit(f"The date must be one, as in 2026-12-31. Received: {date}")
    if version(root) in [name for name, _, _ in sections(root)]:
        raise SystemExit(
            f"CHANGELOG.md has version {version(root)} already. Raise `__version__` first."
        )
    path = root / "CHANGELOG.md"
    text = path.read_text(encoding="utf-8")
    heading = f"## [Unreleased]\n\n## [{version(root)}] - {date}\n"
    path.write_text(text.replace("## [Unreleased]\n", heading, 1), encoding="utf-8")
    path = root / "CITATION.cff"
    text = re.sub(r"^(version|date-released): .*\n", "", path.read_text("utf-8"), flags=re.M)
    entry = f"version: {version(root)}\ndate-released: {date}\n"
    path.write_text(re.sub(r"^(type: .*\n)", rf"\1{entry}", text, flags=re.M, count=1), "utf-8")


def numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("."))


def is_date(text: str | None) -> bool:
    try:
        datetime.date.fromisoformat(text or "")
    except ValueError:
        return False
    return True


def main(command: str, argument: str = "") -> None:
    if command == "cut":
        cut(ROOT, argument)
    elif command == "check":
        if found := obstacles(ROOT, argument):
            raise SystemExit("\n".join(found))
    elif command == "notes":
        print(next(text for name, _, text in sections(ROOT) if name != "Unreleased"))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
