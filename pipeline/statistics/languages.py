"""Languages that people speak, by their codes: what a source calls a language may also be Python or C++."""

from __future__ import annotations

import re
from typing import Any

#: ISO 639-1 but for two that are mostly said of programs: ``sh`` (withdrawn) and ``ts``.
_TWO = """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
    en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it
    iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt
    my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl
    sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za
    zh zu
"""

#: ISO 639-3: the same languages but for ``asm``, and others that corpora name often.
_THREE = """
    aar abk afr aka amh ara arg ava ave aym aze bak bam bel ben bis bod bos bre bul cat ces cha che chu chv
    cor cos cre cym dan deu div dzo ell eng epo est eus ewe fao fas fij fin fra fry ful gla gle glg glv grn guj
    hat hau hbs heb her hin hmo hrv hun hye ibo ido iii iku ile ina ind ipk isl ita jav jpn kal kan kas kat kau
    kaz khm kik kin kir kom kon kor kua kur lao lat lav lim lin lit ltz lub lug mah mal mar mkd mlg mlt mon mri
    msa mya nau nav nbl nde ndo nep nld nno nob nor nya oci oji ori orm oss pan pli pol por pus que roh ron run
    rus sag san sin slk slv sme smo sna snd som sot spa sqi srd srp ssw sun swa swe tah tam tat tel tgk tgl tha
    tir ton tsn tso tuk tur twi uig ukr urd uzb ven vie vol wln wol xho yid yor zha zho zul
    ace acm acq aeb als ang apc arb ars ary arz ast awa ayr azb azj ban bcl bem bho bjn bug ceb ckb cmn crh dsb
    dyu ekk fil fon fur fuv gaz grc gsw hak haw hil hne hsb ilo kab kac kam kea khk kmb kmr lij lmo ltg luo lus
    lvs lzh mag mai min mni mos nan nds npi nso ory pag pap pes plt prs quy rmy sat scn sco swh szl taq tpi tum
    tzm umb uzn vec war wuu ydd yue zsm
"""

_CODES = frozenset([*_TWO.split(), *_THREE.split()])
_TAG = re.compile(r"([a-z]{2,3})([-_][a-z0-9]+)*", re.IGNORECASE)


def language_of(stated: Any) -> str | None:
    """The code of the language that a source states, without region and script; None where it is none that people speak."""
    tag = _TAG.fullmatch(stated) if isinstance(stated, str) and len(stated) <= 40 else None
    code = tag[1].lower() if tag else ""
    return code if code in _CODES else None
