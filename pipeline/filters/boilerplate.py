"""Answers that say nothing of their own: refusals, talk about being a language model, adverts and notices of web pages.

Not on by default, and best used with ``action: flag``: a set may consist of refusals on purpose (safety training), where what
looks like a fault is the lesson. The lists below are short and know a few languages; another language's refusals are not
seen. They look for a refusal to *help*: "I could not find the reservation", "I cannot cancel this flight" and "this proof
cannot be completed" are honest results, not refusals; nor is it one to say that there is no tool for a wish.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.said import first_reasons, outside_code, percent, said
from pipeline.filters.talks import Talks, Verdict

NAME = "boilerplate"
ABOUT = "conversations whose answers are refusals, talk about being a language model, adverts or notices of web pages"

#: Refusals to help, as answers open with them. Each is one language's; apostrophes may be curly or missing.
_REFUSALS = (
    # English
    r"\bI(?:['’]m| am)(?: (?:very|so|really|truly|deeply))? sorry,?(?: but)? I (?:can['’]?t|can ?not|won['’]?t|will not"
    r"|am (?:not able|unable) to|['’]m (?:not able|unable) to)"
    r" (?:help|assist|comply|fulfill?|engage|discuss|support|participate|satisfy|(?:do|answer) (?:that|this))\b",
    r"\bI(?: can['’]?t| can ?not| won['’]?t| will not|['’]m (?:not able|unable) to| am (?:not able|unable) to)"
    r" (?:help|assist)(?: you)? (?:with|in) (?:that|this|your request|such|creating|writing|making|planning|anything)\b",
    r"\bI (?:can['’]?t|can ?not|won['’]?t|am unable to) (?:comply with|fulfill?) (?:this|that|your|such|the request)\b",
    r"\bI must (?:decline|refuse)(?: to (?:help|assist|answer|provide|comply)|[ .,])",
    r"\b(?:Sorry|Unfortunately|I apologi[sz]e),?(?: but)? I (?:can['’]?t|can ?not|won['’]?t|am unable to|['’]m unable to)"
    r" (?:help|assist|comply|fulfill?)\b",
    # Chinese, Japanese, Korean
    r"(?:抱歉|对不起|對不起|很遗憾)[，,。！!]?\s*(?:但)?我?(?:无法|不能|無法)(?:帮助|协助|提供帮助|满足|回答|回應|回应|幫助|協助|完成)"
    r"(?:你|您|这|那|該|该|此|這|$|[，。])",
    r"申し訳(?:ありません|ございません)(?:が|けれど)、?[^。]{0,20}(?:お手伝い|お答え|ご協力|お応え)(?:することは)?(?:でき(?:ません|かねます)|いたしかねます)",
    r"죄송(?:합니다|하지만)[^.]{0,20}(?:도와드릴|도움을 드릴|답변(?:을 )?드릴|답변할) 수 없",
    # Spanish, Portuguese, Italian, French
    r"\bLo siento,?(?: mucho,?)?(?: pero)? no puedo (?:ayudar|asistir|cumplir|responder a (?:eso|esa|esta))",
    r"\b(?:Desculpe|Lamento|Sinto muito),?(?: mas)?(?: eu)? não posso"
    r" (?:ajudar|atender|cumprir|responder a (?:isso|essa|esta))",
    r"\bMi dispiace,?(?: ma)? non posso (?:aiutar|assister|soddisfare|rispondere a quest)",
    r"\b(?:Je suis désolée?|Désolée?),?(?: mais)? je ne (?:peux|puis) pas (?:vous |t['’])?"
    r"(?:aider|assister|répondre à (?:cette|votre|ta))",
    # German, Dutch, Polish, Russian
    r"\b(?:Es )?tut mir leid,?(?: aber)?(?: dabei| damit)?(?: ich)? kann(?: ich)?(?: (?:Ihnen|dir|euch))?(?: leider)?"
    r"(?: dabei| damit| hierbei| bei dieser \w+)? nicht (?:weiter)?helfen\b",
    r"\bLeider kann ich (?:Ihnen |dir |euch )?(?:dabei|damit|hierbei|bei dieser \w+) nicht (?:weiter)?helfen\b",
    r"\bHet spijt me,?(?: maar)? ik kan (?:je|u)? ?(?:hier|daar|hierbij|daarbij)(?:mee|bij)? niet (?:mee )?helpen",
    r"\bPrzykro mi,?(?: ale)? nie mogę (?:ci |Ci |Panu |Pani )?(?:w tym )?pomóc",
    r"(?:Извините|Простите|К сожалению),?(?: но)? я не могу (?:помочь|ответить на (?:этот|ваш)|выполнить (?:этот|эту|ваш))",
    # Arabic, Hindi, Turkish
    r"(?:آسف|عذرا|عذرًا|أعتذر)[،,]?\s*(?:لكن|ولكن)?(?:ني)?\s*لا (?:أستطيع|يمكنني) (?:مساعدت|المساعدة|تقديم المساعدة)",
    r"(?:क्षमा करें|माफ़ कीजिए|मुझे खेद है),?\s*(?:लेकिन )?मैं [^।]{0,40}(?:मदद|सहायता) नहीं कर सक",
    r"Üzgünüm,?(?: ama| ancak)? (?:bu konuda |size |sana ){0,2}yardımcı olam",
)

#: Where a model speaks of itself instead of the matter.
_ASSISTANT_TALK = (
    r"\b(?:As|I am|I['’]m|Being) (?:just |only |merely )?an? (?:AI|artificial intelligence|large|text-based)"
    r"(?: AI)?[ -](?:language|text|chat)[ -]?model\b",
    r"\bAs an (?:AI|artificial intelligence)(?: (?:assistant|chatbot|model|system))?,? I"
    r" (?:do ?n[o'’]t|am not|can ?not|can['’]t|don['’]t|lack)\b",
    r"\bAs a (?:large )?language model\b",
    r"\b(?:my (?:knowledge|training) cut-?off|as of my last (?:knowledge )?update|my training data only goes)\b",
    r"作为一(?:个|款)(?:AI|人工智能|大型)(?:语言)?(?:模型|助手|程序)|作為一個(?:AI|人工智慧)(?:語言)?(?:模型|助手)",
    r"(?:AI|人工知能|大規模)言語モデルとして|(?:AI|인공지능|대규모) ?언어 ?모델(?:로서|이기)",
    r"\bComo (?:un )?(?:modelo de lenguaje|modelo de linguagem|um modelo de linguagem|inteligencia artificial,)",
    r"\bCome modello (?:linguistico|di linguaggio)\b|\bEn tant que (?:modèle de lang(?:age|ue)|IA,|intelligence artificielle,)",
    r"\bAls (?:ein )?(?:KI[- ]|großes |künstliche[sr]? )?(?:Sprachmodell|KI-Modell|AI-taalmodel|taalmodel)\b",
    r"\bJako (?:duży )?model językowy\b|Как (?:языковая модель|ИИ-модель|искусственный интеллект, я)",
    r"(?:بصفتي|باعتباري|كوني) نموذج(?:ا|ًا)? ?(?:لغة|لغوي)|एक (?:एआई|AI) भाषा मॉडल के रूप में|Bir (?:yapay zeka )?dil modeli olarak",
)

#: Lines that come from web pages, not from a conversation.
_WEB = (
    r"\b(?:click|tap) (?:here|below|the link below) to"
    r" (?:subscribe|sign up|buy|order|download|learn more|read more|unsubscribe)\b",
    r"\b(?:subscribe to|sign up for) (?:our|my|the) (?:free )?(?:newsletter|mailing list|channel)\b",
    r"\b(?:this|our) (?:web)?site uses cookies\b|\bwe (?:and our partners )?use cookies\b|\baccept (?:all )?cookies\b",
    r"\bby continuing to (?:use|browse) (?:this|our|the) (?:web)?site\b",
    r"\b(?:all rights reserved|terms (?:of (?:use|service)|and conditions) ?[|·•] ?privacy policy)\b",
    r"\b(?:share|like) (?:this (?:post|article|page)|us) on (?:facebook|twitter|x|linkedin)\b",
    r"\bleave a (?:comment|reply) below\b|\bskip to (?:main )?content\b|\benable javascript\b",
    r"\b(?:limited[- ]time offer|buy now and save|free shipping on orders|use (?:promo|coupon) code)\b",
    r"\b(?:wir verwenden|diese (?:web)?seite verwendet|diese website (?:nutzt|benutzt)) cookies\b|\balle rechte vorbehalten\b",
    r"\b(?:utilizamos|usamos|este sitio (?:web )?utiliza) cookies\b|\btodos los derechos reservados\b",
    r"\b(?:nous utilisons|ce site utilise) des cookies\b|\btous droits réservés\b|\btodos os direitos reservados\b",
    r"(?:本网站|我们)使用\s*cookies?|版权所有|点击(?:这里|此处)(?:订阅|注册|下载)|关注我们的公众号",
    r"(?:мы|этот сайт) использу(?:ем|ет) (?:файлы )?cookie|все права защищены",
)

#: What makes a lesson of it: a model that has no tool for the wish says so, one that is asked who it is answers.
_HONEST = (
    r"\b(?:capabilit(?:y|ies)|functionalit(?:y|ies)|functions?|tools?|external tasks?)\b|能力|功能|機能|기능"
    r"|\b(?:capacidad|función|herramienta|Funktion|Fähigkeit|Werkzeug|fonction|capacité|outil)",
    r"\b(?:my name is|by the name|call me|known as|(?:trained|developed|created|built|made) (?:by|at))\b|我叫|我是由|我的名字",
)

#: Characters at the start of an answer in which a refusal, or talk of being a model, stands.
_OPENING = 250


class Params(FilterParams):
    """Shares (0 to 1) from which on a conversation is taken; a null one is none."""

    refusals: float | None = Field(
        0.5, gt=0, le=1, description="of the answers: those that open with a refusal to help"
    )
    refusal_characters: int | None = Field(
        600, ge=20, description="a refusal that goes on for longer says something else too, and is none"
    )
    assistant_talk: float | None = Field(
        0.5, gt=0, le=1, description="of the answers: those that open by speaking of being a language model"
    )
    boilerplate: float | None = Field(
        0.3, gt=0, le=1, description="of the characters of the answers: those in lines of adverts and notices"
    )


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Answers are what the model says aloud; thoughts, calls and fenced code are not judged."""
    answers = (
        said(talks)
        .filter(pl.col("role") != "thought")
        .select("talk", text=outside_code(pl.col("text")).str.strip_chars())
    )
    short = pl.lit(value=True)
    if params.refusal_characters is not None:
        short = pl.col("text").str.len_chars() <= params.refusal_characters
    opening = pl.col("text").str.head(_OPENING)
    lesson = opening.str.contains(_any_of(_HONEST))
    refuses = short & opening.str.contains(_any_of(_REFUSALS)) & ~lesson
    looks = []
    if params.refusals is not None:
        looks.append(("refusal", _share(answers, refuses, params.refusals, "refuse")))
    if params.assistant_talk is not None:
        talks_of_itself = opening.str.contains(_any_of(_ASSISTANT_TALK)) & ~lesson
        looks.append(("assistant_talk", _share(answers, talks_of_itself, params.assistant_talk, "speak of a model")))
    if params.boilerplate is not None:
        looks.append(("boilerplate", _web(answers, params.boilerplate)))
    return first_reasons(looks)


def _any_of(patterns: tuple[str, ...]) -> str:
    return "(?i)" + "|".join(f"(?:{pattern})" for pattern in patterns)


def _share(answers: pl.DataFrame, look: pl.Expr, limit: float, what: str) -> pl.DataFrame:
    """Conversations in which a look holds for ``limit`` of the answers or more."""
    return (
        answers.select("talk", found=look)
        .group_by("talk", maintain_order=True)
        .agg(pl.col("found").sum(), answers=pl.len())
        .filter(pl.col("found") > 0, pl.col("found") / pl.col("answers") >= limit)
        .select("talk", detail=pl.format("{} of {} answers " + what, "found", "answers"))
    )


def _web(answers: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Conversations of whose answers ``limit`` or more stands in lines of web pages."""
    pattern = _any_of(_WEB)
    suspects = answers.filter(pl.col("text").str.contains(pattern)).select("talk").unique()
    return (
        answers.join(suspects, on="talk", how="semi", maintain_order="left")
        .select("talk", line=pl.col("text").str.split("\n"))
        .explode("line")
        .with_columns(size=pl.col("line").str.len_chars(), found=pl.col("line").str.contains(pattern))
        .group_by("talk", maintain_order=True)
        .agg(share=pl.col("size").filter(pl.col("found")).sum() / pl.col("size").sum(), whole=pl.col("size").sum())
        .filter(pl.col("whole") > 0, pl.col("share") >= limit)
        .select("talk", detail=pl.format("{} of the answers is in lines of web pages", percent(pl.col("share"))))
    )
