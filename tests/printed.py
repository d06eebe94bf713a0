"""What code prints, compared with what a page shows.

The words are equal, and every number is within some percent of the one shown, or within 0.005 of
it. Times and progress bars are not compared.
"""

import re

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
PROGRESS = "━"  # Of which Keras' progress bars are made.
TIME = re.compile(r"\d+(?:\.\d+)? (?:s|min)\b")


def differences(printed, shown, percent):
    """What of a printed text is not as it is shown."""
    lines = [line for line in printed.splitlines() if PROGRESS not in line]
    printed, shown = (
        TIME.sub("some time", " ".join(text.split())) for text in ("\n".join(lines), shown)
    )
    # Figures may be wider or narrower, and columns with them.
    words = [" ".join(NUMBER.sub(" # ", text).split()) for text in (printed, shown)]
    if words[0] != words[1]:
        return [f"printed: {printed}", f"shown: {shown}"]
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return [
        f"printed: {ours}, shown: {theirs}"
        for ours, theirs in pairs
        if abs(number(ours) - number(theirs)) > max(0.005, percent / 100 * abs(number(theirs)))
    ]


def number(text):
    return float(text.replace(",", ""))
