"""Uniform training against importance training at equal cost, each with its own best schedule.

    python benchmarks/time_to_loss.py --data FOLDER --tasks fashion-cnn --out results.jsonl
    python benchmarks/time_to_loss.py --summary results.jsonl --plot time_to_loss.png
    python benchmarks/time_to_loss.py --quick

Every run gets the same CPU seconds of the process (`--clock wall`: wall-clock seconds) for its
training steps, with all that a method does between them; a step that takes more than ten times the
median has compiled something and counts as ten. The first steps of epochs, in which Keras sets up
the feeding of the data, are compared with one another. The budget is the end of a run to the
learning rate, which follows the schedule over the spent share of it, and to `presample="auto"`,
which looks at how much of a run is left: after each epoch the number of epochs is set to those that
there is time for at the pace of that epoch. Each run appends a JSON line to `--out`.

uniform           model.fit
uniform seeded    the same after keras.utils.set_random_seed: one order for all epochs on TensorFlow
uniform averaged  the same with use_ema=True, which ends with the averaged weights
loss              the paper's rule and gate, scored by the loss
paper             the paper's rule and gate, r = 3, scored by the bound in float32
always            r = 2, the gate open throughout, scores in bfloat16 where that is faster
ours              presample="auto"
ours averaged     the same with use_ema=True
ours capped       presample="auto", scale_learning_rate="capped"

Seconds are those of a machine as fast as it was when the task began: every 40 steps a fixed
training step is timed, and what steps take is divided by what that takes. With `--step-ms` several
commands mean the same seconds, and their rows can be compared. Evaluation is not counted.

Train loss and test error are of the weights at the end, over all training and test examples. Time
is when a method's mean curve (over seeds, on 1,000 training examples) first is as low as uniform
training of the same rate and schedule ends, as a share of the budget; in the last table, as low as
uniform training of its own best schedule and rate ends.
"""

import argparse
import collections
import functools
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from tasks import TASKS, set_seed

import keras_swift as ks
from keras_swift.scoring.scorer import Scorer

SCHEDULES = {
    "constant": lambda done: 1.0,
    "step": lambda done: 1.0 if done < 0.5 else (0.2 if done < 0.75 else 0.04),
    "cosine": lambda done: 0.5 * (1 + np.cos(np.pi * done)),
}
PAPER = {"presample": 3.0, "scoring_dtype": None}
METHODS = {
    "uniform": None,
    "uniform seeded": None,
    "uniform averaged": None,
    "loss": {**PAPER, "score": "loss"},
    "paper": PAPER,
    "always": {"presample": 2.0, "tau_threshold": 0},
    "ours": {"presample": "auto"},
    "ours averaged": {"presample": "auto"},
    "ours capped": {"presample": "auto", "scale_learning_rate": "capped"},
}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
POINTS = 20


class Speed:
    """How fast the machine is now: what a fixed training step took at first over what it takes.

    Other processes and the other threads of a core change what a CPU second is
    worth by a fifth and more, within a run and between two.
    """

    def __init__(self, task, x, y, now, first=None):
        self.model = task.build()
        self.model.compile(task.optimizer(0.0), "sparse_categorical_crossentropy")
        self.batch, self.now = (x, y), now
        for _ in range(3):
            self.seconds()
        self.first = first or np.median([self.seconds() for _ in range(15)])
        self.last = collections.deque(maxlen=3)

    def seconds(self):
        start = self.now()
        for _ in range(2):
            self.model.train_on_batch(*self.batch)
        return self.now() - start

    def __call__(self):
        self.last.append(self.seconds())
        return self.first / np.median(self.last)


@functools.cache
def speed_of(name, batch_size, clock, data, milliseconds):
    """One for all runs of a task, so that they are measured alike."""
    task = TASKS[name]
    x, y, _, _ = task.load(data, task.examples, 0)
    first = None if milliseconds is None else milliseconds / 1000
    return Speed(task, x[:batch_size], y[:batch_size], CLOCKS[clock], first)


class Seconds:
    """Seconds of steps of one kind; those far above the median count as ten times the median."""

    def __init__(self):
        self.each, self.total, self.most = [], 0.0, np.inf

    def add(self, seconds):
        self.each.append(seconds)
        if len(self.each) in (3, 20, 100) or len(self.each) % 500 == 0:
            self.most = 10 * np.median(self.each)
            self.total = np.minimum(self.each, self.most).sum()
        else:
            self.total += min(seconds, self.most)


class Budget(keras.callbacks.Callback):
    """Ends a run when its seconds are spent, sets the rate, and follows the loss."""

    def __init__(self, seconds, rate, schedule, now, speed, x, y):
        super().__init__()
        self.seconds, self.rate, self.schedule, self.now = seconds, rate, schedule, now
        self.speed, self.speeds = speed, []
        self.steps, self.curve = 0, []
        # Of the first steps of epochs, and of the others.
        self.first, self.others = Seconds(), Seconds()
        self.x, self.y = x, y

    @property
    def spent(self):
        first = self.first
        if len(first.each) < 3:
            return self.others.total + sum(min(each, self.others.most) for each in first.each)
        return self.others.total + first.total

    def on_train_begin(self, logs=None):
        self.scorer = Scorer(self.model, ("loss",))
        self.scorer(self.x, self.y)

    def on_epoch_begin(self, epoch, logs=None):
        self.spent_before = self.spent
        self.start = self.now()

    def on_epoch_end(self, epoch, logs=None):
        pace = self.spent - self.spent_before
        # Not where what compiled has just been counted down.
        if pace > 0:
            self.params["epochs"] = epoch + 1 + max(0.0, self.seconds - self.spent) / pace

    def on_train_batch_begin(self, batch, logs=None):
        paused = self.now()
        if self.steps % 40 == 0:
            self.speeds.append(self.speed())
        done = min(1.0, self.spent / self.seconds)
        if self.steps % 8 == 0:
            self.model.optimizer.learning_rate = self.rate * SCHEDULES[self.schedule](done)
        if done * POINTS >= len(self.curve) + 1:
            self.curve.append((done, float(self.scorer(self.x, self.y)["loss"].mean())))
        self.start += self.now() - paused

    def on_train_batch_end(self, batch, logs=None):
        now = self.now()
        (self.others if batch else self.first).add((now - self.start) * self.speeds[-1])
        self.steps += 1
        self.start = now
        if self.steps > 20 and self.spent >= self.seconds:
            self.model.stop_training = True


def run(name, method, schedule, rate, seed, arguments):
    task = TASKS[name]
    data = task.load(arguments.data, arguments.examples or task.examples, seed)
    x, y, x_test, y_test = data
    # Before the seed is set.
    known = arguments.batch_size, arguments.clock, arguments.data, arguments.step_ms
    speed = speed_of(name, *known)
    if method == "uniform seeded":
        keras.utils.set_random_seed(seed)
    else:
        set_seed(seed)
    model = task.build()
    if task.prepare is not None:
        task.prepare(model, data, seed)
    optimizer = task.optimizer(rate)
    if method.endswith("averaged"):
        optimizer.use_ema = True
        optimizer.ema_momentum = 0.99
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    now = CLOCKS[arguments.clock]
    budget = Budget(arguments.seconds, rate, schedule, now, speed, x[:1000], y[:1000])
    settings = METHODS[method]
    if settings is None:
        fit = model.fit
    else:
        fit = ks.ImportanceTraining(model, seed=seed, **settings).fit
    # More than there is time for.
    history = fit(
        x, y, batch_size=arguments.batch_size, epochs=100_000, verbose=0, callbacks=[budget]
    ).history
    loss = model.evaluate(x, y, batch_size=1000, verbose=0, return_dict=True)["loss"]
    test = model.evaluate(x_test, y_test, batch_size=1000, verbose=0, return_dict=True)
    row = {
        "backend": keras.backend.backend(),
        "policy": keras.config.dtype_policy().name,
        "task": name,
        "examples": len(x),
        "batch_size": arguments.batch_size,
        "seconds": arguments.seconds,
        "clock": arguments.clock,
        "schedule": schedule,
        "rate": rate,
        "method": method,
        "seed": seed,
        "steps": budget.steps,
        "spent": float(budget.spent / arguments.seconds),
        "speed": float(np.mean(budget.speeds)),
        "step_ms": 1000 * float(speed.first),
        "loss": loss,
        "error": 1 - test["accuracy"],
        "curve": budget.curve,
    }
    for key in (
        "tau",
        "importance",
        "presample",
        "cost_ratio",
        "noise_share",
        "loss_exponent",
        "predicted_gain",
    ):
        if key in history:
            row[key] = float(np.mean(history[key])) if key == "importance" else history[key][-1]
    return row


def mean_and_error(values):
    values = np.asarray(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return values.mean(), error


def time_to(curves, target):
    """The share of the budget at which the mean curve is first at the target, or infinity."""
    points = min(len(curve) for curve in curves)
    done = np.mean([[p[0] for p in curve[:points]] for curve in curves], axis=0)
    values = np.mean([[np.log(p[1]) for p in curve[:points]] for curve in curves], axis=0)
    reached = np.flatnonzero(values <= target)
    if not len(reached):
        return np.inf
    first = reached[0]
    if first == 0:
        return done[0]
    share = (values[first - 1] - target) / (values[first - 1] - values[first])
    return done[first - 1] + share * (done[first] - done[first - 1])


def grouped(rows):
    cells = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        cells[row["task"], row["schedule"], row["rate"]][row["method"]].append(row)
    return cells


def summarise(rows):
    """Tables for each backend and float type by itself."""
    settings = [(row["backend"], row["policy"]) for row in rows]
    for setting in dict.fromkeys(settings):
        summarise_alike([r for r, its in zip(rows, settings, strict=True) if its == setting])


def summarise_alike(rows):
    cells = grouped(rows)
    best = collections.defaultdict(dict)
    for task in dict.fromkeys(row["task"] for row in rows):
        example = next(row for row in rows if row["task"] == task)
        print(
            f"\n### {task}: {example['examples']} examples, batch {example['batch_size']}, "
            f"{example['seconds']:g} {example['clock']} seconds, {example['backend']}, "
            f"{example['policy']}, seeds {sorted({r['seed'] for r in rows if r['task'] == task})}\n"
        )
        print(
            "| schedule, rate | method | steps | by importance | train loss | test error | time |"
        )
        print("|---|---|---|---|---|---|---|")
        for (name, schedule, rate), methods in sorted(cells.items()):
            if name != task:
                continue
            uniform = methods.get("uniform")
            final = np.mean([np.log(r["curve"][-1][1]) for r in uniform]) if uniform else -np.inf
            for method in METHODS:
                if method not in methods:
                    continue
                runs = methods[method]
                loss, error = (mean_and_error([r[k] for r in runs]) for k in ("loss", "error"))
                averaged = method.endswith("averaged")
                when = "" if averaged else f"{time_to([r['curve'] for r in runs], final):.2f}"
                share = np.mean([r.get("importance", 0.0) for r in runs])
                steps = np.mean([r["steps"] for r in runs])
                print(
                    f"| {schedule}, {rate:g} | {method} | {steps:.0f} "
                    f"| {share:.2f} | {loss[0]:.5f} ± {loss[1]:.5f} "
                    f"| {error[0]:.4f} ± {error[1]:.4f} | {when} |"
                )
                key = task, method
                if key not in best or loss[0] < best[key]["loss"][0]:
                    best[key] = {
                        "loss": loss,
                        "error": error,
                        "cell": f"{schedule}, {rate:g}",
                        "curves": [r["curve"] for r in runs],
                    }
    setting = f"{rows[0]['backend']}, {rows[0]['policy']}"
    print(f"\n### {setting}: each method with its own best schedule and rate, by train loss\n")
    print("| task | method | schedule, rate | train loss | test error | time to uniform's best |")
    print("|---|---|---|---|---|---|")
    for (task, method), found in best.items():
        (loss, loss_error), (error, error_error) = found["loss"], found["error"]
        when = ""
        if (task, "uniform") in best and not method.endswith("averaged"):
            ends = [curve[-1][1] for curve in best[task, "uniform"]["curves"]]
            when = f"{time_to(found['curves'], np.mean(np.log(ends))):.2f}"
        print(
            f"| {task} | {method} | {found['cell']} | {loss:.5f} ± {loss_error:.5f} "
            f"| {error:.4f} ± {error_error:.4f} | {when} |"
        )


def plot(rows, file):
    """One panel for each task: the curves of the cell where uniform training ends lowest."""
    from matplotlib.figure import Figure

    # Of several backends or float types, the first.
    first = rows[0]["backend"], rows[0]["policy"]
    rows = [row for row in rows if (row["backend"], row["policy"]) == first]
    cells = grouped(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(4 * min(3, len(tasks)), 3.2 * -(-len(tasks) // 3)))
    figure.set_layout_engine("constrained")
    panels = np.ravel(figure.subplots(-(-len(tasks) // 3), min(3, len(tasks)), squeeze=False))
    for panel, task in zip(panels, tasks, strict=False):
        lowest = min(
            (np.mean([r["loss"] for r in methods["uniform"]]), cell)
            for cell, methods in cells.items()
            if cell[0] == task and "uniform" in methods
        )[1]
        for method in METHODS:
            runs = cells[lowest].get(method)
            if not runs or method.endswith("averaged"):
                continue
            points = min(len(r["curve"]) for r in runs)
            values = np.exp(np.mean([np.log(r["curve"])[:points] for r in runs], axis=0))
            color = f"C{list(METHODS).index(method)}"
            panel.plot(values[:, 0], values[:, 1], color, label=method, linewidth=1.2)
        panel.set_yscale("log")
        panel.set_title(f"{task}, {lowest[1]} {lowest[2]:g}", fontsize=9)
        panel.set_xlabel("share of the budget")
        panel.legend(fontsize=7)
    panels[0].set_ylabel("train loss")
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--rates", nargs="+", type=float, help="default: the task's three")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument(
        "--step-ms",
        type=float,
        help="what the fixed training step took where the seconds are those of, as another run of "
        "this script has written it; default: when the task begins",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--examples", type=int, help="training examples; default: the task's")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--policy", default="float32", help="or mixed_bfloat16, for all methods")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--out", metavar="FILE.jsonl", help="append a line for each run")
    parser.add_argument("--summary", metavar="FILE.jsonl", help="read lines in place of training")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--quick", action="store_true", help="digits, one second, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.schedules, arguments.seeds = ["digits"], ["constant"], [0]
        arguments.rates, arguments.seconds = [0.1], 1.0
    if arguments.summary:
        with open(arguments.summary) as file:
            rows = [json.loads(line) for line in file]
    else:
        if keras.backend.backend() == "jax":
            raise SystemExit(
                "On JAX, Keras keeps the learning rate out of reach during an epoch, so schedules "
                "of a budget of seconds cannot be followed. Set KERAS_BACKEND to tensorflow or "
                "torch."
            )
        keras.config.set_dtype_policy(arguments.policy)
        rows = train_all(arguments)
    summarise(rows)
    if arguments.plot:
        plot(rows, arguments.plot)
        print(f"\nwrote {arguments.plot}")


def train_all(arguments):
    rows = []
    for task in arguments.tasks:
        for seed in arguments.seeds:
            for schedule in arguments.schedules:
                for rate in arguments.rates or TASKS[task].rates:
                    for method in sorted(arguments.methods, key=list(METHODS).index):
                        rows.append(run(task, method, schedule, rate, seed, arguments))
                        if arguments.out:
                            with open(arguments.out, "a") as file:
                                file.write(json.dumps(rows[-1]) + "\n")
    return rows


if __name__ == "__main__":
    main()
