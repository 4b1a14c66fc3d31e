"""Secrets and data of persons: recall on planted ones by kind, false alarms on clean conversations, speed.

    .venv/bin/python benchmarks/sensitive.py [--each N] [--clean N] [--records DIR] [--read] [--save FILE]

Plants are made here, by the formats' own rules (checksums, valid numbers of countries), and stand in sentences of three
languages, JSON, a command line and settings; the finders know neither. A plant is found if a span covers nine tenths of it.
Clean are the first conversations of three corpora (tau-bench, glaive in two languages, GSM8K): what is found there is a false
alarm, or an invented person's; `--read` prints all of it, to be read. Both are measured through the functions that filters
and masking call. The exit code is 1 where the recall of a kind is below 95%, or more than 1% of the clean conversations are
taken by the filters as they are.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import string
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # speed is told for one core

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import polars as pl  # noqa: E402

from benchmarks.corpus import convert, machine  # noqa: E402
from pipeline.filters import FILTERS  # noqa: E402
from pipeline.filters.talks import Talks, read_talks  # noqa: E402
from pipeline.sensitive import Span, personal, secrets  # noqa: E402

CORPORA = ROOT.parent / "shared" / "corpora"
NAMES = ("openai-tau-bench-airline", "sharegpt-glaive-toolcall", "math-gsm8k")
RECALL, ALARMS = 0.95, 0.01

CARRIERS = (
    "Sure, use this: {} and tell me if it works.",
    "My settings are\n{}\nwhy does it fail?",
    '{{"role": "user", "content": "{}"}}',
    "请联系 {} 谢谢",
    "Bitte an {} senden.",
)
_ALNUM, _HEX = string.ascii_letters + string.digits, "0123456789abcdef"

Make = Callable[[random.Random], str]


def _of(alphabet: str, count: int) -> Make:
    return lambda rng: "".join(rng.choices(alphabet, k=count))


def _after(prefix: str, *made: Make) -> Make:
    return lambda rng: prefix + "".join(make(rng) for make in made)


def _checked(prefix: str) -> Make:
    """Thirty random characters and their checksum, as tokens of GitHub and npm have it."""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase

    def make(rng: random.Random) -> str:
        body = _of(_ALNUM, 30)(rng)
        rest, end = zlib.crc32(body.encode()), ""
        while rest:
            end, rest = digits[rest % 62] + end, rest // 62
        return prefix + body + end.rjust(6, "0")

    return make


def _jwt(rng: random.Random) -> str:
    payload = json.dumps({"sub": _of(string.digits, 10)(rng), "name": "x", "iat": rng.randrange(10**9)}).encode()
    pieces = (b'{"alg":"HS256","typ":"JWT"}', payload, rng.randbytes(32))
    return ".".join(base64.urlsafe_b64encode(piece).decode().rstrip("=") for piece in pieces)


def _private_key(rng: random.Random) -> str:
    lines = "\n".join(base64.b64encode(rng.randbytes(48)).decode() for _ in range(12))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"


_WORD, _AWS_ID = _ALNUM + "_-", _after("AKIA", _of(string.ascii_uppercase + "234567", 16))
SECRETS: dict[str, tuple[Make, str]] = {
    # The kind, what makes the secret, what it stands in ("{}": alone).
    "anthropic": (_after("sk-ant-api03-", _of(_WORD, 93), lambda _: "AA"), "{}"),
    "aws": (_AWS_ID, "{}"),
    "aws, the secret half": (_of(_ALNUM + "/+", 40), "aws_access_key_id = AKIA5CPXKQ7RTWZB2DME\naws_secret_access_key = {}"),
    "azure": (_of(_ALNUM + "+/", 86), "AccountName=a;AccountKey={}=="),
    "basic_auth": (_of(_ALNUM, 16), "https://deploy:{}@db.internal.org/x"),
    "github": (_checked("ghp_"), "{}"),
    "gitlab": (_after("glpat-", _of(_WORD, 20)), "{}"),
    "google": (_after("AIza", _of(_WORD, 35)), "{}"),
    "hugging_face": (_after("hf_", _of(_ALNUM, 34)), "{}"),
    "jwt": (_jwt, "{}"),
    "key": (_of(_HEX, 32), '"api_key": "{}"'),
    "key, a setting": (_of(_ALNUM, 40), "SERVICE_API_KEY={}"),
    "npm": (_checked("npm_"), "{}"),
    "openai": (_after("sk-", _of(_ALNUM, 20), lambda _: "T3BlbkFJ", _of(_ALNUM, 20)), "{}"),
    "openai, of a project": (_after("sk-proj-", _of(_WORD, 74), lambda _: "T3BlbkFJ", _of(_WORD, 74)), "{}"),
    "password": (_of(_ALNUM + "!#%", 14), 'password = "{}"'),
    "private_key": (_private_key, "{}"),
    "pypi": (_after("pypi-AgEIcHlwaS5vcmc", _of(_WORD, 150)), "{}"),
    "sendgrid": (_after("SG.", _of(_WORD, 22), lambda _: ".", _of(_WORD, 43)), "{}"),
    "slack": (_after("xoxb-", _of("123456789", 12), lambda _: "-", _of("123456789", 12), lambda _: "-", _of(_ALNUM, 24)), "{}"),
    "stripe": (_after("sk_live_", _of(_ALNUM, 24)), "{}"),
    "telegram": (_after("", _of("123456789", 10), lambda _: ":AA", _of(_WORD, 33)), "{}"),
}  # fmt: skip


def _email(rng: random.Random) -> str:
    name = rng.choice(("anna", "li.wei", "j.brandt", "maria_k", "o-brien", "t.schulz+news", "x.y.z"))
    host = rng.choice(("gmail.com", "mail.uni-kl.de", "firma-nord.co.uk", "posta.com.tr", "qq.com", "proton.me"))
    return f"{name}{rng.randrange(99)}@{host}"


def _phone(regions: Sequence[str], form: str) -> Make:
    def make(rng: random.Random) -> str:
        import phonenumbers as pn

        while True:
            type_ = rng.choice([pn.PhoneNumberType.MOBILE, pn.PhoneNumberType.FIXED_LINE])
            example = pn.example_number_for_type(rng.choice(regions), type_)
            assert example is not None
            # The examples of +1 are numbers of films (555): another exchange is planted.
            anew = 7 if example.country_code == 1 else 5
            digits = str(example.national_number)[:-anew] + _of(string.digits, anew)(rng)
            number = pn.PhoneNumber(country_code=example.country_code, national_number=int(digits))
            if not pn.is_valid_number(number):
                continue
            if form == "dashes":
                return f"{digits[:3]}-{digits[3:6]}-{digits[6:]}"
            return pn.format_number(number, getattr(pn.PhoneNumberFormat, form))

    return make


def _card(rng: random.Random) -> str:
    from stdnum import luhn

    prefix = rng.choice(("4", "51", "55", "37", "6011"))
    digits = prefix + _of(string.digits, (15 if prefix == "37" else 16) - 1 - len(prefix))(rng)
    digits += luhn.calc_check_digit(digits)
    cuts = (0, 4, 10, 15) if prefix == "37" else (0, 4, 8, 12, 16)
    return rng.choice(("", " ", "-")).join(digits[a:b] for a, b in pairwise(cuts))


def _iban(rng: random.Random) -> str:
    country, bank = rng.choice(
        (
            ("DE", _of(string.digits, 18)(rng)),
            ("GB", _of(string.ascii_uppercase, 4)(rng) + _of(string.digits, 14)(rng)),
            ("NL", "ABNA" + _of(string.digits, 10)(rng)),
            ("CH", _of(string.digits, 17)(rng)),
            ("PL", _of(string.digits, 24)(rng)),
        )
    )
    number = int("".join(str(int(c, 36)) for c in f"{bank}{country}00"))
    whole = f"{country}{98 - number % 97:02}{bank}"
    return whole if rng.random() < 0.5 else " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))


WORLD = ("US", "DE", "GB", "FR", "CN", "IN")
PERSONAL: dict[str, tuple[Make, str]] = {
    "email": (_email, "{}"),
    "phone, E.164": (_phone(WORLD, "E164"), "{}"),
    "phone, international": (_phone(WORLD, "INTERNATIONAL"), "{}"),
    **{f"phone, as in {region}": (_phone((region,), "NATIONAL"), "{}") for region in personal.REGIONS},
    "phone, with dashes": (_phone(("US",), "dashes"), "{}"),
    "card": (_card, "{}"),
    "iban": (_iban, "{}"),
}

Find = Callable[[Sequence[str]], list[list[Span]]]


def recall(plants: dict[str, tuple[Make, str]], find: Find, each: int, rng: random.Random) -> dict[str, Any]:
    """The share of plants that are found, by kind, and those that are not."""
    figures: dict[str, Any] = {}
    for kind, (make, stands_in) in plants.items():
        values = [make(rng) for _ in range(each)]
        texts = [CARRIERS[i % len(CARRIERS)].format(stands_in.format(value)) for i, value in enumerate(values)]
        missed = []
        for value, text, spans in zip(values, texts, find(texts), strict=True):
            start = text.index(value)
            end, wanted = start + len(value), kind.partition(",")[0]
            covered = max((min(s.end, end) - max(s.start, start) for s in spans if s.kind == wanted), default=0)
            if covered < 0.9 * len(value):
                missed.append(text)
        figures[kind] = {"recall": 1 - len(missed) / each, "missed": missed[:5]}
    return figures


def clean_talks(folder: Path, limit: int) -> list[Talks]:
    """The first conversations of the clean corpora, in batches; corpora that are not in the folder are converted into it."""
    batches: list[Talks] = []
    for name in NAMES:
        if not (folder / name / "convert" / "manifest.json").exists():
            convert(CORPORA / name, folder / name, "turns")
        shards = sorted((folder / name / "convert").glob("records-*.parquet"))
        for talks in (batch for shard in shards for batch in read_talks(shard)):
            left = limit - sum(map(len, batches))
            batches.append(talks.without(set(range(left, len(talks)))))
    return batches


def alarms(batches: Sequence[Talks], name: str, **params: Any) -> dict[str, Any]:
    """What a filter takes of clean conversations, by corpus and reason."""
    chosen, taken = FILTERS[name].Params(**params), Counter[str]()
    for talks in batches:
        corpora = talks.conversations["corpus"]
        taken.update(f"{corpora[i]}: {v.reason}" for i, v in FILTERS[name].judge(talks, chosen).items())
    return {"taken": taken.total(), "by corpus": dict(taken)}


def speed(texts: pl.Series, find: Callable[[pl.Series], object]) -> float:
    """MB of text a second of one core; the best of three."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        find(texts)
        seconds.append(time.process_time() - started)
    return float(texts.str.len_bytes().sum()) / 1e6 / min(seconds)


def main() -> int:
    """Plants, measures, prints, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=100, help="plants of each kind")
    parser.add_argument("--clean", type=int, default=1000, help="clean conversations")
    parser.add_argument("--records", type=Path, help="converted corpora lie here, or are left here")
    parser.add_argument("--read", action="store_true", help="print all that is found in clean conversations")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--save", type=Path, help="write the figures here")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    found = {
        **recall(SECRETS, secrets.find, options.each, rng),
        **recall(PERSONAL, personal.find, options.each, rng),
    }
    for kind, figures in found.items():
        print(f"{kind:24} {figures['recall']:7.1%}", *(f"   missed: {text!r}" for text in figures["missed"]), sep="\n")
    with tempfile.TemporaryDirectory() as scratch:
        batches = clean_talks(options.records or Path(scratch), options.clean)
    count = sum(map(len, batches))
    taken = {
        "secrets": alarms(batches, "secrets"),
        "secrets, with passwords": alarms(batches, "secrets", kinds=secrets.KINDS),
        "personal": alarms(batches, "personal"),
        "personal, with placeholders": alarms(batches, "personal", placeholders=True),
    }
    for name, figures in taken.items():
        print(f"{name}: takes {figures['taken']} of {count:,} clean conversations {figures['by corpus']}")
    texts = pl.concat([talks.parts["text"] for talks in batches])
    if options.read:
        for find in (secrets.find, personal.find):
            for text, spans in zip(texts, find(texts), strict=True):
                for span in spans:
                    print(f"  {span.kind}: {text[max(0, span.start - 40) : span.end + 10]!r}")
    speeds = {"secrets": speed(texts, secrets.find), "personal": speed(texts, personal.find)}
    print(*(f"{name}: {value:.0f} MB/s of a core" for name, value in speeds.items()), sep="\n")
    if options.save:
        shown = {kind: figures["recall"] for kind, figures in found.items()}
        said = {"recall": shown, "clean conversations": count, "taken": taken, "MB/s of a core": speeds}
        command = f"benchmarks/sensitive.py --each {options.each} --clean {options.clean} --seed {options.seed}"
        options.save.write_text(json.dumps({**machine(command), **said}, indent=2, ensure_ascii=False) + "\n")
    low = [kind for kind, figures in found.items() if figures["recall"] < RECALL]
    high = [name for name in ("secrets", "personal") if taken[name]["taken"] > ALARMS * count]
    print(*(f"too low: {kind}" for kind in low), *(f"too many alarms: {name}" for name in high), sep="\n")
    return 1 if low or high else 0


if __name__ == "__main__":
    sys.exit(main())
