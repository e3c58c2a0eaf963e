"""The same Llama in both engines' files, in Python's standard library: the tensors and their names,
the order of rows, config.json, a tokenizer in which each id is a character, safetensors."""
import array
import dataclasses
import json
import pathlib
import struct


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    d_ff: int
    vocab: int
    kv_heads: int
    context: int = 1024
    rope_theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = True


# Shape's fields as config.json has them.
KEYS = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
        "d_ff": "intermediate_size", "vocab": "vocab_size", "kv_heads": "num_key_value_heads",
        "context": "max_position_embeddings", "rope_theta": "rope_theta", "eps": "rms_norm_eps",
        "tied": "tie_word_embeddings"}
# And as GGUF has them.
GGUF_KEYS = {"layers": "block_count", "width": "embedding_length", "heads": "attention.head_count",
             "d_ff": "feed_forward_length", "kv_heads": "attention.head_count_kv",
             "context": "context_length", "rope_theta": "rope.freq_base",
             "eps": "attention.layer_norm_rms_epsilon"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A matrix, or a vector when it has no columns."""
    name: str        # of Hugging Face's Llamas, which refrain reads
    gguf: str
    rows: int
    columns: int = 0
    heads: int = 0   # whose rows are rotated, in halves there and in adjacent pairs in GGUF
    gain: float = 1

    @property
    def shape(self):
        return [self.rows, self.columns] if self.columns else [self.rows]

    @property
    def count(self):
        return self.rows * max(1, self.columns)

    @property
    def mean(self):
        return 0 if self.columns else 1

    @property
    def deviation(self):
        """Of random weights: outputs are as large as inputs, and every part shows in the logits."""
        return self.gain / self.columns**0.5 if self.columns else 0.1


def tensors(shape):
    """All tensors of a model. A tied embedding is small beside what the blocks add: else every token
    would be followed by itself."""
    s, head = shape, shape.width // shape.heads
    found = [Tensor("model.embed_tokens.weight", "token_embd", s.vocab, s.width, gain=3)]
    for i in range(s.layers):
        def add(name, gguf, rows, columns=0, **more):
            found.append(Tensor(f"model.layers.{i}.{name}.weight", f"blk.{i}.{gguf}", rows, columns,
                                **more))
        add("input_layernorm", "attn_norm", s.width)
        add("self_attn.q_proj", "attn_q", s.heads * head, s.width, heads=s.heads)
        add("self_attn.k_proj", "attn_k", s.kv_heads * head, s.width, heads=s.kv_heads)
        add("self_attn.v_proj", "attn_v", s.kv_heads * head, s.width)
        add("self_attn.o_proj", "attn_output", s.width, s.heads * head)
        add("post_attention_layernorm", "ffn_norm", s.width)
        add("mlp.gate_proj", "ffn_gate", s.d_ff, s.width)
        add("mlp.up_proj", "ffn_up", s.d_ff, s.width)
        add("mlp.down_proj", "ffn_down", s.width, s.d_ff)
    found.append(Tensor("model.norm.weight", "output_norm", s.width))
    if not s.tied:
        found.append(Tensor("lm_head.weight", "output", s.vocab, s.width, gain=3))
    return found


def parameters(shape):
    return sum(t.count for t in tensors(shape))


def adjacent_pairs(rows, heads):
    """Which row of a matrix in halves each row of the matrix in adjacent pairs is: row i of a head
    is rotated with row i + size / 2 in the first and with its neighbour in the second."""
    size = rows // heads
    return [h * size + i % 2 * (size // 2) + i // 2 for h in range(heads) for i in range(size)]


def halves(rows, heads):
    """The way back."""
    order = [0] * rows
    for new, old in enumerate(adjacent_pairs(rows, heads)):
        order[old] = new
    return order


# -- the directory that refrain opens

def character(i):
    """The text of a token: a character of its own for each id."""
    first = 0x9FFF - 0x4E00 + 1  # then those beyond the basic plane
    return chr(0x4E00 + i) if i < first else chr(0x20000 + i - first)


def text_of(ids):
    return "".join(map(character, ids))


def config(shape):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
            **{KEYS[name]: value for name, value in dataclasses.asdict(shape).items()}}


def tokenizer(vocab):
    """Characters, without merges: a text of `text_of` is these ids, and no other tokens."""
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False,
                      "vocab": {character(i): i for i in range(vocab)}, "merges": []}}


def write_directory(path, shape, values):
    """A model directory; `values` gives the numbers of one of tensors(shape) as a buffer of
    float32."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(shape.vocab), ensure_ascii=False))
    every = tensors(shape)
    write_safetensors(path / "model.safetensors", [(t.name, t.shape) for t in every],
                      (values(t) for t in every))


def read_shape(path):
    found = json.loads((pathlib.Path(path) / "config.json").read_text())
    return Shape(**{name: found[key] for name, key in KEYS.items()})


# -- safetensors

def write_safetensors(path, entries, values):
    """float32 tensors of these names and shapes, and their values as buffers, one after another."""
    header, end = {}, 0
    for name, shape in entries:
        begin = end
        size = 4
        for n in shape:
            size *= n
        end += size
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in values:
            file.write(value)
    if pathlib.Path(path).stat().st_size != 8 + len(text) + end:
        raise ValueError(f"{path}: the values are not as many as the shapes say")


def read_header(file):
    """The header of an open file, and where its data begins."""
    size = struct.unpack("<Q", file.read(8))[0]
    return json.loads(file.read(size)), 8 + size


def read_rows(path, name, first=0):
    """The rows of a float32 matrix from `first` on, one after another, and how many columns."""
    with open(path, "rb") as file:
        header, data = read_header(file)
        entry = header[name]
        if entry["dtype"] != "F32" or len(entry["shape"]) != 2:
            raise ValueError(f"{path}: {name}: expected a matrix of F32, found {entry}")
        rows, columns = entry["shape"]
        begin, end = entry["data_offsets"]
        file.seek(data + begin + 4 * first * columns)
        values = array.array("f")
        values.frombytes(file.read(end - begin - 4 * first * columns))
    if len(values) != (rows - first) * columns:
        raise ValueError(f"{path}: {name}: the file ends before its rows")
    return values, columns


def stored_bytes(directory):
    """What the weight files of a model directory hold, without their headers."""
    total = 0
    for path in pathlib.Path(directory).glob("*.safetensors"):
        with open(path, "rb") as file:
            total += path.stat().st_size - read_header(file)[1]
    return total
