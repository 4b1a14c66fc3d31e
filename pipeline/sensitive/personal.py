"""Data of persons that have a form of their own: e-mail addresses, phone numbers, numbers of cards and accounts, IP addresses.

Names and postal addresses have none and are not found. Letters and digits of e-mail addresses are ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Any

import polars as pl

from pipeline.sensitive.spans import Span, Texts, as_series, holding, settled

KINDS = ("email", "phone", "card", "iban", "ip")

#: Without a country code a number is read as one of these countries.
REGIONS = ("US", "GB", "DE", "FR")

#: Which texts are looked at for each kind: these patterns run at once over all texts and let more through than is found.
_DIGITS = r"[0-9](?:[\s().\-/]{{0,4}}[0-9]){{{least},}}"
_LOOKS = {
    "email": r"[A-Za-z0-9]@[A-Za-z0-9]",
    "phone": _DIGITS.format(least=6),
    "card": _DIGITS.format(least=12),
    "iban": r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}",
    "ip": r"[0-9]\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]:[0-9A-Fa-f:]",
}

_LOCAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}$")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,18}(?![A-Za-z0-9_(])")

#: Ends of names of files and of members of code, which look like domains after an ``@``.
_NO_DOMAIN = frozenset(
    {
        "png", "jpg", "jpeg", "gif", "svg",
        "webp", "ico", "css", "js", "jsx",
        "ts", "tsx", "json", "html", "xml",
        "yaml", "yml", "txt", "class",
    }
)  # fmt: skip

#: Domains of examples, and those that writers of examples take instead.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local|internal)(?:\.[a-z]{2,3}){0,2}$|"
    r"^(?:[a-z0-9-]+\.)*(?:(?:your|example|sample|fake|dummy)[a-z0-9-]*|(?:my|some|any|test)-?(?:company|domain|site|website|"
    r"email|mail|business|store|shop|app|where|host|server|org)?)\.[a-z.]+$|"
    r"^(?:[a-z0-9-]+\.)*(?:company|companyname|domain|email|mailserver|website|site|host|server|provider|organization|business|"
    r"acme|abc|xyz|xxx|foo|bar|foobar|contoso|university|school|hotel|store|shop|mycompany|techcorp|abccorp)"
    r"\.(?:com|org|net|edu|io|co|gov)$"
)
#: Names before the ``@`` that are nobody's, or those of an office.
_NOBODY = re.compile(
    r"^(?:(?:john|jane)[._-]?(?:doe|smith)|user|username|name|test|testing|tester|example|sample|email|e-?mail|me|you|someone|"
    r"somebody|foo|bar|foobar|abc|xyz|first(?:name)?[._-]?last(?:name)?|recipient|sender|alice|bob|git|admin|administrator|"
    r"info|support|contact|help|helpdesk|sales|service|hello|office|press|team|no-?reply|do-?not-?reply|postmaster|webmaster|"
    r"hostmaster|root|customer(?:service|care|support)?|your[a-z._-]*)\d{0,4}$"
)

#: Digits with what people write between them, as many as a phone number has.
_NUMBER = re.compile(r"[+(\d](?:(?:[ \u00a0]?[().\-/]{1,2}[ \u00a0]?|[ \u00a0])?\d){6,17}", re.ASCII)
_BEFORE_NUMBER = re.compile(r"[\w.,/=#_\-]$")
_AFTER_NUMBER = re.compile(r"[\d\-\w]|[.,]\d")
#: Words that phone numbers stand behind.
_PHONE_CUE = re.compile(
    r"(?i)(?:tel|phone|call|fax|mobil|cell|whats|sms|text|contact|reach|dial|ring|handy|ruf|appel|num[eé]ro|"
    r"电话|手机|联系|拨|電話|携帯|전화|тел|звон|هاتف|اتصل|फ़ोन)[^\n]{0,30}$"
)
_DATE = re.compile(
    r"^\(?(?:19|20)\d\d[-/. ]?[01]\d[-/. ]?[0-3]\d(?:\D|$)|^[0-3]?\d[-/. ][0-3]?\d[-/. ](?:19|20)\d\d(?:\D|$)"
)
#: Numbers that regulators keep for films and books, in international form, and those that nobody has.
_FICTIONAL = re.compile(
    r"^\+1\d{3}555\d{4}$|^\+1555|"
    r"^\+44(?:1632960|7700900|2079460|113496|114496|115496|116496|117496|118496|121496|131496|141496|151496|161496|1914980|"
    r"2890180|2920180|8081570|3069990)\d{3}$|"
    r"^\+49(?:3023125|6990009|4066969|2214710|8999998)\d{3}$|^\+49(?:17139200\d\d|176040690\d\d|15228817386|15228895456|15254599371)$|"
    r"^\+33(?:19900|26191|35301|46571|53649|63998)\d{4}$|"
    r"1234567|2345678|3456789|7654321|9876543|(\d)\1{5}"
)

_CARD = re.compile(r"\d(?:\d{12,18}|\d{3}(?:[ -]\d{4}){3}|\d{3}[ -]\d{6}[ -]\d{5})(?![\w\-]|\.\d)", re.ASCII)
_BEFORE_CARD = re.compile(r"[\w/=.\-]$")
_CARD_CUE = re.compile(
    r"(?i)(?:card|visa|master|amex|american express|karte|carte|tarjeta|cart[aã]o|卡|カード|карт)[^\n]{0,40}$"
)
#: Issuers: what numbers begin with, and their lengths.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|2720\d{12}|3[47]\d{13}|6011\d{12}|64[4-9]\d{13}|"
    r"65\d{14}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17}"
)
#: Numbers for testing that have more than four different digits.
_TEST_CARDS = frozenset(
    {
        "4012888888881881", "371449635398431", "378282246310005", "378734493671000", "30569309025904", "38520000023237",
        "6011000990139424", "3530111333300000", "3566002020360505", "5200828282828210", "4000056655665556",
        "2223003122003222", "6200000000000005", "4539578763621486", "5454545454545454", "4532015112830366",
        "5425233430109903", "2222420000001113", "4917484589897107", "374245455400126",
    }
)  # fmt: skip

_IBAN = re.compile(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])", re.ASCII)
_BEFORE_IBAN = re.compile(r"[A-Za-z0-9]$")
#: Those of the examples of banks and of encyclopedias.
_EXAMPLE_IBANS = frozenset(
    {
        "DE89370400440532013000", "GB29NWBK60161331926819", "GB82WEST12345698765432", "GB33BUKB20201555555555",
        "NL91ABNA0417164300", "FR1420041010050500013M02606", "FR7630006000011234567890189", "CH9300762011623852957",
        "ES9121000418450200051332", "IT60X0542811101000000123456", "PL61109010140000071219812874", "BE68539007547034",
        "AT611904300234573201", "SE4550000000058398257466", "NO9386011117947", "DK5000400440116243",
    }
)  # fmt: skip

_IP = re.compile(
    r"(?<![\w.:-])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)|(?:[0-9A-Fa-f]{1,4}:){2,7}:?(?:[0-9A-Fa-f]{1,4}:?){1,7}(?![\w:]))",
    re.ASCII,
)


def find(
    texts: Texts,
    kinds: Collection[str] = KINDS[:4],
    regions: Sequence[str] = REGIONS,
    allow: Collection[str] = (),
    placeholders: bool = False,
) -> list[list[Span]]:
    """The data of persons in each text, in order, without overlaps.

    ``regions``: countries (ISO 3166) of phone numbers without a country code. ``allow``: domains whose addresses (also those
    below them) are none. ``placeholders``: also what only stands for data: example domains, numbers of films, test cards.
    """
    series = as_series(texts)
    found: list[list[Span]] = [[] for _ in range(len(series))]
    text = pl.col("text")
    for kind in (k for k in KINDS if k in kinds):
        for number, text_ in holding(series, text.str.contains(_LOOKS[kind])):
            spans: Iterator[Span]
            if kind == "email":
                spans = _emails(text_, frozenset(allow), placeholders)
            elif kind == "phone":
                spans = _phones(text_, tuple(regions), placeholders)
            else:
                spans = {"card": _cards, "iban": _ibans, "ip": _ips}[kind](text_, placeholders)
            found[number] += spans
    return [settled(spans) if len(spans) > 1 else spans for spans in found]


def _emails(text: str, allow: frozenset[str], placeholders: bool) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(0, at - 64), at)
        domain = _DOMAIN.match(text, at + 1)
        if local and domain and _is_email(local[0], domain[0], text[domain.end() : domain.end() + 1]):
            host = domain[0].lower()
            allowed = any(host == d or host.endswith("." + d) for d in allow)
            if not allowed and (placeholders or not _is_nobodys(local[0].lower(), host)):
                yield Span(local.start(), domain.end(), "email")
        at = text.find("@", at + 1)


def _is_nobodys(local: str, host: str) -> bool:
    return bool(_EXAMPLE_DOMAIN.search(host) or _NOBODY.search(local))


def _is_email(local: str, domain: str, after: str) -> bool:
    """``after``: the character behind; a colon tells a place on another machine (``git@host:path``)."""
    if domain.rpartition(".")[2].lower() in _NO_DOMAIN or (local == "git" and after == ":"):
        return False
    return _valid_email(f"{local}@{domain}")


@lru_cache(maxsize=1 << 14)
def _valid_email(address: str) -> bool:
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        # Domains for special use are no addresses of people, but placeholders may be asked for.
        return "special-use" in str(error)
    return True


def _free_standing(text: str, pattern: re.Pattern[str], before: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Matches with nothing of ``before`` at their left. (A look-behind in the pattern would cost much more time.)"""
    at = 0
    while match := pattern.search(text, at):
        start = match.start()
        if start and before.search(text, start - 1, start):
            at = start + 1
        else:
            yield match
            at = match.end()


def _phones(text: str, regions: tuple[str, ...], placeholders: bool) -> Iterator[Span]:
    for match in _free_standing(text, _NUMBER, _BEFORE_NUMBER):
        value = match[0]
        if _AFTER_NUMBER.match(text, match.end()) or re.fullmatch(r"\d+\.\d+", value) or _DATE.match(value):
            continue
        start = match.start()
        if value.isdigit() and not _PHONE_CUE.search(text, max(0, start - 40), start):
            continue  # digits alone are a phone number only where something says so
        for first, last, number, personal in _numbers(value, regions):
            if placeholders or (personal and not _FICTIONAL.search(number)):
                yield Span(start + first, start + last, "phone")


@lru_cache(maxsize=1 << 16)
def _numbers(value: str, regions: tuple[str, ...]) -> tuple[tuple[int, int, str, bool], ...]:
    """Phone numbers in a short text: start, end, the international form, whether it may be a person's."""
    import phonenumbers
    from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, PhoneNumberType

    offices = {
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.UAN,
    }
    found: dict[tuple[int, int], tuple[str, bool]] = {}
    # A number with a country code is the same for every region.
    for region in regions[:1] if value.startswith("+") else regions:
        for match in PhoneNumberMatcher(value, region, leniency=Leniency.STRICT_GROUPING):
            number = phonenumbers.format_number(match.number, PhoneNumberFormat.E164)
            personal = phonenumbers.number_type(match.number) not in offices
            found.setdefault((match.start, match.end), (number, personal))
    return tuple((*place, *what) for place, what in found.items())


def _cards(text: str, placeholders: bool) -> Iterator[Span]:
    from stdnum import luhn

    for match in _free_standing(text, _CARD, _BEFORE_CARD):
        digits = re.sub("[ -]", "", match[0])
        if not _ISSUER.fullmatch(digits) or not luhn.is_valid(digits):
            continue
        start = match.start()
        if len(digits) not in (15, 16) and not _CARD_CUE.search(text, max(0, start - 60), start):
            continue
        stand_in = len(set(digits)) <= 4 or digits in _TEST_CARDS or "1234567" in digits or "00000000" in digits
        if placeholders or not stand_in:
            yield Span(*match.span(), "card")


def _ibans(text: str, placeholders: bool) -> Iterator[Span]:
    for match in _free_standing(text, _IBAN, _BEFORE_IBAN):
        value = match[0]
        while value and not _is_iban(value):
            value = value.rpartition(" ")[0]  # a word of capitals may stand behind
        if value and (placeholders or value.replace(" ", "") not in _EXAMPLE_IBANS):
            yield Span(match.start(), match.start() + len(value), "iban")


@cache
def _iban_module() -> Any:
    from stdnum import iban

    return iban


def _is_iban(value: str) -> bool:
    return bool(_iban_module().is_valid(value))


def _ips(text: str, placeholders: bool) -> Iterator[Span]:
    for match in _IP.finditer(text):
        try:
            address = ip_address(match[0])
        except ValueError:
            continue
        if placeholders or address.is_global:
            yield Span(*match.span(), "ip")
