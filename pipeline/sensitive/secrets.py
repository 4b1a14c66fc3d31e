"""Keys, tokens and passwords: what opens something.

Formats of tokens are facts of their services; those of detect-secrets are taken where they are strict enough. A token's
text must begin with a known prefix, or stand where something is given to a name such as ``api_key``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import polars as pl

from pipeline.sensitive.spans import Span, Texts, as_series, holding, settled


@dataclass(frozen=True, slots=True)
class Rule:
    """A format. ``anchors``: texts without any of these hold none (no anchors: ``_LOOSE`` tells); group 1 is the secret,
    if there is one."""

    kind: str
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]


def _rule(kind: str, anchors: str, pattern: str, flags: int = 0) -> Rule:
    return Rule(kind, tuple(anchors.split()), re.compile(pattern, flags))


_ARMOUR = r"[A-Z0-9]{0,9} ?[A-Z0-9]{0,9} ?PRIVATE KEY(?: BLOCK)?-----"

#: Formats of our own. A private key is its whole block, a pair of keys both halves, a web token all three parts.
_OWN = (
    _rule("aws", "AKIA ASIA ABIA ACCA", r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _rule(
        "aws",
        "ecret",
        r"(?i)secret_?(?:access_?)?key[\"'\\]{0,3}\s{0,3}[:=]{1,2}>?\s{0,3}[\"'\\]{0,3}([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    ),
    _rule(
        "private_key",
        "PRIVATE",
        rf"-----BEGIN {_ARMOUR}(?:(?:(?!-----).){{64,16384}}?-----END {_ARMOUR}|[\sA-Za-z0-9+/=\\]{{64,16384}})",
        re.DOTALL,
    ),
    _rule("github", "ghp_ gho_ ghu_ ghs_ ghr_", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36}(?!\w)"),
    _rule("github", "github_pat_", r"github_pat_[A-Za-z0-9_]{82}(?!\w)"),
    _rule("openai", "sk-", r"(?<![A-Za-z0-9])sk-(?:proj|svcacct|admin)-[\w-]{40,}", re.ASCII),
    _rule("openai", "T3BlbkFJ", r"sk-[\w-]*[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}(?!\w)", re.ASCII),
    _rule("anthropic", "sk-ant-", r"sk-ant-[a-z]+\d{2}-[\w-]{80,}", re.ASCII),
    _rule("google", "AIza", r"(?<![\w-])AIza[\w-]{35}(?![\w-])", re.ASCII),
    _rule("google", "GOCSPX-", r"(?<![\w-])GOCSPX-[\w-]{28}(?![\w-])", re.ASCII),
    _rule("npm", "npm_", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?!\w)"),
    _rule("hugging_face", "hf_", r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{34}(?!\w)"),
    _rule("jwt", "eyJ", r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}", re.ASCII),
    _rule("telegram", ":AA", r"(?<![\w-])\d{8,10}:AA[\w-]{33}(?![\w-])", re.ASCII),
    _rule("stripe", "k_live_ whsec_", r"(?<![A-Za-z0-9])(?:[rs]k_live_[A-Za-z0-9]{24,99}|whsec_[A-Za-z0-9]{32})(?!\w)"),
    _rule("basic_auth", "://", r"://[^\s:/?#\[\]@\"'<>]{1,64}:([^\s:/?#\[\]@\"'<>]{3,128})@[A-Za-z0-9\[]"),
    _rule("twilio", "", r"(?<![A-Za-z0-9])(?:AC|SK)[0-9a-f]{32}(?![A-Za-z0-9])"),
    _rule("mailchimp", "", r"(?<![A-Za-z0-9])[0-9a-f]{32}-us[0-9]{1,2}(?!\w)"),
)

#: What a name that something secret is given to ends with. Words of other languages are names of columns and settings, too.
_PASSWORD = r"pass(?:word|wd|phrase)|pwd|contrase[nñ]a|passwort|mot_de_passe|senha|密码|口令|пароль"
_KEY = r"(?:api|access|auth|secret|private|encryption|signing|service)[_-]?key|(?:access|auth|api|bearer|refresh|bot)[_-]?token"
_KEY += r"|(?:client|app|consumer|api|jwt|token)[_-]?secret|secret[_-]?token"
_SEPARATOR = r"[\"'\\]{0,3}\s{0,3}(?::=|=>|[:=：])\s{0,3}"
_GIVEN = re.compile(rf"(?:(?P<password>{_PASSWORD})|{_KEY}){_SEPARATOR}", re.IGNORECASE)

#: In quotes anything without blanks is a value; without quotes (settings, command lines) only what no code looks like.
_QUOTED = re.compile(r"\\?[\"']([^\s\"'\\]{8,256})\\?[\"']")
_BARE = re.compile(r"([A-Za-z0-9_/+=!@#%^&*~-]{12,256})(?=[\s\"'\\,;。，<]|\.?$)")

_HEXADECIMAL = re.compile(r"[0-9a-f]{32,}")
#: From a small letter or a sign to a capital.
_CHANGES = re.compile(r"(?<=[a-z!@#%^&*$])[A-Z]")

#: Which texts are looked at for what has no prefix, and for what is given to a name.
_LOOSE = (
    r"(?:AC|SK)[0-9a-f]{32}|[0-9a-f]{32}-us[0-9]|"
    r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27}"
)
_NAMED = rf"(?i)(?:{_PASSWORD}|{_KEY}){_SEPARATOR}"

#: What nobody takes for a secret: words that stand for one, forms to fill in, sequences, one character repeated. Words are of
#: four letters or more, so that long random tokens do not hold them.
_STAND_IN = re.compile(
    r"your|example|sample|dummy|placeholder|change-?_?me|redacted|removed|hidden|insert|replace|fake|some-?_?|mock|"
    r"xxxxx|\*\*\*|\.\.\.|…|[<>{}]|\$[A-Za-z({]|%\(|%s$|^__|abcdef|bcdefg|qwerty|asdfgh|012345|123456|987654|654321|"
    r"(.)\1{5}",
    re.IGNORECASE,
)
#: In what people choose themselves shorter words tell, too.
_WEAK = re.compile(
    r"pass|secret|token|test|admin|user|root|guest|demo|login|hello|welcome|letmein|value|string|null|none|true|false|"
    r"undefined|required|config|self\.|process|params|hunter2|battery|secure|strong|temp|default|contrase|senha|пароль|密码",
    re.IGNORECASE,
)
_WEAK_AND_SHORT = re.compile(r"pwd|key|foo|bar|abc|123|env|get", re.IGNORECASE)
#: Random values longer than this hold words of three letters by chance.
_SHORT = 16
#: Parts of well-known examples of documentation that are no words.
_DOCUMENTED = ("SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", "TJVA95OrM7E2cBab30RMHrHDcEfxjoYZgeFONFh7HgQ")


@cache
def rules() -> tuple[Rule, ...]:
    """All formats: ours and those of detect-secrets."""
    from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
    from detect_secrets.plugins.discord import DiscordBotTokenDetector
    from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
    from detect_secrets.plugins.pypi_token import PypiTokenDetector
    from detect_secrets.plugins.sendgrid import SendGridDetector
    from detect_secrets.plugins.slack import SlackDetector
    from detect_secrets.plugins.square_oauth import SquareOAuthDetector

    taken = (
        ("azure", "AccountKey=", AzureStorageKeyDetector),
        ("discord", "", DiscordBotTokenDetector),
        (
            "gitlab",
            "glpat- gldt- glft- glsoat- glrt- GR1348941 glcbt- glimt- glptt- glagent- gloas-",
            GitLabTokenDetector,
        ),
        ("pypi", "pypi-AgE", PypiTokenDetector),
        ("sendgrid", "SG.", SendGridDetector),
        ("slack", "xoxa- xoxb- xoxp- xoxo- xoxs- xoxr- hooks.slack.com", SlackDetector),
        ("square", "sq0csp-", SquareOAuthDetector),
    )
    theirs = [
        # Their groups are parts of a token, not the token.
        Rule(kind, tuple(anchors.split()), re.compile(f"(?<![A-Za-z0-9])({pattern.pattern})", pattern.flags))
        for kind, anchors, detector in taken
        for pattern in detector.denylist
    ]
    return (*_OWN, *theirs)


#: Kinds of tokens, then what is given to a name.
TOKENS = (
    "anthropic", "aws", "azure", "basic_auth", "discord", "github", "gitlab", "google", "hugging_face", "jwt",
    "mailchimp", "npm", "openai", "private_key", "pypi", "sendgrid", "slack", "square", "stripe", "telegram", "twilio",
)  # fmt: skip
KINDS = (*TOKENS, "password", "key")


def find(texts: Texts, kinds: Collection[str] = KINDS, placeholders: bool = False) -> list[list[Span]]:
    """The secrets of each text, in order, without overlaps. ``placeholders``: also what only stands for one."""
    series = as_series(texts)
    chosen = [rule for rule in rules() if rule.kind in kinds]
    known = [rule for rule in chosen if rule.anchors]
    loose = [rule for rule in chosen if not rule.anchors]
    text = pl.col("text")
    found: dict[int, list[Span]] = {}
    if known:
        anchors = sorted({anchor for rule in known for anchor in rule.anchors})
        for number, text_ in holding(series, text.str.contains_any(anchors)):
            found.setdefault(number, []).extend(_tokens(text_, known))
    if loose:
        for number, text_ in holding(series, text.str.contains(_LOOSE)):
            found.setdefault(number, []).extend(_tokens(text_, loose))
    if "password" in kinds or "key" in kinds:
        for number, text_ in holding(series, text.str.contains(_NAMED)):
            found.setdefault(number, []).extend(_given(text_, kinds))
    spans: list[list[Span]] = [[] for _ in range(len(series))]
    for number, those in found.items():
        text_ = series[number]
        spans[number] = settled(s for s in those if placeholders or not is_placeholder(text_[s.start : s.end], s.kind))
    return spans


def is_placeholder(value: str, kind: str) -> bool:
    """Whether a value only stands for a secret: forms to fill in, examples of documentation, passwords of examples."""
    if kind == "private_key":
        body = re.sub(r"-----[^-]*-----|\\n|\s", "", value)
        return "..." in body or len(set(body)) < 16
    if _STAND_IN.search(value) or any(part in value for part in _DOCUMENTED):
        return True
    chosen_by_people = kind in ("password", "key", "basic_auth")
    weak = chosen_by_people and (_WEAK.search(value) or (len(value) <= _SHORT and _WEAK_AND_SHORT.search(value)))
    return bool(weak) or len(set(value)) < 6


def _tokens(text: str, chosen: Iterable[Rule]) -> Iterator[Span]:
    for rule in chosen:
        if not rule.anchors or any(anchor in text for anchor in rule.anchors):
            for match in rule.pattern.finditer(text):
                yield Span(*match.span(1 if rule.pattern.groups else 0), rule.kind)


def _given(text: str, kinds: Collection[str]) -> Iterator[Span]:
    for name in _GIVEN.finditer(text):
        kind = "password" if name["password"] else "key"
        if kind not in kinds:
            continue
        quoted = _QUOTED.match(text, name.end())
        value = quoted or _BARE.match(text, name.end())
        if value and _mixed(value[1], bare=quoted is None):
            yield Span(*value.span(1), kind)


def _mixed(value: str, bare: bool) -> bool:
    """Whether a value looks chosen at random: letters with digits, or cases that change as in no name. Without quotes also
    both cases, or hexadecimal."""
    letters = any(c.isalpha() for c in value)
    digits = any(c.isdigit() for c in value)
    both = any(c.isupper() for c in value) and any(c.islower() for c in value)
    if bare:
        return letters and digits and (both or _HEXADECIMAL.fullmatch(value) is not None)
    return letters and (digits or (both and len(_CHANGES.findall(value)) >= 3))
