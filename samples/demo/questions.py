"""Questions about scenes and their true answers, in the wordings of `wordings`.

A `Dialogue` is a conversation about zero, one or two scenes: a list of (question, answer) turns. Every answer names
things by size, colour, shape and place in the words of `world`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import wordings as w
from world import ALL_PLACES, BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

Turn = tuple[str, str]

DECLINE = "I only know simple shapes."
NO_PICTURE = "Please show me a picture first."
GREETING = "Hello! Show me a picture with simple shapes and ask me about it."
ABILITY = "I know circles, squares, triangles, stars and hearts: their colours, sizes, places and number."
THANKS = "You are welcome!"
NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Spec:
    """A noun phrase: what it says of size, colour and shape; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def matches(self, thing: Thing) -> bool:
        return all(
            want in (None, has)
            for want, has in ((self.shape, thing.shape), (self.colour, thing.colour), (self.size, thing.size))
        )

    @property
    def one(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "shape") if word)

    @property
    def many(self) -> str:
        return self.one + "s"


def a(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


# --- what is true of a scene -----------------------------------------------------------------------------------------


def full(scene: Scene) -> str:
    """The whole description of a scene."""
    things = joined([f"{a(f'{t.size} {t.colour} {t.shape}')} {t.place}" for t in scene.things])
    return f"There is {things} on a {scene.background} background."


def short(scene: Scene) -> str:
    """Colours and shapes only."""
    return joined([a(f"{t.colour} {t.shape}") for t in scene.things])


def found(scene: Scene, spec: Spec) -> list[Thing]:
    return [thing for thing in scene.things if spec.matches(thing)]


def count_answer(scene: Scene, spec: Spec) -> str:
    number = len(found(scene, spec))
    return f"There {'is' if number == 1 else 'are'} {NUMBERS[number]} {spec.one if number == 1 else spec.many}."


def exists_answer(scene: Scene, spec: Spec) -> str:
    return f"Yes, there is {a(spec.one)}." if found(scene, spec) else f"No, there is no {spec.one}."


def at(scene: Scene, place: str) -> Thing | None:
    return next((thing for thing in scene.things if thing.place == place), None)


def at_answer(scene: Scene, place: str) -> str:
    thing = at(scene, place)
    return (
        f"There is {a(f'{thing.size} {thing.colour} {thing.shape}')} {place}."
        if thing
        else f"There is nothing {place}."
    )


def fact_answer(scene: Scene, spec: Spec, say: Callable[[Thing], str]) -> str:
    """`say` of the one thing that fits; or that there is none."""
    fitting = found(scene, spec)
    return f"The {spec.one} is {say(fitting[0])}." if fitting else f"There is no {spec.one}."


# --- choosing what to ask --------------------------------------------------------------------------------------------


def some_spec(scene: Scene, rng: np.random.Generator, parts: Sequence[str], present: float = 0.6) -> Spec:
    """A noun phrase that says some of `parts`; drawn from a thing of the scene with probability `present`."""
    if scene.things and rng.random() < present:
        thing = scene.things[int(rng.integers(len(scene.things)))]
        values = {"shape": thing.shape, "colour": thing.colour, "size": thing.size}
    else:
        values = {
            "shape": str(rng.choice(SHAPES)),
            "colour": str(rng.choice(list(COLOURS))),
            "size": str(rng.choice(SIZES)),
        }
    return Spec(**{part: values[part] for part in parts})


def single(scene: Scene, rng: np.random.Generator, options: Sequence[Sequence[str]]) -> Spec | None:
    """A noun phrase that fits exactly one thing, or at times none; None if there is no such phrase."""
    if rng.random() < 0.1:
        spec = some_spec(scene, rng, options[int(rng.integers(len(options)))], present=0.0)
        return spec if len(found(scene, spec)) <= 1 else None
    order = [(thing, parts) for thing in scene.things for parts in options]
    for index in rng.permutation(len(order)):
        thing, parts = order[index]
        spec = Spec(**{part: getattr(thing, part) for part in parts})
        if len(found(scene, spec)) == 1:
            return spec
    return None


PLACE_WORDS = {
    "at the top left": ("at the top left", "in the top left corner", "in the upper left corner", "top left"),
    "at the top": ("at the top", "at the top in the middle", "above in the middle"),
    "at the top right": ("at the top right", "in the top right corner", "in the upper right corner", "top right"),
    "on the left": ("on the left", "on the left side", "at the left"),
    "in the center": ("in the center", "in the middle", "in the centre", "at the center"),
    "on the right": ("on the right", "on the right side", "at the right"),
    "at the bottom left": (
        "at the bottom left",
        "in the bottom left corner",
        "in the lower left corner",
        "bottom left",
    ),
    "at the bottom": ("at the bottom", "at the bottom in the middle", "below in the middle"),
    "at the bottom right": (
        "at the bottom right",
        "in the bottom right corner",
        "in the lower right corner",
        "bottom right",
    ),
}


def some_place(scene: Scene, rng: np.random.Generator, present: float = 0.75) -> tuple[str, str]:
    """(canonical name, the words used) of a place; an occupied one with probability `present`."""
    if scene.things and rng.random() < present:
        place = scene.things[int(rng.integers(len(scene.things)))].place
    else:
        place = str(rng.choice(ALL_PLACES))
    return place, str(rng.choice(PLACE_WORDS[place]))


# --- one function for each kind of question --------------------------------------------------------------------------

NOUNS = (
    ("shape",),
    ("shape",),
    ("colour", "shape"),
    ("size", "shape"),
    ("size", "colour", "shape"),
    ("colour",),
    ("size",),
)


@dataclass
class Asker:
    """Draws questions. held_out: whether from the wordings never trained."""

    rng: np.random.Generator
    held_out: bool = False
    noise: bool = True
    lists: dict[str, list[str]] = field(default_factory=dict)

    def wording(self, name: str, **words: str) -> str:
        if name not in self.lists:
            self.lists[name] = w.split(getattr(w, name))[self.held_out]
        choices = self.lists[name]
        return choices[int(self.rng.integers(len(choices)))].format(**words)

    def describe(self, scene: Scene) -> Turn:
        return self.wording("DESCRIBE"), full(scene)

    def list_shapes(self, scene: Scene) -> Turn:
        return self.wording("LIST"), f"There is {short(scene)}."

    def count(self, scene: Scene) -> Turn:
        parts = ((), (), *NOUNS)[int(self.rng.integers(2 + len(NOUNS)))]
        spec = some_spec(scene, self.rng, parts, present=0.75)
        return self.wording("COUNT", things=spec.many), count_answer(scene, spec)

    def colour(self, scene: Scene) -> Turn | None:
        if self.rng.random() < 0.3:
            place, words = some_place(scene, self.rng, 0.9)
            thing = at(scene, place)
            answer = f"The {thing.shape} {place} is {thing.colour}." if thing else f"There is nothing {place}."
            return self.wording("COLOUR", thing=f"shape {words}"), answer
        spec = single(scene, self.rng, (("shape",), ("size", "shape"), ("size",)))
        return spec and (self.wording("COLOUR", thing=spec.one), fact_answer(scene, spec, lambda t: t.colour))

    def shape(self, scene: Scene) -> Turn | None:
        if self.rng.random() < 0.4:
            place, words = some_place(scene, self.rng, 0.9)
            thing = at(scene, place)
            answer = f"The shape {place} is {a(thing.shape)}." if thing else f"There is nothing {place}."
            return self.wording("SHAPE", thing=words), answer
        spec = single(scene, self.rng, (("colour",), ("size", "colour"), ("size",)))
        if spec is None:
            return None
        looks = " and ".join(word for word in (spec.size, spec.colour) if word)
        return self.wording("SHAPE", thing=looks), fact_answer(scene, spec, lambda t: a(t.shape))

    def where(self, scene: Scene) -> Turn | None:
        spec = single(scene, self.rng, (("shape",), ("colour", "shape"), ("colour",), ("size", "colour", "shape")))
        return spec and (self.wording("WHERE", thing=spec.one), fact_answer(scene, spec, lambda t: t.place))

    def what_at(self, scene: Scene) -> Turn:
        place, words = some_place(scene, self.rng)
        return self.wording("WHAT_AT", place=words), at_answer(scene, place)

    def exists(self, scene: Scene) -> Turn:
        parts = NOUNS[int(self.rng.integers(len(NOUNS)))]
        spec = some_spec(scene, self.rng, parts, present=0.5)
        return self.wording("EXISTS", a_thing=a(spec.one)), exists_answer(scene, spec)

    def background(self, scene: Scene) -> Turn:
        return self.wording("BACKGROUND"), f"The background is {scene.background}."

    def size(self, scene: Scene) -> Turn | None:
        spec = single(scene, self.rng, (("shape",), ("colour", "shape"), ("colour",)))
        return spec and (self.wording("SIZE", thing=spec.one), fact_answer(scene, spec, lambda t: t.size))

    # two pictures

    def more(self, one: Scene, two: Scene) -> Turn:
        first, second = len(one.things), len(two.things)
        if first == second:
            answer = f"Both pictures have {NUMBERS[first]} {'shape' if first == 1 else 'shapes'}."
        else:
            more, most, least = ("first", first, second) if first > second else ("second", second, first)
            answer = f"The {more} picture has more shapes, {NUMBERS[most]} against {NUMBERS[least]}."
        return self.wording("MORE"), answer

    def both(self, one: Scene, two: Scene) -> Turn:
        parts = (("shape",), ("colour", "shape"), ("colour",))[int(self.rng.integers(3))]
        spec = some_spec(one if self.rng.random() < 0.5 else two, self.rng, parts, present=0.75)
        first, second = (a(spec.one) if found(scene, spec) else f"no {spec.one}" for scene in (one, two))
        answer = f"The first picture shows {first} and the second picture shows {second}."
        return self.wording("BOTH", a_thing=a(spec.one)), answer

    def nth(self, one: Scene, two: Scene) -> Turn:
        index = int(self.rng.integers(2))
        nth = ("first", "second")[index]
        answer = f"The {nth} picture shows {short((one, two)[index])}."
        return self.wording("NTH", nth=nth, n=("one", "two")[index]), answer

    def same_background(self, one: Scene, two: Scene) -> Turn:
        verdict = "they are the same" if one.background == two.background else "they are different"
        answer = f"The first background is {one.background} and the second is {two.background}, {verdict}."
        return self.wording("SAME_BACKGROUND"), answer

    def compare(self, one: Scene, two: Scene) -> Turn:
        return self.wording("COMPARE"), f"The first picture shows {short(one)}. The second picture shows {short(two)}."

    # conversations

    def follow_up(self, scene: Scene) -> list[Turn]:
        """Two or three turns about one thing, the later ones calling it "it"."""
        for _ in range(8):
            spec = single(scene, self.rng, (("shape",), ("colour", "shape")))
            if spec and found(scene, spec):
                break
        else:
            return []
        thing = found(scene, spec)[0]
        asks: list[tuple[str, str, str]] = [
            ("WHERE", "FOLLOW_WHERE", thing.place),
            ("SIZE", "FOLLOW_SIZE", thing.size),
        ]
        if spec.colour is None:
            asks.append(("COLOUR", "FOLLOW_COLOUR", thing.colour))
        order = self.rng.permutation(len(asks))
        turns = []
        for step, index in enumerate(order):
            opening, following, value = asks[index]
            words = self.wording(following) if step else self.wording(opening, thing=spec.one)
            turns.append((words, f"The {spec.one} is {value}."))
        return turns

    def any_about(self, scene: Scene) -> Turn:
        """Some question whatever about one picture, as a wording only (its answer is for the caller)."""
        while True:
            turn = getattr(self, str(self.rng.choice(SINGLE_KINDS)))(scene)
            if turn:
                return turn  # type: ignore[no-any-return]

    def without_picture(self) -> Turn:
        name, answer = (
            ("GREETING", GREETING),
            ("ABILITY", ABILITY),
            ("THANKS", THANKS),
            ("OTHER", DECLINE),
        )[int(self.rng.integers(4))]
        return self.wording(name), answer

    # how a person types

    def typed(self, question: str) -> str:
        """The question as a person would type it: capitals, marks, courtesies, spellings."""
        rng = self.rng
        if rng.random() < 0.5:
            question = question.replace("colour", "color")
        if rng.random() < 0.2:
            question = question.replace("grey", "gray")
        if not self.noise:
            return question[0].upper() + question[1:] + ("?" if question.split()[0] in ASKING else ".")
        if rng.random() < 0.15:
            question = str(rng.choice(OPENINGS)) + " " + question
        if rng.random() < 0.1:
            question += str(rng.choice(CLOSINGS))
        if rng.random() < 0.06:
            words = question.split()
            words.insert(int(rng.integers(len(words) + 1)), _babble(rng))
            question = " ".join(words)
        if rng.random() < 0.65:
            question = question[0].upper() + question[1:]
        elif rng.random() < 0.05:
            question = question.upper()
        return question + str(rng.choice(["?", "?", "", ".", "!", " ?"], p=[0.4, 0.15, 0.2, 0.2, 0.02, 0.03]))


ASKING = {"what", "which", "how", "where", "is", "are", "do", "does", "can", "who", "of", "in", "at", "on"}
OPENINGS = (
    "please",
    "now",
    "hey,",
    "hi,",
    "ok,",
    "so",
    "and",
    "well,",
    "please look:",
    "question:",
    "tell me,",
    "look,",
)
CLOSINGS = (", please", " please", " now", " then", " exactly", " in a few words", " in one sentence", ", thanks")

SINGLE_KINDS = (
    "describe",
    "list_shapes",
    "count",
    "colour",
    "shape",
    "where",
    "what_at",
    "exists",
    "background",
    "size",
)
PAIR_KINDS = ("more", "both", "nth", "same_background", "compare")


def _babble(rng: np.random.Generator) -> str:
    return "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(2, 8))))


def vocabulary() -> list[str]:
    """Sentences that hold every word of the world, for training the tokenizer."""
    lines = [
        line
        for name in dir(w)
        if name.isupper() and isinstance(getattr(w, name), str)
        for line in getattr(w, name).strip().splitlines()
    ]
    words = [*SHAPES, *(s + "s" for s in (*SHAPES, "shape")), *SIZES, *COLOURS, *BACKGROUNDS, *NUMBERS, *ALL_PLACES]
    words += [p for row in PLACE_WORDS.values() for p in row] + list(OPENINGS) + list(CLOSINGS) + ["color", "gray"]
    answers = [
        DECLINE,
        NO_PICTURE,
        GREETING,
        ABILITY,
        THANKS,
        "There is nothing",
        "Yes, there is",
        "No, there is no",
        "The first picture has more shapes, against",
        "Both pictures show",
        "Only the",
        "Neither picture shows",
        "The second picture shows",
        "Both backgrounds are",
        "The first background is",
        "and the second is",
        "an",
    ]
    everything = [line.replace("{", "").replace("}", "") for line in lines] + answers
    everything += [f"a {word} the {word}, {word}." for word in words]
    assert len(PLACES) == 3
    return everything + [line.capitalize() for line in everything] + [line.replace("colour", "color") for line in lines]
