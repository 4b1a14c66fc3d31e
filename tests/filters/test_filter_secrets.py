"""The filter ``secrets`` and the spans that it goes by: what opens something is found whole, what stands for it is not."""

from __future__ import annotations

import random
import string
import subprocess
import sys
from itertools import pairwise

import pytest
from filter_cases import asked, judged, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.filters import parse_filters
from pipeline.sensitive import secrets
from pipeline.sensitive.spans import Span, masked, settled

RANDOM = random.Random(9)


def _of(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(RANDOM.choices(alphabet, k=count))


TOKENS = {
    "aws": "AKIA" + _of(16, string.ascii_uppercase),
    "github": "ghp_" + _of(36),
    "gitlab": "glpat-" + _of(20),
    "google": "AIza" + _of(35),
    "hugging_face": "hf_" + _of(34),
    "anthropic": "sk-ant-api03-" + _of(95),
    "openai": "sk-proj-" + _of(120),
    "slack": f"xoxb-{_of(12, string.digits)}-{_of(24)}",
    "stripe": "sk_live_" + _of(24),
    "sendgrid": f"SG.{_of(22)}.{_of(43)}",
    "twilio": "SK" + _of(32, "0123456789abcdef"),
    "mailchimp": _of(32, "0123456789abcdef") + "-us7",
    "jwt": f"eyJ{_of(30)}.eyJ{_of(60)}.{_of(43)}",
}
KEY = "-----BEGIN EC PRIVATE KEY-----\n" + "\n".join(_of(64) for _ in range(4)) + "\n-----END EC PRIVATE KEY-----"

STAND_INS = (
    "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_" + "x" * 36,
    "api_key = 'YOUR_API_KEY_1234'",
    'password = "yourpassword1"',
    '{"password": "password123"}',
    '{"username": "joe", "password": "Passw0rd!"}',
    "DB_PASSWORD=${DB_PASSWORD_1}",
    "token: <ACCESS-TOKEN-42>",
    "api_key = os.environ['API_KEY']",
    "password = get_password(user1)",
    "postgres://user:password@localhost/db",
    "https://user:${TOKEN}@host/x",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "Your password: it must hold 8 characters.",
    "A header says -----BEGIN RSA PRIVATE KEY----- and then the key follows.",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
)


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_are_found_whole(kind: str) -> None:
    token = TOKENS[kind]
    for text in (token, f"用这个{token}。", f'{{"a": "{token}"}}', f"curl -H 'X: {token}' x"):
        at = text.index(token)
        assert secrets.find([text]) == [[Span(at, at + len(token), kind)]], text


def test_a_private_key_is_its_whole_block() -> None:
    escaped = KEY.replace("\n", "\\n")
    cut_off = KEY[: KEY.index("\n-----END")]
    for key in (KEY, escaped, cut_off):
        assert secrets.find([f"Look:\n{key}"]) == [[Span(6, 6 + len(key), "private_key")]]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('password = "tR7!kq#Zw2"', "password", "tR7!kq#Zw2"),
        ("contraseña: 'tR7!kq#Zw2'", "password", "tR7!kq#Zw2"),
        ('密码："tR7!kq#Zw2"', "password", "tR7!kq#Zw2"),
        ('{\\"passwd\\": \\"tR7!kq#Zw2\\"}', "password", "tR7!kq#Zw2"),
        ("SERVICE_API_KEY=9fQ2xLr8VtB6mYw3", "key", "9fQ2xLr8VtB6mYw3"),
        ("https://deploy:tR7kqZw2@db.internal.org/x", "basic_auth", "tR7kqZw2"),
    ],
)
def test_what_is_given_to_a_name(text: str, kind: str, value: str) -> None:
    at = text.index(value)
    assert secrets.find([text]) == [[Span(at, at + len(value), kind)]]


@pytest.mark.parametrize("text", STAND_INS)
def test_what_stands_for_a_secret_is_none(text: str) -> None:
    assert secrets.find([text]) == [[]]


def test_stand_ins_are_found_where_they_are_asked_for() -> None:
    assert [span.kind for span in secrets.find(STAND_INS[:1], placeholders=True)[0]] == ["aws"]
    talk = asked(STAND_INS[0])
    assert judged("secrets", talk) == [None]
    assert judged("secrets", talk, placeholders=True) == ["secret_aws"]


def test_verdicts_do_not_tell_the_secret() -> None:
    said = [asked(f"Use {token}.") for token in TOKENS.values()]
    found = verdicts("secrets", said)
    assert [found[i].reason for i in range(len(said))] == [f"secret_{kind}" for kind in TOKENS]
    for token, verdict in zip(TOKENS.values(), found.values(), strict=True):
        assert token[:5] not in verdict.detail
        assert f"({len(token)} characters)" in verdict.detail


def test_passwords_are_looked_for_where_they_are_asked_for() -> None:
    talk = asked('password = "tR7!kq#Zw2"')
    assert judged("secrets", talk) == [None]
    assert judged("secrets", talk, kinds=["password"]) == ["secret_password"]
    assert judged("secrets", asked(TOKENS["aws"]), kinds=["password"]) == [None]


def test_different_values_are_counted_of_what_is_looked_at() -> None:
    twice = asked(TOKENS["aws"], TOKENS["aws"])
    both = asked(TOKENS["aws"], TOKENS["github"])
    assert judged("secrets", twice, both, max_count=1) == [None, "secret_aws"]
    read = asked("Thank you.", question=f"My token is {TOKENS['github']}.")
    assert judged("secrets", read) == ["secret_github"]
    assert judged("secrets", read, where="output") == [None]


def test_kinds_are_checked() -> None:
    with pytest.raises(ConfigError, match="githup"):
        parse_filters([{"secrets": {"kinds": ["githup"]}}])


def test_kinds_are_those_of_the_rules() -> None:
    assert {rule.kind for rule in secrets.rules()} == set(secrets.TOKENS)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80), max_size=4), st.sampled_from(sorted(TOKENS)))
@settings(max_examples=60, deadline=None)
def test_spans_lie_in_their_texts_in_order(texts: list[str], kind: str) -> None:
    texts = [*texts, " ".join([*texts, TOKENS[kind]])]
    found = secrets.find(texts)
    assert kind in {span.kind for span in found[-1]}
    for text, spans in zip(texts, found, strict=True):
        assert all(0 <= span.start < span.end <= len(text) for span in spans)
        assert all(a.end <= b.start for a, b in pairwise(spans))


def test_of_spans_that_overlap_the_first_and_longest_stays() -> None:
    spans = [Span(4, 6, "b"), Span(0, 3, "a"), Span(0, 5, "c"), Span(6, 8, "d")]
    assert settled(spans) == [Span(0, 5, "c"), Span(6, 8, "d")]


def test_a_token_that_is_given_to_a_name_is_told_as_the_token() -> None:
    texts = [f'password = "{token}"' for token in TOKENS.values()]
    assert [span.kind for spans in secrets.find(texts) for span in spans] == list(TOKENS)


@given(st.text(max_size=40))
def test_a_mask_shows_a_third_at_most(value: str) -> None:
    shown = masked(value).rpartition("… (")[0]
    assert value.startswith(shown)
    assert len(shown) <= min(4, len(value) / 3)


def test_libraries_are_not_loaded_before_they_are_needed() -> None:
    heavy = "detect_secrets phonenumbers stdnum email_validator ftfy pycld2 py3langid profanex"
    code = f"import sys, pipeline.filters; print(*sorted(set({heavy!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
