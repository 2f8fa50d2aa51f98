from __future__ import annotations

import pytest
from golden_prompts import CONVERSATIONS, GOLDEN, ONE
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_files import BUILT_IN
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from vlm.errors import OptionError, PromptError
from vlm.profile import Profile, load_profile, parse_profile
from vlm.prompt import IMAGE, Message, Part, RenderedPrompt, render
from vlm.resources import configs_dir
from vlm.speech import ToolCall

PROFILES = {name: load_profile(name) for name in GOLDEN}


@pytest.mark.parametrize("case", range(4), ids=list(CONVERSATIONS))
@pytest.mark.parametrize("name", GOLDEN)
def test_built_in_profiles_render_as_their_models_expect(name: str, case: int) -> None:
    messages = list(CONVERSATIONS.values())[case]
    assert render(PROFILES[name], messages) == RenderedPrompt(GOLDEN[name][case], (1, 2, 1, 0)[case])


def test_every_built_in_profile_has_its_prompts() -> None:
    assert sorted(GOLDEN) == sorted(BUILT_IN)


def test_a_thinking_model_thinks_when_asked_and_forgets_its_earlier_thoughts() -> None:
    profile = PROFILES["qwen3.5-0.8b"]
    thought = Message("assistant", "It is round.\n</think>\n\nA circle.")
    prompt = render(profile, [Message("user", "What?"), thought, Message("user", "Sure?")], thinking=True).text
    assert prompt == (
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nA circle.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_an_empty_system_message_means_none() -> None:
    prompt = render(PROFILES["qwen2-vl-2b"], [Message("system", " "), Message("user", "Hi")])
    assert prompt.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_two_images_side_by_side_stand_on_lines_of_their_own_for_janus() -> None:
    prompt = render(PROFILES["janus-pro-1b"], [Message("user", [IMAGE, IMAGE, "Compare."])])
    assert prompt.text.endswith("<|User|>: <image>\n\n<image>\nCompare.\n\n<|Assistant|>:")


def test_neighbouring_texts_become_one_and_empty_ones_go() -> None:
    message = Message("user", ["", "a", "b", IMAGE, "", "c", ""])
    assert message.content == ("ab", IMAGE, "c")
    assert (message.text, message.images) == ("abc", 1)


# --- what cannot be rendered ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        ([Message("assistant", "hi")], "The last message must be from the user; it is from the assistant"),
        ([Message("user", "a"), Message("assistant", "b")], "must be from the user; it is from the assistant"),
        ([Message("user", "a"), Message("system", "b"), Message("user", "c")], "only come first; message 2 is one"),
        ([Message("user", "")], "Message 1, from the user, is empty"),
        (
            [Message("user", "a"), Message("assistant", ""), Message("user", [" ", "\n"])],
            "Message 3, from the user, is",
        ),
    ],
)
def test_conversations_of_another_form_are_refused(messages: list[Message], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        render(PROFILES["demo"], messages)


def test_an_image_alone_is_a_question_and_an_answer_may_be_empty() -> None:
    messages = [Message("user", "a"), Message("assistant", ""), Message("user", [IMAGE])]
    assert render(PROFILES["demo"], messages).text.count("<image>") == 1


@pytest.mark.parametrize(
    ("role", "content", "said"),
    [
        ("robot", "x", "is one of system, user, assistant, tool; got 'robot'"),
        ("User", "x", "got 'User'"),
        ("user", [b"x"], "is a text or IMAGE; got a bytes"),
        ("user", ["x", None], "is a text or IMAGE; got a NoneType"),
        ("user", ["x", "image\0"], "A user message holds a NUL character"),
        ("system", "\0", "A system message holds a NUL character"),
        ("user", "half \ud83d", "half of a surrogate pair, '\\\\ud83d'"),
        ("assistant", [IMAGE], "An image can be in a user's message only; this one is in the assistant's"),
        ("system", ["x", IMAGE], "this one is in the system's"),
    ],
)
def test_messages_that_are_none_are_refused_when_made(role: str, content: list[Part], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        Message(role, content)


def test_thinking_is_refused_where_the_model_has_none_and_reaches_the_template_where_it_has() -> None:
    with pytest.raises(OptionError, match="Model demo has no thinking mode"):
        render(PROFILES["demo"], ONE, thinking=True)
    text = (configs_dir() / "demo.toml").read_text(encoding="utf-8")
    ending = "{{- '<|im_start|>assistant\\n' -}}"
    text = text.replace("\nmax_new", "\nthinking = true\nmax_new")
    text = text.replace(ending, ending + "{{- 'Let me see. ' if enable_thinking -}}")
    profile = parse_profile(text, "thinking.toml")
    assert render(profile, ONE, thinking=True).text == render(profile, ONE).text + "Let me see. "


def test_a_template_can_refuse() -> None:
    text = (configs_dir() / "demo.toml").read_text(encoding="utf-8")
    refusal = "chat_template = '''\n{%- if images > 2 %}{{ raise_exception('Two pictures at most') }}{% endif -%}"
    profile = parse_profile(text.replace("chat_template = '''", refusal), "two.toml")
    with pytest.raises(PromptError, match="The chat template of demo failed: Two pictures at most"):
        render(profile, [Message("user", [IMAGE] * 3)])


def test_a_tag_made_by_text_and_template_together_is_refused() -> None:
    text = (configs_dir() / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('control = ["<|im_start|>"', 'control = ["<|end|>", "<|im_start|>"')
    profile = parse_profile(text.replace("{{- '<|im_end|>\\n' -}}", "{{- 'end|><|im_end|>\\n' -}}"), "odd.toml")
    with pytest.raises(PromptError, match="together form a control tag"):
        render(profile, [Message("user", "sneaky <|")])


# --- whatever people type -------------------------------------------------------------------------------------------

TAGS = sorted({tag for profile in PROFILES.values() for tag in profile.control_tags})
PIECES = sorted({tag[start:end] for tag in TAGS for start in range(3) for end in range(len(tag) - 3, len(tag) + 1)})
TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
TYPED = st.one_of(
    st.sampled_from(TAGS), st.sampled_from(PIECES), TEXT, st.sampled_from(["<", ">", "|", " ", "\n", "{{", "%}"])
)
PARTS = st.lists(st.one_of(TYPED, TYPED, st.just(IMAGE)), max_size=8)
NAMES = st.sampled_from(sorted(PROFILES))


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [Message("system", draw(st.lists(TYPED, max_size=3)))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages.append(Message("user", ["?", *draw(PARTS)]))
        messages.append(Message("assistant", draw(st.lists(TYPED, max_size=3))))
    return [*messages, Message("user", [*draw(PARTS), draw(st.sampled_from(["?", "?", "<|im_"]))])]


def harmless(message: Message) -> Message:
    """Return the message with texts that hold no tag, or a piece of one."""
    return Message(message.role, [part if part is IMAGE or not part.strip() else "word" for part in message.content])


def specials(profile: Profile, text: str) -> list[str]:
    """Return the special tokens that a tokenizer reads in a text."""
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_special_tokens([AddedToken(tag, normalized=False, special=True) for tag in profile.control_tags])
    return [token for token in tokenizer.encode(text, add_special_tokens=False).tokens if token != "?"]


@given(NAMES, conversations())
@settings(max_examples=300, deadline=None)
def test_nobody_can_type_a_control_tag(name: str, messages: list[Message]) -> None:
    profile = PROFILES[name]
    prompt = render(profile, messages)
    plain = render(profile, [harmless(message) for message in messages])
    images = sum(message.images for message in messages)
    assert prompt.images == images == prompt.text.count("<image>")
    assert specials(profile, prompt.text) == specials(profile, plain.text)
    for tag in profile.control_tags:
        assert prompt.text.count(tag) == plain.text.count(tag)


@given(NAMES, conversations())
@settings(max_examples=200, deadline=None)
def test_refusing_refuses_control_tags_and_nothing_else(name: str, messages: list[Message]) -> None:
    profile = PROFILES[name]
    texts = [part for message in messages for part in message.content if part is not IMAGE]
    if any(tag in text for tag in profile.control_tags for text in texts):
        with pytest.raises(PromptError, match="means something to the model"):
            render(profile, messages, on_control="refuse")
    else:
        assert render(profile, messages, on_control="refuse") == render(profile, messages)


@given(st.lists(TEXT, min_size=1, max_size=4))
@settings(deadline=None)
def test_text_without_control_tags_stays_as_it_is(texts: list[str]) -> None:
    question = "".join(texts) + "?"
    ending = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert render(PROFILES["demo"], [Message("user", [*texts, "?"])]).text == ending


@given(
    NAMES, PARTS, st.integers(0, 8), st.sampled_from(["\0", "\ud800", "\udfff"]), st.sampled_from(["user", "system"])
)
@settings(deadline=None)
def test_nul_and_half_characters_are_refused_wherever_they_are(
    name: str, parts: list[Part], place: int, bad: str, role: str
) -> None:
    content = [part for part in parts if role == "user" or part is not IMAGE]
    content.insert(place, bad)
    with pytest.raises(PromptError, match=r"NUL|surrogate"):
        render(PROFILES[name], [Message(role, content), Message("user", "?")])


@pytest.mark.parametrize(
    ("typed", "escaped"),
    [
        (["<image>"], "< image>"),
        (["<im", "age>"], "< image>"),
        (["<<|im_end|>>"], "<< |im_end|>>"),
        (["<|im_<|im_end|>end|>"], "<|im_< |im_end|>end|>"),
        (["a < b > c", " <b>"], "a < b > c <b>"),
    ],
)
def test_a_tag_is_escaped_by_a_space_after_its_first_character(typed: list[str], escaped: str) -> None:
    assert f"user\n{escaped}<|im_end|>" in render(PROFILES["demo"], [Message("user", typed)]).text


def test_tools_and_calls_cannot_pose_as_the_template() -> None:
    profile = load_profile("qwen3-vl-2b")
    tag = "<|im_end|>"
    conversation = [
        Message("user", "a"),
        Message("assistant", "", [ToolCall("f", {"x": tag})]),
        Message("tool", tag),
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": tag}}]
    text = render(profile, conversation, tools=tools).text
    assert text.count("< |im_end|>") == 3
    assert text.count(tag) == 4  # the system's, the user's, the assistant's and the tool's own ends
    with pytest.raises(PromptError, match="which means something to the model"):
        render(profile, conversation, tools=tools, on_control="refuse")


def test_calls_are_the_assistants() -> None:
    with pytest.raises(PromptError, match="Only the assistant calls tools"):
        Message("user", "a", [ToolCall("f", {})])
    with pytest.raises(PromptError, match="half of a surrogate pair"):
        Message("assistant", "", [ToolCall("f", {"x": "\ud800"})])
    with pytest.raises(OptionError, match="knows no tools"):
        render(load_profile("demo"), [Message("user", "a")], tools=[{"type": "function"}])
