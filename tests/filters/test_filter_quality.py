"""The filter ``quality``: garbage is taken; formulas, code, tables and every script stay."""

from __future__ import annotations

import base64
import random
import unicodedata

import polars as pl
import pytest
from filter_cases import asked, judged, message, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part
from pipeline.filters.said import CLASSES, SCRIPTS, count_classes, may_hold_run

QUICK = settings(max_examples=40, deadline=None, derandomize=True)

ENGLISH = "The ferry leaves at noon and comes back in the evening, so that there is time for a walk along the shore. "
_NOISE = random.Random(7)
BYTES = bytes(_NOISE.randrange(256) for _ in range(600))
MIXED = "".join(
    a + b + c + d
    for a, b, c, d in zip("abcdefghijklmnop", "абвгдежзийклмноп", "אבגדהוזחטיכלמנסע", "กขคงจฉชซฌญฎฏฐฑฒณ", strict=True)
) * 4  # fmt: skip

BAD = {
    "bytes as text": ("broken_characters", "".join(c for c in BYTES.decode("utf-8", "replace") if c >= " ")),
    "control characters": ("broken_characters", (ENGLISH + "\x02\x05\x0e\x0f\x05\x02\x05\x0e\x0f\x05") * 3),
    "private characters": ("broken_characters", (ENGLISH + "\ue000\ue001\uf8ff" * 5) * 3),
    "base64": ("encoded_data", ENGLISH + base64.b64encode(BYTES).decode()),
    "base64 in lines": ("encoded_data", ENGLISH + "\n" + base64.encodebytes(BYTES).decode()),
    "digits": ("digits", "".join(str(_NOISE.randrange(10)) for _ in range(300))),
    "symbols": ("symbols", "".join(_NOISE.choice("%&$#@!^*()<>~;") for _ in range(300))),
    "few letters": ("few_letters", "".join(_NOISE.choice("0123456789-.:;,") for _ in range(300)) + "abc"),
    "scripts in a heap": ("mixed_scripts", " ".join(MIXED[i : i + 7] for i in range(0, len(MIXED), 7))),
    "no end of a word": ("long_words", "".join(_NOISE.choice("aeioulmnrstdk") for _ in range(300))),
    "mashed keys": ("mashed_keys", " ".join("".join(_NOISE.choices("sdfghjkl", k=6)) for _ in range(60))),
}


#: Limits that are off by default.
ASKED = {"digits": {"max_digits": 0.85}, "symbols": {"max_symbols": 0.8}, "few_letters": {"min_letters": 0.1}}


@pytest.mark.parametrize("name", BAD)
def test_garbage_is_taken_for_what_it_is(name: str) -> None:
    reason, text = BAD[name]
    params = ASKED.get(reason, {})
    assert judged("quality", asked(text), **params) == [reason]
    # One bad answer is enough, a short one is not judged, nor what is read.
    assert judged("quality", asked("Good morning.", text), **params) == [reason]
    assert judged("quality", asked(text), min_characters=100_000, **params) == [None]
    assert judged("quality", asked("I cannot read that.", question=text), **params) == [None]


GOOD = {
    "english": ENGLISH * 4,
    "german": "Die Donaudampfschifffahrtsgesellschaft und das Rindfleischetikettierungsgesetz sind berühmt. " * 3,
    "czech": "Strč prst skrz krk, řekla Markéta a odešla domů, protože už bylo pozdě večer a pršelo. " * 3,
    "chinese": "这里的天气很好，我们下午去公园散步，然后在湖边喝茶。孩子们很喜欢那里的小船。" * 6,
    "japanese": "今日は天気がいいので、公園へ散歩に行きましょう。コーヒーも飲みたいです。" * 7,
    "korean": "오늘은 날씨가 좋아서 공원에 산책하러 갑니다. 커피도 마시고 싶어요. " * 6,
    "thai": "วันนี้อากาศดีมากเราจึงไปเดินเล่นที่สวนสาธารณะและดื่มกาแฟริมทะเลสาบ" * 5,
    "arabic": "الطقس جميل اليوم، لذلك نذهب إلى الحديقة ونشرب القهوة على ضفاف البحيرة. " * 4,
    "hindi": "आज मौसम अच्छा है, इसलिए हम बगीचे में टहलने जाते हैं और चाय पीते हैं। " * 4,
    "tamil": "இன்று வானிலை நன்றாக உள்ளது, எனவே நாம் பூங்காவிற்குச் செல்கிறோம். " * 4,
    "russian": "Сегодня хорошая погода, поэтому мы идём гулять в парк и пить кофе у озера. " * 4,
    "amharic": "ዛሬ አየሩ ጥሩ ነው ስለዚህ ወደ መናፈሻ እንሄዳለን ከዚያም ቡና እንጠጣለን። " * 5,
    "a lesson": "The word «дом» is house, «家» is home, «בית» is house again, «บ้าน» too; this is how they are read. "
    * 3,
    "formulas": r"\[ \int_0^1 \frac{x^2 + 1}{x - 3} \, dx = \sum_{k=0}^{n} \binom{n}{k} \] " * 5,
    "sums": "\n".join(f"{i} * {i + 3} = {i * (i + 3)}" for i in range(30)) + "\nso the sum is even",
    "a table": "| a | b | c |\n|---|---|---|\n" + "\n".join(f"| {i} | {i * i} | even |" for i in range(30)),
    "code without fences": "for (int i = 0; i < n; ++i) {\n    a[i] = b[i] * (c[i] - 1);\n}\n" * 6,
    "base64 in fences": f"Decode this:\n```\n{base64.b64encode(BYTES).decode()}\n```\n{ENGLISH}",
    "a token": f"Your token is {base64.b64encode(BYTES[:120]).decode()}. {ENGLISH}",
    "json": '{"name":"f","list":[1,2,3],"text":"none","more":{"name":"g","type":"object"}}' * 5,
    "a sequence": f"{ENGLISH}{'ACGTTGCAAC' * 60}",
    "links": "\n".join(f"see example.com/library/of/great/books/number-{i}/page-{i * 7}" for i in range(12)),
    "acronyms": "HTTP and HTTPS, XML, HTML, JSON, CSS and SQL, PNGs and GIFs are names that this project knows. " * 3,
    "emoji": "So happy for you 🎉🎉🎉 👩‍👩‍👧 see you at the party on Friday then ❤️ and bring the cake 🎂 please! " * 3,
    "the first primes": ", ".join(str(n) for n in range(2, 400) if all(n % d for d in range(2, n))),
}


@pytest.mark.parametrize("name", GOOD)
def test_text_of_purpose_stays(name: str) -> None:
    assert len(GOOD[name]) >= 200
    assert judged("quality", asked(GOOD[name])) == [None]


def test_null_limits_are_none() -> None:
    told = [asked(text) for _, text in BAD.values()]
    off = dict.fromkeys(
        (
            "max_broken",
            "max_wall",
            "min_letters",
            "max_digits",
            "max_symbols",
            "max_word_length",
            "max_mashed",
            "min_script",
        )
    )
    assert judged("quality", *told, **off) == [None] * len(told)


def test_ellipses_are_counted_where_a_limit_is_set() -> None:
    trailing = "\n".join(f"And then came number {i}, as it had to be ..." for i in range(8))
    assert judged("quality", asked(trailing)) == [None]
    assert judged("quality", asked(trailing), max_ellipses=0.9) == ["ellipses"]
    assert judged("quality", asked(f"{trailing}\n{ENGLISH * 3}"), max_ellipses=0.9) == [None]


def test_calls_and_results_are_not_judged_and_thoughts_are() -> None:
    wall = base64.b64encode(BYTES).decode()
    call = Conversation(
        (
            message("user", "Send it."),
            message("assistant", Part("tool_call", wall, name="send")),
            message("tool", Part("tool_result", wall)),
            message("assistant", "Sent."),
        )
    )
    thought = Conversation((message("user", "Send it."), message("assistant", Part("thinking", wall), "Sent.")))
    assert judged("quality", call, thought) == [None, "encoded_data"]
    assert verdicts("quality", [thought])[0].detail == f"{len(wall)} characters of encoded data"


_LETTERS = {
    "latin": "aZéßøæ", "cyrillic": "жЯё", "greek": "πΩ", "arabic": "مي", "hebrew": "הש", "cjk": "字ねカ한ㄅ",
    "devanagari": "कि", "bengali": "কা", "tamil": "தமி", "thai": "กท", "other": "አაა", "digit": "7٣②", "space": " \n\t\u3000",
    "symbol": ".,$+«🎉\u200d", "broken": "\x00\x07\ufffd\ue000", "mark": "\u0301",
}  # fmt: skip


@pytest.mark.parametrize("name", _LETTERS)
def test_characters_are_of_the_class_that_they_look_like(name: str) -> None:
    assert set(_LETTERS) == set(CLASSES)
    counts = count_classes(pl.Series([_LETTERS[name]])).row(0, named=True)
    assert {key: n for key, n in counts.items() if n} == {name: len(_LETTERS[name])}


@given(st.lists(st.text(max_size=30), max_size=8))
@QUICK
def test_every_character_is_counted_once_and_for_its_text(texts: list[str]) -> None:
    counted = count_classes(pl.Series(texts, dtype=pl.String))
    assert counted.height == len(texts)
    for row, text in zip(counted.rows(named=True), texts, strict=True):
        assert sum(row.values()) == len(text)
        assert row == count_classes(pl.Series([text])).row(0, named=True)
        letters = sum(unicodedata.category(c).startswith("L") for c in text)
        assert sum(row[name] for name in SCRIPTS) >= letters - row["broken"]


def test_texts_longer_than_a_chunk_are_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series(["ab1" * 50, "", "字a" * 7, "я" * 200, "x"])
    whole = count_classes(texts)
    monkeypatch.setattr("pipeline.filters.said._CHUNK", 20)
    assert count_classes(texts).rows() == whole.rows()
    assert may_hold_run(texts, 100).tolist() == [False, False, False, True, False]
