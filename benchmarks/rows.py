"""The rows of a comparison: a JSON object in each line of a file."""

import json
import os


def read(*names):
    """The rows of some files; a line that a kill cut off does not count."""
    found = []
    for name in names:
        with open(name) as file:
            found += [json.loads(line) for line in file if line.endswith("\n")]
    return found


def resume(name):
    """The rows of `--out`; a line that a kill cut off is removed from the file."""
    if name is None or not os.path.exists(name):
        return []
    rows = read(name)
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def append(name, row):
    """Adds a row to `--out`, if there is one."""
    if name is not None:
        with open(name, "a") as file:
            file.write(json.dumps(row) + "\n")
