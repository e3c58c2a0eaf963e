"""Tokenizers of the forms that published models have, built with the `tokenizers` package and trained
small, and a text of many scripts to compare them on."""
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Split

MARK = "\u2581"

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?%s+|%s| ?[^\s%s]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = WORDS % (r"\p{L}", r"\p{N}", r"\p{L}\p{N}")
QWEN35 = WORDS % (r"[\p{L}\p{M}]", r"\p{N}", r"\p{L}\p{M}\p{N}")
LLAMA3 = WORDS % (r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def split(pattern, behavior="isolated", invert=False):
    return Split(Regex(pattern), behavior, invert=invert)


def bytes_only(*before):
    """Steps, and then the bytes of what they gave."""
    return pre_tokenizers.Sequence([*before, ByteLevel(False, use_regex=False)])


def byte_bpe(splitter, normalizer=None, ignore_merges=False):
    """Trained on words that the form itself makes, so that its merges matter."""
    def make(text, size):
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = splitter
        tokenizer.normalizer = normalizer
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.train_from_iterator([text], trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False))
        return tokenizer
    return make


def with_tokens(make, special, plain=()):
    def made(text, size):
        tokenizer = make(text, size)
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
        tokenizer.add_tokens([t if isinstance(t, AddedToken) else AddedToken(t, normalized=False)
                              for t in plain])
        return tokenizer
    return made


def with_template(make, single, pair):
    def made(text, size):
        tokenizer = make(text, size)
        names = [t for t in ("<|begin_of_text|>", "<|end_of_text|>") if t in single]
        template = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(t, tokenizer.token_to_id(t)) for t in names])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
        return tokenizer
    return made


def llama(normalizer=None, splitter=None):
    def make(text, size):
        for token in ("<unk>", "<s>", "</s>"):  # they would be in the vocabulary twice
            text = text.replace(token, " ")
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "always", True)
        learner.train_from_iterator([text], trainers.BpeTrainer(
            vocab_size=size, limit_alphabet=400, show_progress=False))
        model = json.loads(learner.to_str())["model"]
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        tokens += model["vocab"]
        tokenizer = Tokenizer(models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = splitter
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0)])
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in tokens[:3]])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        return tokenizer
    return make


def words(splitter):
    def make(text, size):
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = splitter
        for token in ("<unk>", "<s>", "</s>"):  # the trainer would count them twice
            text = text.replace(token, " ")
        tokenizer.train_from_iterator([text], trainers.WordLevelTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
        return tokenizer
    return make


QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
FLAGS = [AddedToken(content, normalized=False, **{flag: True})
         for flag in ("lstrip", "rstrip", "single_word")
         for content in (f"<{flag}>", f"{flag}ed", f"{flag}\u732b")]
NORMALIZED = [AddedToken(content, normalized=True, special=False, **flags) for content, flags in [
    ("Zur\u0300ich", {}), ("cafe\u0301\u732b", {"single_word": True}),
    ("n\u0303\u732b", {"rstrip": True}),
    ("\u1112\u1161\u11ab", {"lstrip": True}), ("the Of", {})]]

FORMS = {
    "GPT-2": with_tokens(byte_bpe(ByteLevel(False)), QWEN_TOKENS[:1]),
    "GPT-2 with a space before": byte_bpe(ByteLevel(True)),
    "SmolLM2": with_tokens(byte_bpe(pre_tokenizers.Sequence([Digits(True), ByteLevel(False)])),
                           QWEN_TOKENS),
    "digits together, a space before": byte_bpe(
        pre_tokenizers.Sequence([Digits(False), ByteLevel(True)])),
    "Qwen2": with_tokens(byte_bpe(bytes_only(split(QWEN2)), NFC()), QWEN_TOKENS),
    "Qwen3": with_tokens(byte_bpe(bytes_only(split(QWEN2)), NFC()), QWEN_TOKENS,
                         ["<think>", "</think>", "<tool_call>"]),
    "Qwen3.5": with_tokens(byte_bpe(bytes_only(split(QWEN35)), NFC()), QWEN_TOKENS),
    "Llama-3": with_template(
        with_tokens(byte_bpe(bytes_only(split(LLAMA3)), ignore_merges=True), LLAMA3_TOKENS),
        "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|> $B"),
    "GPT-4": byte_bpe(bytes_only(split(LLAMA3, "removed", True))),
    "GPT-4o": byte_bpe(bytes_only(split(O200K))),
    "GPT-2's pattern as Split": byte_bpe(bytes_only(split(GPT2))),
    "DeepSeek": with_tokens(byte_bpe(bytes_only(
        split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
        split(r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7a3]+"), Digits(True))), QWEN_TOKENS[:1]),
    "StarCoder": byte_bpe(pre_tokenizers.Sequence([Punctuation("contiguous"), Digits(False),
                                                   ByteLevel(False)])),
    "punctuation alone": byte_bpe(bytes_only(Punctuation("isolated"))),
    "spaces before words": byte_bpe(bytes_only(Split(" ", "merged_with_next"))),
    "spaces behind words": byte_bpe(bytes_only(Split(" ", "merged_with_previous"))),
    "runs of white space": byte_bpe(bytes_only(split(r"\s", "contiguous"), split(r"\b", "isolated"))),
    "words alone": byte_bpe(bytes_only(split(r"\w+|[^\w\s]+", "removed", True))),
    "compatible, lower case": with_tokens(byte_bpe(
        bytes_only(split(LLAMA3)), normalizers.Sequence([NFKC(), Lowercase(), Strip()])),
        QWEN_TOKENS),
    "replaced, decomposed": byte_bpe(bytes_only(split(QWEN35)), normalizers.Sequence(
        [Replace(Regex(r"[ \t]{2,}"), " "), Replace("\u2026", "..."), NFD(), Prepend("_")])),
    "compatible and decomposed": byte_bpe(bytes_only(split(QWEN2)), NFKD()),
    "flags of added tokens": with_tokens(byte_bpe(bytes_only(split(QWEN2)), NFC()), QWEN_TOKENS,
                                         FLAGS + NORMALIZED),
    "begin and end": with_template(
        with_tokens(byte_bpe(ByteLevel(False)), LLAMA3_TOKENS),
        "<|begin_of_text|> $A <|end_of_text|>", "<|begin_of_text|> $A $B <|end_of_text|>"),
    "Llama-2": llama(normalizers.Sequence([Prepend(MARK), Replace(" ", MARK)])),
    "Mistral": llama(splitter=pre_tokenizers.Metaspace(MARK, "first", False)),
    "Mistral, split": llama(splitter=pre_tokenizers.Metaspace(MARK, "always", True)),
    "words": words(pre_tokenizers.WhitespaceSplit()),
    "words and punctuation": words(pre_tokenizers.Whitespace()),
}

# All of a text is in their words, and it is not changed before.
LOSSLESS = ["GPT-2", "SmolLM2", "Llama-3", "GPT-4", "GPT-4o", "GPT-2's pattern as Split", "DeepSeek",
            "StarCoder", "punctuation alone", "spaces before words", "runs of white space"]

SCRIPTS = [(0x61, 0x7A), (0x41, 0x5A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x5D0, 0x5EA),
           (0x620, 0x64A), (0x904, 0x939), (0x985, 0x9B9), (0xB85, 0xBB9), (0xE01, 0xE30),
           (0x10D0, 0x10F0), (0x1200, 0x1248), (0x1780, 0x17A2), (0x1E00, 0x1EF9), (0x3041, 0x3096),
           (0x30A1, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x10400, 0x1044F),
           (0x20000, 0x2A6D6)]
MARKS = ["\u0300", "\u0301", "\u0303", "\u0308", "\u030a", "\u0323", "\u0327", "\u0345", "\u05b7",
         "\u05bc", "\u064e", "\u0651", "\u093c", "\u094d", "\u09be", "\u0bbe", "\u0e31", "\u0e48",
         "\u1161", "\u11a8", "\u3099", "\u309a", "\ufe0f", "\u200d", "\U000e0101"]
NUMBERS = ["7", "42", "1984", "3.14159", "0x1F", "1,000,000", "\u0663\u0664", "\u096c", "\u2167",
           "\u00bd", "x\u00b2", "\uff11\uff12", "\u2460", "\u3007", "1\u0300", "12345678901"]
EMOJI = ["\U0001f600", "\u2764\ufe0f", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
         "\U0001f44d\U0001f3fd", "\U0001f1ef\U0001f1f5", "1\ufe0f\u20e3", "\U0001f3f4\u200d\u2620"]
SPACES = [" "] * 40 + ["  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\r\n\r\n ", "\r", "\u00a0",
                       "\u3000", "\u2003", "\u2028", "\u0085", "\v", "        ", "\n\t\t", "\u180e",
                       "\u200b"]
PARTS = ["'s", "'S", "'ll", "'LL", "'Re", "'\u017f", "don't", "I'VE", "we'd", "'", "''", "can\u2019t",
         "...", "\u2026", "!?", "--", "\u2014", "\u201cx\u201d", "\u300c\u732b\u300d", "\u3002",
         "$9.99", "a_b", "__init__", "\ufb01ne", "\u2126", "\u212b", "\ufdfa", "\u0130stanbul",
         "STRASSE", "stra\u00dfe", "\u1e9e", "\uac00\u11a8", "\u1100\u1161\u11a8", "e\u0301\u0323",
         "for (int i = 0; i < n; ++i) {\n    x[i] += f(i); // \u03c0\n}\n",
         "def f(x):\r\n\treturn x**2\r\n", "<a href=\"x?y=1&z=2\">", "C:\\dir\\file.txt", "\\n", "\u0000",
         "http://example.org/a%20b", "dGhlIHF1aWNrIGJyb3duIGZveA==", MARK, "</w>", "<unk>", "</s>",
         "<think>", "</think>", "Zu\u0300rich", "Zur\u0300ich", "cafe\u0301\u732b", "caf\u00e9\u732b", "\u00f1\u732b ",
         "the Of", "the Of", " \ud55c", "\ud55c", "\u1112\u1161\u11ab", "\u0f73", "\u0f71\u0f72"]
PARTS += QWEN_TOKENS + LLAMA3_TOKENS + [token.content for token in FLAGS]


def word(rng):
    low, high = rng.choice(SCRIPTS)
    letters = [chr(rng.randint(low, high)) for _ in range(rng.choice([1, 2, 3, 4, 5, 6, 9]))]
    for _ in range(rng.choice([0] * 6 + [1, 1, 2, 5])):
        letters.insert(rng.randint(0, len(letters)), rng.choice(MARKS))
    return "".join(letters)


def mixed_text(megabytes, texts, seed=1):
    """About so many megabytes of words of many scripts, code, emoji, marks, and lines of `texts`."""
    rng = random.Random(seed)
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    pool = [word(rng) for _ in range(20000)]
    parts, size = [], 0
    while size < megabytes * 1e6:
        what = rng.random()
        if what < 0.02 and lines:
            part = rng.choice(lines)
        elif what < 0.55:
            part = rng.choice(pool) + rng.choice(SPACES)
        elif what < 0.65:
            part = rng.choice(PARTS) + rng.choice(["", "", " "])
        elif what < 0.75:
            part = rng.choice(NUMBERS) + rng.choice(["", " ", ", "])
        elif what < 0.8:
            part = rng.choice(EMOJI)
        elif what < 0.85:
            part = rng.choice(SPACES) * rng.choice([1, 2, 3])
        else:
            part = rng.choice(pool) + rng.choice(["", ",", ".", "-", "/", "(", ")"])
        parts.append(part)
        size += len(part.encode())
    return "".join(parts)
