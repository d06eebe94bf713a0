"""The tables and figures of `swift.py`, from rows alone.

Means and standard errors are over seeds; differences are of the same seed's trainings.
"""

import collections

import numpy as np

CLAIMS = {
    "noise": "with 0 to 40 % of the labels moved, the sampler leads on CIFAR-10 and CIFAR-100, "
    "clearly from 20 % up; on clean ImageNet it gains 0.8 to 1.5 points",
    "transfer": "samplers searched with ResNet-18 help larger networks too",
    "few-shot": "Mini-ImageNet rises from 47.6 to 52.8 % with 1 image a class, from 63.1 to 67.4 "
    "with 5, from 70.3 to 73.4 with 10",
    "language": "the perplexity of WikiText-2 falls",
    "ablations": "four segments are better than two, more are not; 40 trials are better than 20, "
    "more hardly; the cumulative gradient function finds good samplers sooner than the cdf",
    "figure": "wrong labels have the largest losses and the lowest renormed entropies, and the "
    "sampler drops them",
}
KINDS = ("package", "paper")
# Okabe and Ito's colours, which colour-blind readers can tell apart.
LOOKS = {
    "uniform": ("#000000", "s", "uniform"),
    "package": ("#0072B2", "o", "keras_swift's search"),
    "paper": ("#E69F00", "^", "the paper's features and rule"),
    "transferred": ("#0072B2", "o", "searched with the small network"),
    "own": ("#009E73", "D", "searched with the larger network"),
}


def with_error(values, digits=3, sign=False):
    """The mean and its standard error."""
    mean = f"{np.mean(values):{'+' if sign else ''}.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {standard_error(values):.{digits}f}"


def standard_error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def column(rows, name):
    return [row[name] for row in rows]


def differences(rows, kind, base="uniform"):
    return [row[kind] - row[base] for row in rows]


def grouped(rows, *names):
    """Rows by what they measure and by scale, backend and settings; a list of lists."""
    groups = collections.defaultdict(list)
    for row in rows:
        if "missing" not in row:
            key = *(row.get(n) for n in names), row["scale"], row["backend"], row["dtype"]
            groups[(*key, row["settings"])].append(row)
    return list(groups.values())


def seeds(rows):
    return " ".join(str(seed) for seed in sorted(column(rows, "seed")))


def table(head, lines):
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def summarise(rows):
    """Prints a table for each claim that has rows, with what was not measured below it."""
    for name, claim in CLAIMS.items():
        found = [row for row in rows if row["table"] == name]
        if not found:
            continue
        print(f"\n### {name}\n\nThe paper: {claim}.\n")
        measured = [row for row in found if "missing" not in row]
        if measured:
            PRINTED[name](measured)
            print()
            for text in sorted({described(row) for row in measured}):
                print(text)
        have = {(row["scale"], row.get("data")) for row in measured}
        for row in found:
            if "missing" in row and (row["scale"], row["data"]) not in have:
                print(f"{row['missing']}.")


def described(row):
    """The settings of a row, in words."""
    return (
        f"{row['data']}: {row['network']}, {row['examples']:,} examples, {row['epochs']} epochs, "
        f"{row['scale']} scale; keras {row['keras']}, {row['backend']}, {row['dtype']}, "
        f"{row['machine']}."
    )


def compared_head(measure):
    return [
        f"{measure}: uniform", "package", "difference", "paper's rule", "difference",
    ]  # fmt: skip


def compared(rows, digits=3):
    cells = [with_error(column(rows, "uniform"), digits)]
    for kind in KINDS:
        cells.append(with_error(column(rows, kind), digits))
        cells.append(with_error(differences(rows, kind), digits, sign=True))
    return cells


def price(rows):
    return " / ".join(f"{np.mean(column(rows, f'price {kind}')):.1f}" for kind in KINDS)


def print_noise(rows):
    lines = []
    for cell in grouped(rows, "data", "share"):
        drawn = [f"{np.mean(column(cell, f'wrong drawn {kind}')):.3f}" for kind in KINDS]
        lines.append(
            [
                cell[0]["data"],
                f"{100 * cell[0]['share']:.0f} %",
                *compared(cell),
                f"{np.mean(column(cell, 'wrong labels')):.3f}",
                *drawn,
                price(cell),
                seeds(cell),
            ]
        )
    head = ["data", "noise", *compared_head("test accuracy"), "wrong labels", "drawn: package"]
    table([*head, "drawn: paper's rule", "prices", "seeds"], lines)


def print_transfer(rows):
    lines = []
    for cell in grouped(rows, "data", "share"):
        row = cell[0]
        line = [row["data"], f"{row['small network']} to {row['network']}"]
        line.append(with_error(column(cell, "uniform")))
        for kind in ("transferred", "own"):
            line.append(with_error(column(cell, kind)))
            line.append(with_error(differences(cell, kind), sign=True))
        line.append(with_error(differences(cell, "transferred", "own"), sign=True))
        prices = [f"{np.mean(column(cell, f'price {k}')):.1f}" for k in ("transferred", "own")]
        lines.append([*line, " / ".join(prices), seeds(cell)])
    head = ["data", "networks", "test accuracy: uniform", "searched with the small one"]
    head += ["difference", "searched with the larger one", "difference", "small less larger"]
    table([*head, "prices, of each network's own trainings", "seeds"], lines)


def shots(rows, count):
    """Rows with the accuracy for that number of images in place of all."""
    return [row | {kind: row[kind][count] for kind in ("uniform", *KINDS)} for row in rows]


def print_few_shot(rows):
    lines = []
    for cell in grouped(rows, "data"):
        for count in cell[0]["uniform"]:
            line = [cell[0]["data"], str(cell[0]["base classes"]), count]
            lines.append([*line, *compared(shots(cell, count)), price(cell), seeds(cell)])
    head = ["data", "base classes", "images a class", *compared_head("accuracy of 5 new classes")]
    table([*head, "prices", "seeds"], lines)


def print_language(rows):
    lines = [
        [cell[0]["data"], *compared(cell, 2), price(cell), seeds(cell)]
        for cell in grouped(rows, "data")
    ]
    table(["data", *compared_head("test perplexity"), "prices", "seeds"], lines)


def print_ablations(rows):
    lines = []
    usual = {row["seed"]: row["sampler"] for row in rows if row["change"] == "as it is"}
    for cell in grouped(rows, "data", "change"):
        pairs = [row["sampler"] - usual[row["seed"]] for row in cell if row["seed"] in usual]
        same = cell[0]["change"] == "as it is" or not pairs
        lines.append(
            [
                cell[0]["data"],
                cell[0]["change"],
                str(cell[0]["trials"]),
                with_error(column(cell, "objective")),
                with_error(column(cell, "best so far")),
                with_error(column(cell, "sampler")),
                with_error(differences(cell, "sampler"), sign=True),
                "" if same else with_error(pairs, sign=True),
                f"{np.mean(column(cell, 'wrong drawn')):.3f}",
                f"{np.mean(column(cell, 'price')):.1f}",
                seeds(cell),
            ]
        )
    head = ["data", "changed", "trials", "objective of the best trial"]
    head += ["best so far, mean over trials", "test accuracy", "over uniform", "over the first row"]
    table([*head, "wrong drawn", "price", "seeds"], lines)


def print_figure(rows):
    lines = []
    for cell in grouped(rows, "data", "share"):
        line = [cell[0]["data"], f"{100 * cell[0]['share']:.0f} %"]
        for name in ("loss", "renormed_entropy", "draws"):
            line += [with_error(column(cell, f"{name} {kind}")) for kind in ("wrong", "right")]
        lines.append([*line, f"{np.mean(column(cell, 'price')):.1f}", seeds(cell)])
    head = ["data", "noise", "mean rank of the loss: wrong labels", "right labels"]
    head += ["of the renormed entropy: wrong", "right", "draws (1: uniform): wrong", "right"]
    table([*head, "price", "seeds"], lines)


PRINTED = {
    "noise": print_noise,
    "transfer": print_transfer,
    "few-shot": print_few_shot,
    "language": print_language,
    "ablations": print_ablations,
    "figure": print_figure,
}


def plot(rows, prefix):
    """Writes one figure for each table that has rows: `prefix-noise.png` and so on."""
    from matplotlib.figure import Figure

    for name, draw in DRAWN.items():
        found = [row for row in rows if row["table"] == name and "missing" not in row]
        if not found:
            continue
        figure = draw(Figure, found)
        file = f"{prefix}-{name}.png"
        figure.savefig(file, dpi=130)
        print(f"wrote {file}")


def points(axes, places, cells, kind, offset=0.0, line="none"):
    """Means with standard errors."""
    color, marker, label = LOOKS[kind]
    values = [column(cell, kind) for cell in cells]
    axes.errorbar(
        np.asarray(places, float) + offset,
        [np.mean(v) for v in values],
        yerr=[standard_error(v) for v in values],
        color=color,
        marker=marker,
        markersize=5,
        linestyle=line,
        label=label,
    )


def draw_noise(Figure, rows):
    names = list(dict.fromkeys(column(rows, "data")))
    figure = Figure(figsize=(4.6 * len(names), 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        cells = grouped([row for row in rows if row["data"] == name], "share")
        cells.sort(key=lambda cell: cell[0]["share"])
        places = [100 * cell[0]["share"] for cell in cells]
        for kind, offset in (("uniform", 0), ("package", -0.4), ("paper", 0.4)):
            points(axes, places, cells, kind, offset, "-")
        axes.set_title(f"{name}, {cells[0][0]['network']}")
        axes.set_xlabel("labels moved (%)")
        axes.set_ylabel("test accuracy")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def draw_transfer(Figure, rows):
    cells = grouped(rows, "data", "share")
    figure = Figure(figsize=(2.2 + 2.4 * len(cells), 3.8), layout="constrained")
    axes = figure.subplots()
    for kind, offset in (("uniform", -0.15), ("transferred", 0), ("own", 0.15)):
        points(axes, range(len(cells)), cells, kind, offset)
    labels = [
        f"{c[0]['data']}, {100 * c[0]['share']:.0f} % wrong\n{c[0]['small network']} to "
        f"{c[0]['network']}"
        for c in cells
    ]
    axes.set_xticks(range(len(cells)), labels)
    axes.set_xlim(-0.6, len(cells) - 0.4)
    axes.set_ylabel("test accuracy of the larger network")
    axes.grid(axis="y", alpha=0.3)
    # Below the axes: a seed or two can have large errors anywhere.
    figure.legend(fontsize=8, loc="outside lower center")
    return figure


def draw_few_shot(Figure, rows):
    cells = grouped(rows, "data")
    figure = Figure(figsize=(4.6 * len(cells), 3.8), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        counts = list(cell[0]["uniform"])
        for kind, offset in (("uniform", 0), ("package", -0.08), ("paper", 0.08)):
            by_count = [shots(cell, count) for count in counts]
            points(axes, range(len(counts)), by_count, kind, offset, "-")
        axes.set_xticks(range(len(counts)), counts)
        axes.set_xlabel("images of each new class")
        axes.set_ylabel("accuracy, five new classes")
        axes.set_title(f"{cell[0]['data']}, {cell[0]['base classes']} base classes")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def draw_language(Figure, rows):
    cells = grouped(rows, "data")
    figure = Figure(figsize=(4.6 * len(cells), 3.8), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        cell = sorted(cell, key=lambda row: row["seed"])
        for kind, offset in (("uniform", -0.12), ("package", 0), ("paper", 0.12)):
            # Each seed by itself: the differences are smaller than the spread of the seeds.
            points(axes, range(len(cell)), [[row] for row in cell], kind, offset)
        axes.set_xticks(range(len(cell)), [f"seed {row['seed']}" for row in cell])
        axes.set_ylabel("test perplexity")
        axes.set_title(f"{cell[0]['data']}, {cell[0]['network']}")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def draw_ablations(Figure, rows):
    cells = grouped(rows, "data", "change")
    figure = Figure(figsize=(7, 0.32 * len(cells) + 1.2), layout="constrained")
    axes = figure.subplots()
    gains = [differences(cell, "sampler") for cell in cells]
    axes.errorbar(
        [np.mean(gain) for gain in gains],
        range(len(cells)),
        xerr=[standard_error(gain) for gain in gains],
        color=LOOKS["package"][0],
        marker="o",
        linestyle="none",
    )
    axes.set_yticks(
        range(len(cells)),
        [f"{c[0]['change']} ({c[0]['trials']} trials)" for c in cells],
    )
    axes.invert_yaxis()
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("test accuracy over that of uniform training")
    axes.set_title(f"{cells[0][0]['data']}, 40 % wrong labels", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_figure(Figure, rows):
    row = min(rows, key=lambda row: row["seed"])
    shown = {name: np.array(values) for name, values in row["points"].items()}
    wrong = shown["wrong"] == 1
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    limits = {"vmin": 0, "vmax": float(shown["draws"].max()), "cmap": "viridis", "s": 14}
    for kind, marker, label in ((~wrong, "o", "right label"), (wrong, "x", "wrong label")):
        dots = axes.scatter(
            100 * shown["loss"][kind],
            100 * shown["renormed_entropy"][kind],
            c=shown["draws"][kind],
            marker=marker,
            label=label,
            linewidths=1,
            **limits,
        )
    figure.colorbar(dots, ax=axes, label="draws per epoch (1: uniform)")
    axes.set_xlabel("loss (percentile)")
    axes.set_ylabel("renormed entropy (percentile)")
    axes.set_title(f"{row['data']}, seed {row['seed']}", fontsize="medium")
    axes.legend(fontsize=8, loc="lower left")
    return figure


DRAWN = {
    "noise": draw_noise,
    "transfer": draw_transfer,
    "few-shot": draw_few_shot,
    "language": draw_language,
    "ablations": draw_ablations,
    "figure": draw_figure,
}
