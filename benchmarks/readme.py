"""README's first example over several seeds and rates: test loss and average precision.

    KERAS_BACKEND=jax python benchmarks/readme.py
    KERAS_BACKEND=jax python benchmarks/readme.py --rates 0.002 0.004 0.008 0.016 --seeds 10 11

The code is that of README; a seed decides the first weights and all draws.
"""

import argparse
import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0.008])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    names = {}
    # Its last lines train once; only the definitions are needed.
    exec(code[: code.index("\nfor name, by_importance")], names)
    print("| side | rate | test loss | average precision | seeds |\n|---|---|---|---|---|")
    for side in ("fit", "importance"):
        for rate in arguments.rates:
            found = [names["run"](side == "importance", rate, seed) for seed in arguments.seeds]
            cells = []
            for name, digits in (("loss", 4), ("average_precision", 3)):
                values = [row[name] for row in found]
                error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
                cells.append(f"{np.mean(values):.{digits}f} ± {error:.{digits}f}")
            seeds = " ".join(map(str, arguments.seeds))
            print(f"| {side} | {rate:g} | {' | '.join(cells)} | {seeds} |", flush=True)


if __name__ == "__main__":
    main()
