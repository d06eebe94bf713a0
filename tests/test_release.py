"""Version, changelog and citation agree, and a tag is published only if they do."""

import importlib.util
import pathlib
import re

import pytest

import keras_swift as ks

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("release", ROOT / ".github" / "release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


FILES = {
    "keras_swift/__init__.py": '__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changes\n\n## [Unreleased]\n\n- New.\n\n## [1.1.0] - 2026-01-31\n\n- Old.\n",
    "CITATION.cff": "cff-version: 1.2.0\ntype: software\nversion: 1.2.0\ntitle: A\n",
}


@pytest.fixture
def checkout(tmp_path):
    """A checkout with something to release."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def change(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_version_changelog_and_citation_agree():
    assert release.version(ROOT) == ks.__version__
    assert release.disagreements(ROOT) == []


def test_a_release_is_cut_once_and_may_then_be_published(checkout):
    assert release.disagreements(checkout) == []
    assert any("`cut`" in reason for reason in release.obstacles(checkout, "v1.2.0"))
    release.cut(checkout, "2026-12-31")
    assert release.sections(checkout) == [
        ("Unreleased", None, ""),
        ("1.2.0", "2026-12-31", "- New."),
        ("1.1.0", "2026-01-31", "- Old."),
    ]
    assert release.cited(checkout) == {"version": "1.2.0", "date-released": "2026-12-31"}
    assert release.obstacles(checkout, "v1.2.0") == []
    assert "The tag must be v1.2.0" in release.obstacles(checkout, "v1.1.0")[0]
    with pytest.raises(SystemExit, match=r"Raise `__version__` first"):
        release.cut(checkout, "2027-01-01")


@pytest.mark.parametrize(
    "file, before, after, reason",
    [
        ("CITATION.cff", "\nversion: 1", "\nversion: 9", r"CITATION.cff has version 9"),
        ("CITATION.cff", "date-released: 2026", "date-released: 2025", r"the changelog's date"),
        ("CHANGELOG.md", "] - 2026-12-31", "] - soon", r"must date version .* Has: soon"),
        ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- New.\n", r"an empty"),
        (
            "CHANGELOG.md",
            "## [Unreleased]\n",
            "## [Unreleased]\n\n## [9.0.0] - 2027-01-01\n",
            r"at version 9.0.0",
        ),
    ],
)
def test_what_does_not_agree_is_said(checkout, file, before, after, reason):
    release.cut(checkout, "2026-12-31")
    change(checkout / file, before, after)
    found = release.obstacles(checkout, "v1.2.0")
    assert any(re.search(reason, line) for line in found)


def test_the_date_of_a_release_is_a_date(checkout):
    with pytest.raises(SystemExit, match=r"as in 2026-12-31. Received: tomorrow"):
        release.cut(checkout, "tomorrow")


def test_the_workflow_checks_the_tag_before_it_builds():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert text.index("release.py check") < text.index("python -m build") < text.index("publish:")
    # One job alone may ask the index for trust, and one alone may write to the repository.
    assert text.count("id-token: write") == text.count("contents: write") == 1
