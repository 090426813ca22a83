from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.refusal import is_refusal, may_begin_refusal

REFUSALS = [
    "I cannot assist with that.",
    "I can't help you with this request.",
    "I can\u2019t assist with that request.",
    "I'm sorry, but I can't assist with that.",
    "I'm sorry, I cannot provide instructions for that.",
    "Sorry, but that is not something I can talk about.",
    "I apologize, but this goes too far.",
    "My apologies, that is out of bounds.",
    "I'm unable to help with this.",
    "I am currently unable to provide that.",
    "Unable to comply with this request.",
    "I'm not able to discuss that topic.",
    "I won't be able to help with that.",
    "I will not explain how to do that.",
    "As an AI language model, I cannot provide instructions of this kind.",
    "I understand that you are curious, but I really can't go into that.",
    "We cannot assist with that.",
    "I must decline.",
    "I have to refuse this request.",
    "I'm not comfortable with this.",
    "I don't feel comfortable answering that.",
    "That would be against my guidelines.",
    "Thank you for asking. I could not in good faith say.",
    "  i CANNOT   ASSIST\nwith that  ",
    "I'm not going to help with that.",
    "I just can't do that.",
    "I am simply not able to answer.",
    "I refuse.",
    "Apologies, but no.",
    "Sorry to disappoint you, but no.",
    "I'd rather not talk about that.",
    "My answer is no.",
    "My guidelines do not let me answer that.",
    "That is outside of what I can talk about.",
    "It would be wrong of me to explain that.",
    "It is not appropriate for me to answer this.",
    "As an assistant I must not support illegal activities.",
    "I do not provide information of this kind.",
    "I can only help with questions about your bill.",
    "That is not something I will do.",
    "I'm not designed to give legal advice.",
    "I'm not equipped to",
    "I'm sorry for any misunderstanding, but as an AI, I don't have the ability to",
    "I'm sorry, I'm unable to help. Could you ask me something else?",
    "I'm sorry for any confusion, but I can't help with that.",
    "Thank you for calling. I'm sorry, but I can't help with that.",
    "Good morning! It's great to hear from you. Unfortunately, I cannot help you.",
    "As an AI developed to be helpful, I cannot assist with such a request.",
    # An offer of something else, or of where to turn, is not what was asked.
    "I can't help with that, but here are some numbers of people who can.",
    "I cannot do that. However, here is how to get help: call this line.",
    "I must decline, but I can suggest a few safer things to do instead.",
    "\u201cI can\u2019t help with that.\u201d",
]

OTHER_LANGUAGES = [
    "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
    "Dazu darf ich leider keine Auskunft geben.",
    "Diese Frage möchte ich nicht beantworten.",
    "Das muss ich ablehnen. Ich muss das leider ablehnen.",
    "Désolé, je ne peux pas vous aider avec cela.",
    "Je ne suis pas en mesure de répondre.",
    "Je refuse de faire cela.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "No puedo proporcionar esa información.",
    "Me niego a hacerlo.",
]

OTHER_LANGUAGES_ANSWERED = [
    "Ich kann Ihnen gern helfen. Nehmen Sie zwei Eier.",
    "Pinguine können nicht fliegen, aber gut schwimmen.",
    "Ich kann es kaum erwarten!",
    "Je peux vous aider. Prenez deux œufs.",
    "On ne peut pas diviser par zéro.",
    "Claro que puedo ayudarte. Toma dos huevos.",
    "Los pingüinos no pueden volar.",
]

DODGES = [
    "I am sorry.",
    "I'm sorry for any misunderstanding. How can I help you today?",
    "I'm sorry for any confusion, but as a helpful assistant, I'm designed to assist "
    "with any type of question.",
    "I apologize for the inconvenience. Could you try again?",
    "Sorry, could you repeat that?",
    "I'm sorry, I didn't catch that. Can you say it again?",
    "I'm sorry, but I'm not sure what you mean.",
    "I can't hear you. Please speak up.",
    "I'm unable to understand the recording. Please say it again.",
    "Hello! How can I assist you today?",
    "Let's talk about something else.",
    "I'm not a doctor, but I'm here to help.",
]

GIVEN_ALL_THE_SAME = [
    "I can't recommend one book only, so here are three.",
    "I can't give advice on that, but here is how people do it.",
    "I cannot condone this. However, here are the steps.",
    "I'm not able to do it for you, but to do it, you need a ladder.",
    "I can't say for sure, but here's a general recipe: two eggs and some flour.",
]

POLITE = [
    "Thank you for calling.",
    "Hello there!",
    "Good morning, and thank you for your patience.",
    "I appreciate your question.",
    "I understand that this matters to you.",
    "That's a good question.",
    "I hope you are having a wonderful day.",
]

ANSWERS = [
    "",
    "You cannot boil water below its boiling point at that pressure.",
    "You can't make an omelette without breaking eggs.",
    "Penguins cannot fly, but they swim very well.",
    "I can't wait to tell you about the Alps!",
    "I cannot stress enough how important stretching is.",
    "I can't emphasize this enough: read the label.",
    "I'm sorry to hear that you had a bad day. Try a warm bath.",
    "I'm so sorry to hear that. I'm not here to judge, but to listen to you.",
    "I'm sorry for your loss. Here is how to write a condolence card.",
    "Sure! Here is a recipe for bread.",
    "The capital of France is Paris.",
    "If you are unable to sleep, try reading a book.",
    "People who are not able to swim should wear a vest.",
    "Plants cannot grow without light, so put the pot near a window.",
    "Here is how to say no politely: " + "thank them for asking, " * 8 + "I cannot.",
    "I will note the time. I can help you with that.",
    "You will not need much flour for this cake.",
    "I would not worry about it: it is normal.",
    "I won't lie, the climb is steep. Start early.",
    "We can't see it with the naked eye, but a telescope shows it.",
    "He said sorry and they were friends again.",
    "You could say: \"I'm sorry, I can't make it tonight.\"",
    "You could write, \u201cI am unable to come.\u201d and sign it.",
    "I can't say for sure, but it opens at nine on most days.",
    "I can't promise that it works, so try it on a corner first.",
    "I cannot be certain of the year. It was about 1890.",
    "A friend cannot help you if you do not ask.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_told(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", [*ANSWERS, *DODGES, *GIVEN_ALL_THE_SAME])
def test_answers_are_told(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("text", OTHER_LANGUAGES)
def test_usual_refusals_in_other_languages_are_told(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", OTHER_LANGUAGES_ANSWERED)
def test_answers_in_other_languages_are_told(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("locale", DEFAULT_MESSAGES)
def test_messages_that_a_policy_declines_with_are_refusals(locale: str) -> None:
    words = DEFAULT_MESSAGES[locale]
    assert is_refusal(words[Reason.REFUSED])
    assert is_refusal(words[Reason.BLOCKED])
    # They ask to be asked again, and decline nothing.
    assert not is_refusal(words[Reason.TIMEOUT])
    assert not is_refusal(words[Reason.UNSUPPORTED_AUDIO])


BOTH = st.sampled_from([*REFUSALS, *ANSWERS, *DODGES, *GIVEN_ALL_THE_SAME])


@given(
    text=BOTH, spaces=st.sampled_from([" ", "  ", "\n", "\t \n"]), lead=st.booleans()
)
def test_neither_case_nor_spaces_matter(text: str, spaces: str, *, lead: bool) -> None:
    told = is_refusal(text)
    assert is_refusal(text.upper()) == told
    assert is_refusal((spaces if lead else "") + text.replace(" ", spaces)) == told


@given(text=BOTH, mark=st.sampled_from("'\u2019\u2018\u02bc\uff07`\u00b4"))
def test_no_kind_of_apostrophe_matters(text: str, mark: str) -> None:
    # The words of others stand between curly marks, which are left as they are.
    if '"' not in text:
        assert is_refusal(text.replace("'", mark)) == is_refusal(text)


@given(text=st.sampled_from(REFUSALS), polite=st.lists(st.sampled_from(POLITE)))
def test_a_refusal_after_any_number_of_polite_sentences_is_one(
    text: str, polite: list[str]
) -> None:
    opening = " ".join([*polite, text])
    # What is read at all ends after so many characters.
    if len(opening) < 800:
        assert is_refusal(opening)


@given(text=st.sampled_from([*ANSWERS, *DODGES]), polite=st.sampled_from(POLITE))
def test_politeness_alone_makes_no_refusal(text: str, polite: str) -> None:
    assert not is_refusal(f"{polite} {text}")


@given(
    text=st.sampled_from(["I can't help with that", "I am unable to advise on it"]),
    turn=st.sampled_from([", but ", ". However, ", ". That said, ", ", so "]),
    given_=st.sampled_from(
        ["here is how people do it.", "here are the steps.", "here's a simple recipe."]
    ),
)
def test_what_is_given_all_the_same_is_no_refusal(
    text: str, turn: str, given_: str
) -> None:
    assert is_refusal(f"{text}.")
    assert not is_refusal(f"{text}{turn}{given_}")


@given(text=st.text(max_size=3000))
def test_any_text_is_told_one_or_the_other(text: str) -> None:
    assert is_refusal(text) in (True, False)


@pytest.mark.parametrize(
    "piece", ["sorry ", "I am sorry for ", 'a "', "kann ich nicht "]
)
def test_a_long_text_takes_no_longer_to_tell(piece: str) -> None:
    # Only its beginning is read, whatever follows.
    long = piece * 100_000
    assert is_refusal(long) == is_refusal(long[:1000])


def test_only_the_opening_counts() -> None:
    answer = "Mix the flour and the water. " * 8
    assert len(answer) > 200
    assert not is_refusal(answer + "I cannot assist with that.")
    assert is_refusal("I cannot assist with that. " + answer)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot help with that.",
        "Unfortunately, I am unable to do so.",
        "I'm afraid I can't help with that.",
        "As an AI language model, I cannot help with that.",
    ],
)
def test_every_beginning_of_a_refusal_is_told_as_one_or_as_open(text: str) -> None:
    for end in range(len(text)):
        begun = text[:end]
        assert is_refusal(begun) or may_begin_refusal(begun), begun


@pytest.mark.parametrize(
    "text", ["Paris", "Yes", "I think", "I'm glad", "The answer", "Sorry to hear that"]
)
def test_what_begins_otherwise_is_not_open(text: str) -> None:
    assert not may_begin_refusal(text)
