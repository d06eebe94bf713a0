"""A language model of lines of any length, in batches of near lengths, with importance sampling.

Reads a text line by line. A `PyDataset` deals the lines anew for each epoch, sorts each thousand
or so by length and pads a batch to the longest of its lines, as is usual for text. Nothing else is
done to train by importance: a line is known again by its words, however far it was padded, and
batches are drawn from among those of one length. Prints the perplexity of the lines in ten that
were left out, from `model.fit` and from importance training.

    python examples/bucketed_lines.py --data train.txt --plot lines.png

Without `--data`, Keras downloads a text by Shakespeare; without a network, the descriptions of
scikit-learn's data sets serve.
"""

import argparse
import collections

import common
import keras
import numpy as np

import keras_swift as ks

# Lengths are rounded up to these: JAX compiles a step for each.
LENGTHS = (8, 16, 24, 32, 48, 64)


class Lines(keras.utils.PyDataset):
    """Batches `(words, next words)` of lines of near lengths; 0 stands for no word.

    Args:
        lines: list of int arrays.
        batch_size: int.
        seed: int, of the order of the lines; `None` for one order.
    """

    def __init__(self, lines, batch_size, seed=None):
        super().__init__()
        self.lines, self.batch_size = lines, batch_size
        self.lengths = np.array([len(line) for line in lines])
        self.generator = None if seed is None else np.random.default_rng(seed)
        self.deal()

    def deal(self):
        order = np.arange(len(self.lines))
        if self.generator is not None:
            order = self.generator.permutation(order)
        near = []
        for start in range(0, len(order), 32 * self.batch_size):
            some = order[start : start + 32 * self.batch_size]
            near.append(some[np.argsort(self.lengths[some], kind="stable")])
        order = np.concatenate(near)
        starts = range(0, len(order), self.batch_size)
        self.batches = [order[start : start + self.batch_size] for start in starts]
        if self.generator is not None:
            self.generator.shuffle(self.batches)

    def on_epoch_end(self):
        self.deal()

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        lines = [self.lines[row] for row in self.batches[index]]
        longest = max(map(len, lines)) - 1
        length = next(found for found in LENGTHS if found >= longest)
        words = np.zeros((len(lines), length + 1), "int32")
        for row, line in zip(words, lines, strict=True):
            row[: len(line)] = line
        return words[:, :-1], words[:, 1:]


def encoded(text, vocabulary, most):
    """The lines of at least three words as int arrays, cut where they are too long."""
    lines = [line.split()[: LENGTHS[-1]] for line in text.splitlines()]
    lines = [line for line in lines if len(line) > 2][:most]
    counts = collections.Counter(word for line in lines for word in line)
    # 0 is no word, 1 every word that is too rare.
    number = {word: k for k, (word, _) in enumerate(counts.most_common(vocabulary - 2), start=2)}
    return [np.array([number.get(word, 1) for word in line]) for line in lines]


def build(vocabulary, units, steps, seed):
    common.set_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(vocabulary, units, mask_zero=True),
            keras.layers.LSTM(units, return_sequences=True),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(vocabulary),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data", metavar="FILE.txt", help="a text, words separated by spaces")
    parser.add_argument("--plot", metavar="FILE.png", help="write a figure of the training")
    parser.add_argument(
        "--lines", type=int, default=8_000, help="read only that many; default: %(default)s"
    )
    parser.add_argument("--vocabulary", type=int, default=2_000, help="default: %(default)s")
    parser.add_argument("--units", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    arguments = parser.parse_args()
    lines = encoded(common.read_text(arguments.data), arguments.vocabulary, arguments.lines)
    # Every tenth part of ten lines tests, so that both are of the same kind.
    part = np.arange(len(lines)) // 10 % 10
    train, test = ([lines[row] for row in np.flatnonzero(where)] for where in (part < 9, part == 9))
    print(f"{len(train)} lines to train, {len(test)} to test, of up to {LENGTHS[-1]} words")
    print(f"backend {keras.backend.backend()}, {arguments.epochs} epochs", flush=True)
    history = None
    for side in ("fit", "importance"):
        data = Lines(train, arguments.batch_size, arguments.seed)
        steps = len(data) * arguments.epochs
        model = build(arguments.vocabulary, arguments.units, steps, arguments.seed)
        if side == "fit":
            model.fit(data, epochs=arguments.epochs, verbose=0)
        else:
            trainer = ks.ImportanceTraining(model, seed=arguments.seed)
            history = trainer.fit(data, epochs=arguments.epochs, verbose=0).history
        of_train, of_test = (
            np.exp(model.evaluate(Lines(part, 64), verbose=0, return_dict=True)["loss"])
            for part in (train, test)
        )
        print(f"{side}: train perplexity {of_train:.2f}, test perplexity {of_test:.2f}", flush=True)
    print(
        f"Drawn by importance: {np.mean(history['importance']):.0%} of the steps. At the end "
        f"a step has the noise of a batch {history['gain'][-1]:.2f} times as large."
    )
    if arguments.plot:
        ks.plot_training(history, arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    main()
