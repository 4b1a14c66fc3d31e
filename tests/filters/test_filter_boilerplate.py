"""The filter ``boilerplate``: refusals, talk about being a model, words of web pages; honest answers stay."""

from __future__ import annotations

import pytest
from filter_cases import asked, judged, message, verdicts

from pipeline.conversation import Conversation, Part

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I am sorry, but I cannot comply with that.",
    "Sorry, I can't help you there.",
    "I cannot assist with creating such a thing.",
    "I must decline to answer.",
    "I'm unable to help with that.",
    "抱歉，我无法帮助您。",
    "对不起，我不能回答这个问题。",
    "很抱歉，我無法協助您。",
    "申し訳ありませんが、そのご依頼にはお応えできません。",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Desculpe, mas não posso ajudar com isso.",
    "Mi dispiace, ma non posso aiutarti con questo.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
    "Tut mir leid, dabei kann ich nicht helfen.",
    "Het spijt me, maar ik kan je daar niet mee helpen.",
    "Przykro mi, ale nie mogę w tym pomóc.",
    "Извините, но я не могу помочь с этим.",
    "آسف، لا أستطيع مساعدتك في ذلك.",
    "क्षमा करें, मैं इसमें आपकी मदद नहीं कर सकता।",
    "Üzgünüm, bu konuda yardımcı olamam.",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_that_is_the_answer_is_taken_in_every_language_of_the_list(text: str) -> None:
    assert judged("boilerplate", asked(text)) == ["refusal"]
    assert judged("boilerplate", asked(text), refusals=None) == [None]


MODELS = (
    "As an AI language model, I have no opinions.",
    "As a large language model, I was not there.",
    "I'm an AI language model and cannot taste it.",
    "As an AI assistant I don't have any feelings.",
    "My knowledge cutoff is long ago, so who knows.",
    "作为一个AI语言模型，我没有感情。",
    "AI言語モデルとして、意見はありません。",
    "AI 언어 모델로서 저는 의견이 없습니다.",
    "Como modelo de lenguaje, no tengo opiniones.",
    "Como um modelo de linguagem, não tenho opiniões.",
    "Come modello linguistico non ho opinioni.",
    "En tant que modèle de langage, je n'ai pas d'avis.",
    "Als KI-Sprachmodell habe ich keine Meinung.",
    "Als taalmodel heb ik geen mening.",
    "Jako model językowy nie mam zdania.",
    "Как языковая модель, я не имею мнения.",
    "بصفتي نموذج لغة، ليس لدي رأي.",
    "एक AI भाषा मॉडल के रूप में मेरी कोई राय नहीं है।",
    "Bir yapay zeka dil modeli olarak fikrim yok.",
)


@pytest.mark.parametrize("text", MODELS)
def test_talk_about_being_a_model_is_taken(text: str) -> None:
    assert judged("boilerplate", asked(text)) == ["assistant_talk"]
    assert judged("boilerplate", asked(text), assistant_talk=None) == [None]


PAGES = (
    "Click here to subscribe to our newsletter.",
    "This site uses cookies. Accept all cookies?",
    "By continuing to browse this website you agree to it.",
    "© 2020 A Shop. All rights reserved.",
    "Wir verwenden Cookies, um unsere Seite zu verbessern.",
    "Nous utilisons des cookies. Tous droits réservés.",
    "Utilizamos cookies. Todos los derechos reservados.",
    "点击这里订阅，版权所有。",
    "Мы используем файлы cookie. Все права защищены.",
)


@pytest.mark.parametrize("text", PAGES)
def test_words_of_web_pages_are_taken_by_their_share(text: str) -> None:
    assert judged("boilerplate", asked(text)) == ["boilerplate"]
    assert judged("boilerplate", asked(text), boilerplate=None) == [None]
    around = "The shop sells hats of felt and straw, and mends them, too, as long as you wait for a day or so.\n" * 4
    assert judged("boilerplate", asked(f"{around}{text}\n{around}")) == [None]
    assert judged("boilerplate", asked(f"Put it into the page:\n```html\n<p>{text}</p>\n```")) == [None]


HONEST = (
    "I'm sorry, but I could not find the reservation under that name.",
    "I'm sorry, but I can't cancel this flight, since it has left.",
    "I'm sorry, but I don't have the capability to book flights. I can compute areas.",
    "I'm sorry, but I can't assist with that. My functions only compute discounts.",
    "I'm sorry to hear that. Can I help you with anything else?",
    "Sorry for the delay! The report is attached.",
    "I can't help but smile at that.",
    "The model cannot be fitted to this; the proof cannot be completed.",
    "Unfortunately, the file could not be opened.",
    "抱歉，我没有找到您的预订。",
    "很抱歉，我无法帮助您预订机票。目前我的能力仅限于计算税款。",
    "Lo siento, no encuentro la reserva.",
    "Leider kann ich dabei die Datei nicht öffnen.",
    "Es tut mir leid, die Reservierung ist nicht zu finden.",
    "Je suis désolé, le vol est complet.",
    "I am an assistant trained by the people of this project, and my name is Fern.",
    "As a language model, I go by the name Fern and was trained by volunteers.",
    "A language model assigns probabilities to texts; an AI model may do so, too.",
    "Cookies are small files; sites ask before they use them.",
    "Ask for their newsletter at the counter.",
)


@pytest.mark.parametrize("text", HONEST)
def test_honest_answers_stay(text: str) -> None:
    assert judged("boilerplate", asked(text)) == [None]


def test_the_share_of_the_answers_decides() -> None:
    refusal, answer = REFUSALS[0], "The ferry leaves at noon."
    assert judged("boilerplate", asked(refusal, answer)) == ["refusal"]
    assert judged("boilerplate", asked(refusal, answer), refusals=0.6) == [None]
    assert judged("boilerplate", asked(refusal, answer, answer)) == [None]
    assert verdicts("boilerplate", [asked(refusal, answer)])[0].detail == "1 of 2 answers refuse"


def test_a_refusal_that_goes_on_to_help_is_none() -> None:
    helps = (
        REFUSALS[0] + " What you can do instead is this: " + "read the manual, ask the library, or write to it. " * 14
    )
    assert judged("boilerplate", asked(helps)) == [None]
    assert judged("boilerplate", asked(helps), refusal_characters=None) == ["refusal"]
    quotes = "The clerk looked at the form for a while, then at us, and put it down. " * 5 + f"“{REFUSALS[0]}”"
    assert judged("boilerplate", asked(quotes)) == [None]


def test_thoughts_calls_and_what_is_read_are_not_judged() -> None:
    refusal = REFUSALS[0]
    told = Conversation(
        (
            message("user", refusal),
            message("assistant", Part("thinking", refusal), Part("tool_call", refusal, name="say")),
            message("tool", Part("tool_result", refusal)),
            message("assistant", "Here it is."),
        )
    )
    assert judged("boilerplate", told) == [None]
