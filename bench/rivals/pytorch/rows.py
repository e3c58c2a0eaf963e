"""What table.py measures. A row is a piece of work and the engines that do it."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way to run a model in PyTorch; forms are told in models/."""
    form: str
    bf16: bool = False
    compile: bool = False

    def __str__(self):
        words = [self.form, "bf16" if self.bf16 else "float32",
                 "compiled" if self.compile else "eager"]
        return "PyTorch, " + ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    flags: tuple  # of the model, for refrain
    batch: int
    context: int
    modes: tuple
    part: str = "training"     # or "mixer": one mixer, forward and backward
    tokenizer: str = "char"
    beside: tuple = ()         # (label, flags): other work of refrain's for comparison
    steps: int = 5             # a round of an engine, after warm_up
    warm_up: int = 2

    @property
    def tokens(self):
        return self.batch * self.context


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Refrain alone: training steps of stacks of one mixer each, over growing lengths."""
    name: str
    title: str
    flags: tuple
    mixers: tuple  # (mixer, longest)
    lengths: tuple
    tokens: int  # of a step; the length, when that is more
    steps: int = 2
    warm_up: int = 1


def every_mode(*forms):
    return tuple(Mode(form, bf16, compiled) for form in forms for bf16 in (False, True)
                 for compiled in (False, True))


def float32(*forms):
    return tuple(Mode(form, False, compiled) for form in forms for compiled in (False, True))


SMALL = ("--layers", 6, "--d-model", 384, "--heads", 6, "--d-ff", 1024)
LARGE = ("--layers", 12, "--d-model", 768, "--heads", 12, "--d-ff", 2048, "--vocab-size", 50304,
         "--tie-embeddings")
ALONE = ("--d-model", 384, "--heads", 6)
WINDOW = ("--attention.window", 256)

ROWS = [
    Row("transformer-10m", "transformer, 10.7 M parameters", SMALL, 16, 256, every_mode("sdpa")),
    Row("transformer-124m", "transformer, 124 M parameters, vocabulary 50,304", LARGE, 4, 1024,
        every_mode("sdpa"), tokenizer="byte-bpe:8000", steps=2, warm_up=1),
    *(Row(f"attention-{T}", f"attention alone, {T:,} tokens", ALONE, 1, T, every_mode("sdpa"),
          part="mixer", steps=10) for T in (1024, 2048, 4096, 8192, 16384)),
    Row("gla", "gla, 10 M parameters", (*SMALL, "--mixer", "gla"), 4, 1024,
        float32("loop") + every_mode("chunked"),
        beside=(("refrain, attention instead of gla", SMALL),)),
    Row("attention-rnn", "attention_rnn, 10 M parameters", (*SMALL, "--mixer", "attention_rnn"), 4,
        1024, float32("loop") + every_mode("cumsum", "sdpa")),
    Row("lstm", "LSTM, 2 layers of 512", ("--layers", 2, "--d-model", 512, "--heads", 1, "--mixer",
                                          "lstm", "--block", "bare"), 32, 128,
        float32("loop") + every_mode("module")),
    Row("window", "attention over a window of 256", (*ALONE, *WINDOW), 1, 16384,
        (Mode("mask"), Mode("mask", bf16=True), *every_mode("blocks"), Mode("flex")),
        part="mixer", beside=(("refrain, without the window", ALONE),)),
    Lengths("gla-lengths", "gla beside attention over lengths", SMALL,
            (("gla", 65536), ("attention", 16384)), (1024, 2048, 4096, 16384, 65536), 16384),
]
