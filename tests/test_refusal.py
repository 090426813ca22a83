from __future__ import annotations

import pytest

from sarguard.refusal import is_refusal

REFUSALS = [
    "I cannot assist with that.",
    "I can't help you with this request.",
    "I can\u2019t assist with that request.",
    "I'm sorry, but I can't assist with that.",
    "I'm sorry, I cannot provide instructions for that.",
    "Sorry, but that is not something I can talk about.",
    "I am sorry.",
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
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_told(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_told(text: str) -> None:
    assert not is_refusal(text)


def test_only_the_opening_counts() -> None:
    answer = "Mix the flour and the water. " * 8
    assert len(answer) > 200
    assert not is_refusal(answer + "I cannot assist with that.")
    assert is_refusal("I cannot assist with that. " + answer)
