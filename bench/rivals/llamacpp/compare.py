"""Whether logits of two engines are those of the same model, in Python's standard library.

Differences are told relative to the spread of the logits that are wanted: their standard deviation.
Logits of other weights, or of a wrong rotation, are several times the spread away somewhere.
"""
import math
import operator


def spread(values):
    """Their standard deviation."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def off(found, wanted):
    """The largest difference, over the spread; infinite where there is no comparison."""
    if len(found) != len(wanted) or not wanted:
        return math.inf
    if not all(map(math.isfinite, found)):
        return math.inf
    scale = spread(wanted)
    largest = max(map(abs, map(operator.sub, found, wanted)))
    return largest / scale if scale > 0 else math.inf


def constant_share(values, columns):
    """How much of the variance of logits, rows of so many columns, is the same in all rows, whatever
    the tokens are: 1 where a comparison would see no block of the model."""
    rows = len(values) // columns
    mean_row = [math.fsum(values[c::columns]) / rows for c in range(columns)]
    total = spread(values)
    return (spread(mean_row) / total) ** 2 if total > 0 else 1.0


def chosen_off(rows, columns, ids, logprobs):
    """How far log probabilities of greedily chosen tokens are from what the wanted logits give, and
    these tokens from being the likeliest there, over the spread. `rows`: the wanted logits that each
    token was chosen by."""
    if len(ids) != len(logprobs) or len(rows) != len(ids) * columns or not ids:
        return math.inf
    scale, largest = spread(rows), 0.0
    if not scale > 0:
        return math.inf
    for i, (token, logprob) in enumerate(zip(ids, logprobs)):
        row = rows[i * columns:(i + 1) * columns]
        top = max(row)
        log_sum = math.log(math.fsum(math.exp(v - top) for v in row))
        distance = max(abs(row[token] - top - log_sum - logprob), top - row[token])
        if not math.isfinite(distance):
            return math.inf
        largest = max(largest, distance)
    return largest / scale
