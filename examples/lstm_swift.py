"""An LSTM language model: perplexity with and without a searched sampler.

Reads WikiText-2, or any other text, as words separated by spaces. The text is
cut into sequences; of each thousand words or so in ten, one part validates, one
tests and the others train, so that all three are of the same kind. Searched on
the two features of the paper, perplexity (the loss) and word frequency, and on
how much worse than by its frequency a word is predicted. Trials are judged by
the validation loss, whose exponential the perplexity is. On clean text there is
little to gain. With `--shuffled 0.1` the words of a tenth of the training
sequences are shuffled.

    python examples/lstm_swift.py --data train.txt --plot search.png

Without `--data`, Keras downloads a text by Shakespeare; without a network, the
descriptions of scikit-learn's data sets serve.
"""

import argparse
import collections
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
from sklearn.metrics import roc_auc_score

import keras_swift as ks


def sequences(words, vocabulary, length):
    """Inputs and targets one word later; 0 is every word outside the vocabulary."""
    known = collections.Counter(words).most_common(vocabulary - 1)
    number = {word: k for k, (word, _) in enumerate(known, start=1)}
    encoded = np.array([number.get(word, 0) for word in words], "int32")
    count = (len(encoded) - 1) // length
    x = encoded[: count * length].reshape(count, length)
    y = encoded[1 : count * length + 1].reshape(count, length)
    return x, y


def language_features(y, vocabulary):
    """Features of sequences: loss, word frequency, and the loss beyond that of the frequencies.

    Args:
        y: int array, shape `(n, length)`, the words of the training sequences.
        vocabulary: int.
    """
    counts = np.bincount(y.reshape(-1), minlength=vocabulary) + 1.0
    log_frequency = np.log(counts / counts.sum()).astype("float32")

    def excess_loss(y_true, y_pred):
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        by_frequency = -keras.ops.take(log_frequency, keras.ops.cast(y_true, "int32"))
        return keras.ops.mean(losses - by_frequency, axis=-1)

    return {
        "excess_loss": excess_loss,
        "loss": "loss",
        "word_frequency": log_frequency[y].mean(axis=1),
    }


def build(vocabulary, length, units, seed):
    common.set_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            keras.layers.Embedding(vocabulary, units),
            keras.layers.LSTM(units, return_sequences=True),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(vocabulary),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs", type=int, default=8, help="of each training from scratch; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data", metavar="FILE.txt", help="a text, words separated by spaces")
    parser.add_argument("--plot", metavar="FILE.png", help="write the figure of the search")
    parser.add_argument(
        "--words", type=int, default=120_000, help="read only that many; default: %(default)s"
    )
    parser.add_argument("--vocabulary", type=int, default=2_000, help="default: %(default)s")
    parser.add_argument(
        "--length", type=int, default=24, help="words in a sequence; default: %(default)s"
    )
    parser.add_argument("--units", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--trials", type=int, default=12, help="samplers to try; default: %(default)s"
    )
    parser.add_argument("--pretrain-epochs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--finetune-epochs", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--shuffled",
        type=float,
        default=0.0,
        help="share of the training sequences whose words are shuffled; default: %(default)s",
    )
    arguments = parser.parse_args()
    text = common.read_text(arguments.data)
    words = text.replace("\n", " <eos> ").split()[: arguments.words]
    x, y = sequences(words, arguments.vocabulary, arguments.length)
    # A sampler that is judged by other articles than it is tested on learns what those are about.
    block = max(1, min(1000 // arguments.length, len(x) // 20))
    part = np.arange(len(x)) // block % 10
    test, validation = part == 9, part == 4
    held_out = test.sum()
    x, y = (np.concatenate([a[part % 5 != 4], a[validation], a[test]]) for a in (x, y))
    train = slice(0, np.sum(part % 5 != 4))
    validation = slice(train.stop, len(x) - held_out)
    test = slice(validation.stop, None)
    generator = np.random.default_rng(arguments.seed)
    shuffled = np.flatnonzero(generator.random(train.stop) < arguments.shuffled)
    for row in shuffled:
        words = generator.permutation(np.append(x[row], y[row, -1]))
        x[row], y[row] = words[:-1], words[1:]
    print(
        f"{len(x)} sequences of {arguments.length} words, {validation.stop - validation.start} to "
        f"validate and {held_out} to test"
    )

    def fresh(seed):
        return build(arguments.vocabulary, arguments.length, arguments.units, seed)

    result = ks.search(
        fresh(arguments.seed),
        x[train],
        y[train],
        validation_data=(x[validation], y[validation]),
        max_trials=arguments.trials,
        pretrain_epochs=arguments.pretrain_epochs,
        finetune_epochs=arguments.finetune_epochs,
        batch_size=arguments.batch_size,
        space=ks.SamplerSpace(language_features(y[train], arguments.vocabulary)),
        objective="val_loss",
        seed=arguments.seed,
    )
    print(result)
    if len(shuffled):
        drawn = result.probabilities[shuffled].sum()
        print(f"shuffled: {len(shuffled) / train.stop:.3f} of the data, {drawn:.3f} of the draws")
        areas = ", ".join(
            f"{name} {roc_auc_score(np.isin(np.arange(train.stop), shuffled), values):.3f}"
            for name, values in result.features.items()
        )
        print(f"area under the ROC curve of shuffled: {areas}")
    print(f"training from scratch, {arguments.epochs} epochs", flush=True)
    for name in ("uniform", "sampler"):
        if name == "sampler" and result.best.number == 0:
            print("the search stays with uniform draws: the same training")
            break
        model = fresh(1000 + arguments.seed)
        settings = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "verbose": 0}
        if name == "uniform":
            model.fit(x[train], y[train], **settings)
        else:
            training = ks.SwiftTraining(model, result, seed=arguments.seed)
            training.fit(x[train], y[train], **settings)
        loss = model.evaluate(x[test], y[test], verbose=0, return_dict=True)["loss"]
        print(f"test perplexity, {name} from scratch: {np.exp(loss):.2f}")
    if arguments.plot:
        result.plot(arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    main()
