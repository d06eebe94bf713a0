"""What happens on ordinary tasks at a rate that nobody tuned: `model.fit` against ours.

    python benchmarks/ordinary.py --data FOLDER --seeds 2 3 4 --out rows.jsonl
    python benchmarks/ordinary.py --summary rows.jsonl
    python benchmarks/ordinary.py --quick

The tasks are in `ordinary_tasks.py`: Adam at Keras' default rate, 0.001, batches of 32, validation
data. With `--schedules` also: a cosine decay, the same after a warm-up of a tenth of the steps,
`ReduceLROnPlateau(patience=2)`, `clipnorm=1.0`, or `AdamW` with its default weight decay. Seeds 0
and 1 are for choosing settings, the others for reporting. Each run is a line of `--out`, with the
validation loss and the CPU seconds of every epoch; lines that are there are not made again, so a
run that was killed goes on.

fit             model.fit
ours            ImportanceTraining(model), nothing else
always          ours with ease_off=False: draws by importance to the end
same rate       ours with scale_learning_rate=False: no larger steps
without data    ours; the validation data is only evaluated by a callback, so that `fit` has none
fit 1.4, fit 2  model.fit at 1.4 and 2 times the rate

`best` and `final` are the lowest and the last validation loss, `stop` the epoch in which
`EarlyStopping(patience=5)` would have ended the run, `CPU` the seconds until then. All but the
epochs are over those of `fit` with the same seed.
"""

import argparse
import collections
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from ordinary_tasks import TASKS
from rows import append, read, resume
from tasks import set_seed

import keras_swift as ks

RATE = 0.001
SIDES = {
    "fit": (None, 1.0),
    "ours": ({}, 1.0),
    "always": ({"ease_off": False}, 1.0),
    "same rate": ({"scale_learning_rate": False}, 1.0),
    "without data": ({}, 1.0),
    "fit 1.4": (None, 1.4),
    "fit 2": (None, 2.0),
}
PATIENCE = 5
SCHEDULES = ("constant", "cosine", "warm-up", "plateau", "clipped", "weight decay")


class EachEpoch(keras.callbacks.Callback):
    """The CPU seconds since the start, and what `evaluate` finds if data is given."""

    def __init__(self, data=None):
        super().__init__()
        self.data, self.seconds, self.found = data, [], []
        self.start, self.spent = time.process_time(), 0.0

    def on_epoch_end(self, epoch, logs=None):
        before = time.process_time()
        self.seconds.append(before - self.start - self.spent)
        if self.data is not None:
            self.found.append(self.model.evaluate(*self.data, verbose=0))
            self.spent += time.process_time() - before


def tuning(schedule, rate, steps):
    """The optimizer and the callbacks of a schedule.

    Args:
        schedule: one of `SCHEDULES`.
        rate: float, the largest learning rate.
        steps: int, of the whole run.
    """
    if schedule == "plateau":
        return keras.optimizers.Adam(rate), [keras.callbacks.ReduceLROnPlateau(patience=2)]
    if schedule == "clipped":
        return keras.optimizers.Adam(rate, clipnorm=1.0), []
    if schedule == "weight decay":
        return keras.optimizers.AdamW(rate), []
    if schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    if schedule == "warm-up":
        warm = steps // 10
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warm, warmup_target=rate, warmup_steps=warm
        )
    return keras.optimizers.Adam(rate), []


def run(name, schedule, side, seed, arguments):
    task = TASKS[name]
    epochs = arguments.epochs or task.epochs
    x, y, xv, yv = task.load(arguments.data, np.random.default_rng(seed))
    set_seed(seed)
    model = task.build(x, y)
    if task.prepare is not None:
        task.prepare(model, x, y)
    settings, factor = SIDES[side]
    optimizer, callbacks = tuning(schedule, RATE * factor, -(-len(x) // 32) * epochs)
    model.compile(optimizer, task.loss, weighted_metrics=[task.metric()])
    hidden = side == "without data"
    least = task.least(yv)
    each = EachEpoch((xv, yv) if hidden else None)
    fit = model.fit if settings is None else ks.ImportanceTraining(model, seed=seed, **settings).fit
    given = {} if hidden else {"validation_data": (xv, yv), "validation_batch_size": 1000}
    history = fit(x, y, epochs=epochs, verbose=0, callbacks=[each, *callbacks], **given).history
    losses, metrics = history.get("val_loss"), history.get("val_metric")
    if hidden:
        losses, metrics = zip(*each.found, strict=True)
    row = {"task": name, "schedule": schedule, "side": side, "seed": seed, "epochs": epochs}
    row |= {"val_loss": [float(value) - least for value in losses], "seconds": each.seconds}
    row |= {"metric": [float(value) for value in metrics]}
    row |= {key: history.get(key, []) for key in ("loss", "importance", "gain")}
    return row | {"backend": keras.backend.backend(), "keras": keras.__version__}


def stop(losses):
    """The epoch, from 1, in which `EarlyStopping` ends a run with these losses."""
    best, since = np.inf, 0
    for epoch, loss in enumerate(losses, 1):
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since == PATIENCE:
            return epoch
    return len(losses)


def measures(row):
    losses = row["val_loss"]
    end = stop(losses)
    best = int(np.argmin(losses))
    return {
        "best": losses[best],
        "final": losses[-1],
        "metric at best": row["metric"][best],
        "metric at end": row["metric"][-1],
        "epoch of best": best + 1,
        "stop": end,
        "CPU": row["seconds"][end - 1],
        "importance": float(np.mean(row["importance"] or [0.0])),
    }


def key(row):
    return row["task"], row["schedule"], row["side"], row["seed"], row["epochs"], row["backend"]


def train_all(arguments):
    rows = resume(arguments.out)
    made = {key(row) for row in rows}
    for seed, name, schedule, side in itertools.product(
        arguments.seeds, arguments.tasks, arguments.schedules, arguments.sides
    ):
        epochs = arguments.epochs or TASKS[name].epochs
        if (name, schedule, side, seed, epochs, keras.backend.backend()) in made:
            continue
        try:
            row = run(name, schedule, side, seed, arguments)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        rows.append(row)
        print(name, schedule, side, seed, measures(row), flush=True)
        append(arguments.out, row)
    return rows


def ratios(rows):
    """For each `(schedule, task, side)`: measures of its runs, and the ratios to `fit`'s."""
    found = {key(row): measures(row) for row in rows}
    cells = collections.defaultdict(list)
    for (task, schedule, side, seed, *rest), mine in found.items():
        fit = found.get((task, schedule, "fit", seed, *rest))
        if fit is not None:
            over = {name: mine[name] / fit[name] for name in ("best", "final", "CPU")}
            cells[schedule, task, side].append((mine, over))
    return cells


def spread(values):
    """The mean with its standard error, which needs two values."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def summarise(rows):
    cells = ratios(rows)
    for schedule in dict.fromkeys(where[0] for where in cells):
        sides = [side for side in SIDES if any(w[0] == schedule and w[2] == side for w in cells)]
        print(f"\n{schedule}: validation loss over that of `fit`\n")
        names = ["task", "side", "best", "final", "metric at best", "metric at end"]
        names += ["epoch of best", "stop", "CPU", "steps by importance"]
        print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
        for (which, task, side), runs in sorted(
            cells.items(), key=lambda cell: (list(TASKS).index(cell[0][1]), sides.index(cell[0][2])
                                             if cell[0][0] == schedule else 0)
        ):  # fmt: skip
            if which != schedule:
                continue
            mine, over = zip(*runs, strict=True)
            line = [
                task,
                side,
                *(spread([one[name] for one in over]) for name in ("best", "final")),
            ]
            for name in ("metric at best", "metric at end"):
                line.append(spread([one[name] for one in mine]))
            line += [
                f"{np.mean([one[name] for one in mine]):.0f}" for name in ("epoch of best", "stop")
            ]
            line.append(f"{np.mean([one['CPU'] for one in over]):.2f}")
            line.append(f"{np.mean([one['importance'] for one in mine]):.0%}")
            print(f"| {' | '.join(line)} |")
        print(f"\n{schedule}: geometric means over the tasks, and the worst task\n")
        print("| side | best | worst | final | worst | CPU | tasks | runs |\n|" + "---|" * 8)
        for side in sides:
            found = [
                runs for (which, _, one), runs in cells.items() if (which, one) == (schedule, side)
            ]
            line = [side]
            for name in ("best", "final", "CPU"):
                means = [
                    np.exp(np.mean([np.log(over[name]) for _, over in runs])) for runs in found
                ]
                line.append(f"{np.exp(np.mean(np.log(means))):.3f}")
                if name != "CPU":
                    line.append(f"{max(means):.3f}")
            print(f"| {' | '.join(line)} | {len(found)} | {sum(map(len, found))} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=["constant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--epochs", type=int, help="passes over the data; default: the task's")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--out", metavar="FILE.jsonl", help="append a line for each run")
    parser.add_argument("--summary", nargs="+", metavar="FILE.jsonl", help="read, train nothing")
    parser.add_argument("--quick", action="store_true", help="digits, six epochs, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.epochs, arguments.seeds = ["digits"], 6, [0]
    if arguments.summary:
        summarise(read(*arguments.summary))
    else:
        summarise(train_all(arguments))


if __name__ == "__main__":
    main()
