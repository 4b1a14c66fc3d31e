from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synth import diversity
from synth.config import DiversityOptions
from synth.diversity import RECALL, Diversity, Duplicate, bands, words_of

STORY = (
    "My neighbour keeps bees behind the old school. Last night a storm broke two of her hives, and this morning half the "
    "street was out with boxes and smoke. We found the queen under a bench, angry but well. By noon all of them were back, "
    "and she gave every helper a jar of dark honey. I have never eaten anything so good on plain bread."
)
OTHER = (
    "The ferry to the island leaves at seven, unless the wind turns. Take the second deck if you get seasick; it moves "
    "less. There is one shop at the harbour that opens late, so bring water. The path to the lighthouse begins at the "
    "yellow gate and takes an hour. Nobody checks tickets on the way back."
)
ENVIRONMENT = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH")}
VOCABULARY = [f"word{i}" for i in range(400)]


def fresh(**options: object) -> Diversity:
    return Diversity(DiversityOptions.model_validate(options))


def jaccard(left: list[str], right: list[str], size: int) -> float:
    ours, theirs = ({tuple(words[i : i + size]) for i in range(len(words) - size + 1)} for words in (left, right))
    return len(ours & theirs) / len(ours | theirs)


@given(st.text(max_size=200), st.lists(st.text(max_size=60), max_size=3))
def test_an_exact_copy_is_always_found(text: str, others: list[str]) -> None:
    seen = fresh()
    for number, other in enumerate(others):
        seen.accept(other, f"other {number}")
    seen.accept(text, "it")
    near = seen.check(text)
    assert near is not None
    assert near.similarity == 1.0


@settings(derandomize=True, deadline=None)
@given(st.integers(60, 300), st.floats(0, 0.1), st.booleans(), st.integers(0, 10_000))
def test_a_text_that_shares_nine_tenths_of_the_shingles_is_found(
    count: int, share: float, replaced: bool, seed: int
) -> None:
    die = random.Random(seed)
    words = die.choices(VOCABULARY, k=count)
    at = die.randrange(count)
    changed = max(0, round(share * count) - 2)
    new = die.choices(VOCABULARY, k=changed) if replaced else []
    near = [*words[:at], *new, *words[at + changed :]]
    assume(jaccard(words, near, 3) >= 0.9 / 1.1)
    seen = fresh()
    seen.accept(OTHER, "other")
    seen.accept(" ".join(words), "it")
    found = seen.check(" ".join(near))
    assert found is not None
    assert found.name == "it"
    assert abs(found.similarity - jaccard(words, near, 3)) < 0.2


@settings(derandomize=True, deadline=None)
@given(st.integers(3, 200), st.integers(3, 200), st.integers(0, 10_000))
def test_unrelated_texts_are_not_near(first: int, second: int, seed: int) -> None:
    die = random.Random(seed)
    left, right = (die.choices(VOCABULARY, k=count) for count in (first, second))
    assume(jaccard(left, right, 3) < 0.2)
    seen = fresh()
    seen.accept(" ".join(left), "it")
    assert seen.check(" ".join(right)) is None


def test_what_only_shares_half_of_its_shingles_passes_the_threshold_that_it_reaches() -> None:
    sentences = STORY.split(". ")
    half = ". ".join(sentences[:3] + OTHER.split(". ")[:2])
    assert 0.25 < jaccard(words_of(STORY), words_of(half), 3) < 0.6
    for threshold, is_near in ((0.7, False), (0.2, True)):
        seen = fresh(threshold=threshold)
        seen.accept(STORY, "story")
        assert (seen.check(half) is not None) == is_near


def test_case_punctuation_line_breaks_and_compatibility_forms_make_no_other_text() -> None:
    seen = fresh()
    seen.accept(STORY, "story")
    assert seen.check(STORY.upper().replace(" ", "\n ").replace(".", "!")) == Duplicate("story", 1.0)
    seen.accept("１２ caf\u00e9s open at nine", "cafe")
    assert seen.check("12 cafe\u0301s open at nine") == Duplicate("cafe", 1.0)


def test_which_of_two_comes_first_decides_which_is_the_copy() -> None:
    longer = f"{STORY} Ask her for some."
    for first, second in ((STORY, longer), (longer, STORY)):
        seen = fresh()
        assert seen.check(first) is None
        seen.accept(first, "first")
        near = seen.check(second)
        assert near is not None
        assert near.name == "first"


def test_the_nearest_is_named_and_of_equals_the_first() -> None:
    seen = fresh()
    seen.accept(f"{STORY} Ask her for some, if you go there on a Sunday.", "longer")
    seen.accept(STORY, "story")
    seen.accept(STORY, "again")
    assert seen.check(STORY) == Duplicate("story", 1.0)


def test_short_texts_are_near_only_to_their_equals() -> None:
    seen = fresh()
    for text in ("Thank you.", "...", "ok"):
        assert seen.check(text) is None
        seen.accept(text, text)
    assert seen.check("thank  YOU") == Duplicate("Thank you.", 1.0)
    assert seen.check("...") == Duplicate("...", 1.0)
    assert seen.check("Thank him.") is None
    assert seen.check("!!!") is None
    assert fresh(shingle=1).check("ok") is None


def test_scripts_without_spaces_are_compared_by_character() -> None:
    seen = fresh()
    seen.accept("昨天晚上下了一场很大的雨，街道上到处都是水，我们只好在家里等到天亮。", "rain")
    near = seen.check("昨天晚上下了一场很大的雨，街道上到处都是水，我们只好在家里等到中午。")
    assert near is not None
    assert near.name == "rain"
    assert seen.check("火车站前面的面包店早上六点开门，星期天休息，老板是一位老太太。") is None


@pytest.mark.parametrize(
    ("text", "end", "other"),
    [
        (
            "เมื่อคืนฝนตกหนักมากจนถนนหน้าบ้านมีน้ำท่วมเราจึงรออยู่ในบ้านจนถึง",
            ("เช้า", "เที่ยง"),
            "ร้านขนมปังหน้าสถานีรถไฟเปิดหกโมงเช้าและปิดวันอาทิตย์",
        ),
        ("ເມື່ອຄືນຝົນຕົກໜັກຫຼາຍຈົນຖະໜົນໜ້າເຮືອນມີນໍ້າຖ້ວມພວກເຮົາລໍຖ້າຢູ່ໃນເຮືອນຈົນຮອດ", ("ເຊົ້າ", "ທ່ຽງ"), "ຮ້ານເຂົ້າຈີ່ເປີດຫົກໂມງແລະປິດວັນທິດ"),
        (
            "យប់មិញមានភ្លៀងធ្លាក់ខ្លាំងណាស់ផ្លូវមុខផ្ទះពេញដោយទឹកយើងរង់ចាំនៅក្នុងផ្ទះរហូតដល់",
            ("ព្រឹក", "ថ្ងៃ"),
            "ហាងនំប៉័ងបើកម៉ោងប្រាំមួយហើយបិទថ្ងៃអាទិត្យ",
        ),
        (
            "မနေ့ညကမိုးအရမ်းရွာလို့အိမ်ရှေ့လမ်းမှာရေတွေပြည့်နေတယ်ကျွန်တော်တို့အိမ်ထဲမှာစောင့်နေခဲ့တယ်",
            ("မနက်", "နေ့လယ်"),
            "ပေါင်မုန့်ဆိုင်ကခြောက်နာရီမှာဖွင့်ပြီးတနင်္ဂနွေပိတ်တယ်",
        ),
    ],
    ids=["Thai", "Lao", "Khmer", "Burmese"],
)
def test_a_near_copy_is_found_in_scripts_that_cut_no_words(text: str, end: tuple[str, str], other: str) -> None:
    seen = fresh()
    seen.accept(text + end[0], "rain")
    near = seen.check(text + end[1])
    assert near is not None
    assert near.name == "rain"
    assert seen.check(other) is None
    assert "".join(words_of(text)) == unicodedata.normalize("NFKC", text)


def test_inputs_are_not_to_be_copied_but_do_not_count_as_accepted() -> None:
    seen = fresh()
    seen.add_reference(STORY, "input 0")
    assert seen.check(STORY) == Duplicate("input 0", 1.0)
    assert seen.check(OTHER) is None
    report = seen.report()
    assert (report["accepted"], report["references"], report["duplicates"]) == (0, 1, 1)
    assert report["distinct"] == {"1": None, "2": None, "3": None}


def test_distinct_n_is_exact_over_all_accepted_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_WAITING", 50)
    die = random.Random(1)
    texts = [" ".join(die.choices(VOCABULARY[:30], k=die.randrange(40))) for _ in range(60)]
    seen = fresh()
    counts = {n: Counter[tuple[str, ...]]() for n in (1, 2, 3)}
    for number, text in enumerate(texts):
        seen.accept(text, str(number))
        words = words_of(text)
        for n, counter in counts.items():
            counter.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    report = seen.report()
    assert report["ngrams"] == {str(n): counter.total() for n, counter in counts.items()}
    assert report["distinct"] == {str(n): round(len(c) / c.total(), 4) for n, c in counts.items()}
    assert json.loads(json.dumps(report)) == report == seen.report()


@pytest.mark.parametrize("permutations", [16, 17, 64, 128, 256])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0])
def test_there_are_bands_for_every_option_that_find_what_is_at_the_threshold(
    threshold: float, permutations: int
) -> None:
    count, size = bands(threshold, permutations)
    assert count * size <= permutations
    assert size == 1 or 1 - (1 - threshold**size) ** count >= RECALL
    seen = fresh(threshold=threshold, permutations=permutations)
    seen.accept(STORY, "story")
    assert seen.check(STORY) == Duplicate("story", 1.0)


def test_another_process_finds_the_same() -> None:
    script = (
        "import json, sys; from synth.config import DiversityOptions; from synth.diversity import Diversity;"
        "texts = json.load(sys.stdin); seen = Diversity(DiversityOptions(threshold=0.1));"
        "[seen.accept(text, str(i)) for i, text in enumerate(texts[:-1])];"
        "near = seen.check(texts[-1]); print(json.dumps([near.name, near.similarity, seen.report()]))"
    )
    half = ". ".join(STORY.split(". ")[:3] + OTHER.split(". ")[:2])
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps([OTHER, STORY, half]),
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**ENVIRONMENT, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert 0.1 < json.loads(said[0])[1] < 1.0


def test_memory_does_not_grow_with_the_length_of_a_text() -> None:
    die = random.Random(2)
    seen = fresh()
    texts = [" ".join(die.choices(VOCABULARY, k=2000)) for _ in range(50)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, text in enumerate(texts):
            seen.add_reference(text, str(number))
        each = (tracemalloc.get_traced_memory()[0] - before) / len(texts)
    finally:
        tracemalloc.stop()
    assert each < 12_000
