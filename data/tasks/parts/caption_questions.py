"""Generate questions from English captions by rules: VQ2A without its models.

VQ2A (Changpinyo et al. 2022) takes answers from a caption, generates a question for each with a language model, and
filters them with a second model. Here a few patterns generate fewer questions, only where the context of an answer is
clear. Most captions give one question or two, many give none.
"""

import re
from dataclasses import dataclass

KINDS = ("what", "count", "colour", "doing", "object", "where")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COLOURS = _set("red orange yellow green blue purple pink brown black white gray grey golden silver beige")
_ARTICLES = ("a", "an", "the")
_STOP = _set("dozen hundred thousand million more other one") | frozenset(_NUMBERS)
_STOP |= _set("a an the this that these those some any each every all both several many his her its their my your our")
_STOP |= _set("and or but nor of on in at to from with by for into onto over under behind beside besides near next")
_STOP |= _set("above below between through across around along against inside outside off up down out away about as")
_STOP |= _set("like than while when where which who whose there it he she they them him is are was were be been being")
_STOP |= _set("has have had do does can could will would not no without very during together including")
_VAGUE = _set("group couple pair bunch set lot number variety series row line piece photo picture image view shot")
_VAGUE |= _set("close closeup drawing painting illustration portrait photograph collage background scene front side")
_VAGUE |= _set("back top")
_NOT_VERBS = _set("morning evening wedding building ceiling clothing painting something nothing anything everything")
_NOT_VERBS |= _set("string spring sibling wing ring king sling swing stocking railing dressing topping frosting icing")
_NOT_VERBS |= _set("filling awning red bed shed sled seed weed reed breed speed feed bleed steed")
_UNITS = _set("years months weeks days hours minutes seconds times percent inches feet miles meters metres pounds")
_UNITS |= _set("dollars euros points degrees thirds quarters halves ways kinds types parts sides others")
_PLURALS = _set("people men women children mice geese teeth sheep fish deer policemen firemen fishermen oxen")
_NOT_PLURAL = ("ss", "us", "is")
_ABOUT = ("least", "most", "than", "over", "under", "about", "around", "nearly", "almost", "or", "up", "first", "last")
_NEGATIONS = _set("not no without never isn't aren't nobody nothing")
_PLACES = ("on top of", "in front of", "next to", "inside", "behind", "beside", "under", "near", "on", "in")
_NOT_PLACES = _set("suit hat dress shirt tie jacket coat uniform helmet costume phone cellphone background foreground")
_NOT_PLACES |= _set("row line style mood time way hurry process distance rain wind dark shape form color colour hand")
_NOT_PLACES |= _set("hands mouth hair side")
_OPENING = re.compile(
    r"^(?:(?:an?|the|this is an?) )?(?:close[- ]?up |black and white |old )?"
    r"(?:photo|picture|image|view|shot|drawing|painting|photograph|close[- ]?up|illustration) of (?=\w)"
)


@dataclass(frozen=True)
class CaptionQuestion:
    """A question, its answer in the words of the caption, and its kind."""

    kind: str
    question: str
    answer: str


def caption_questions(caption: str) -> list[CaptionQuestion]:
    """All questions that the rules generate, in the order of `KINDS`.

    >>> [(q.question, q.answer) for q in caption_questions("two dogs and a cat on a red sofa")]
    [('how many dogs are there?', '2'), ('which colour is the sofa?', 'red')]
    """
    words = _words(caption)
    if not words or _NEGATIONS & {word.lower() for word in words}:
        return []
    return [*_what(words), *_counts(words), *_colours(words), *_actions(words), *_where(words)]


def answer_candidates(caption: str) -> list[str]:
    """Parts of a caption that may be answers, for a model that asks for them: numbers, colours, things and actions.

    VQ2A takes them from a parser. Here they are runs of at most three words between function words, participles and
    punctuation, and the last word of a run.

    >>> answer_candidates("Two dogs chasing a red ball in Paris")
    ['two', 'dogs', 'chasing', 'red ball', 'ball', 'red', 'Paris']
    """
    found: list[str] = []
    run: list[str] = []
    for word in [*_words(caption), "."]:
        alone = word.isdigit() or word.lower() in _NUMBERS or (word.islower() and _verbal(word))
        if not alone and word[0].isalnum() and word.lower() not in _STOP:
            run.append(word)
            continue
        # "group" alone answers nothing
        if run and run[-1] not in _VAGUE:
            found += [" ".join(run[-3:]), run[-1], *(colour for colour in run[:-1] if colour in _COLOURS)]
        found += [word] * alone
        run = []
    return list(dict.fromkeys(found))


def _words(caption: str) -> list[str]:
    """Words and punctuation, without a final full stop and an opening such as "an image of"; the first word lower."""
    text = " ".join(caption.split()).rstrip(".! ")
    words = re.findall(r"[\w'’-]+|[^\w\s]", text)
    if words and (words[0].lower() in _STOP | _COLOURS or words[0].isdigit()):
        text = text[:1].lower() + text[1:]
    text = _OPENING.sub("", text)
    return re.findall(r"[\w'’-]+|[^\w\s]", text)


def _plain(word: str) -> bool:
    """Whether a word can belong to a noun phrase: lower case, no function word, no punctuation."""
    return word.replace("-", "a").isalpha() and word.islower() and word not in _STOP


def _verbal(word: str) -> bool:
    """Whether a word may be a participle."""
    return len(word) > 4 and word.endswith(("ing", "ed")) and word not in _NOT_VERBS


def _ends(words: list[str], at: int) -> bool:
    """Whether a noun phrase ends before this place: at the end, a function word, punctuation or a participle."""
    return at >= len(words) or not _plain(words[at]) or _verbal(words[at])


def _plural(word: str) -> bool:
    return word in _PLURALS or (len(word) > 3 and word.endswith("s") and not word.endswith(_NOT_PLURAL))


def _noun(words: list[str], start: int, most: int) -> int | None:
    """The end of the shortest noun phrase that begins here; None without one of up to `most` words.

    The last of several words is not a plural: "car drives" is not a noun phrase.
    """
    for end in range(start + 1, min(start + most, len(words)) + 1):
        if not _plain(words[end - 1]):
            return None
        if _ends(words, end) and not _verbal(words[end - 1]):
            return None if end - start > 1 and _plural(words[end - 1]) else end
    return None


def _once(words: list[str], noun: str) -> bool:
    """Whether a noun occurs only once in a caption."""
    stem = noun.removesuffix("s")
    return sum(word.lower().removesuffix("s") == stem for word in words) == 1


def _what(words: list[str]) -> list[CaptionQuestion]:
    """The question for a caption that is only a noun phrase."""
    if words[0] not in _ARTICLES or _noun(words, 1, 3) != len(words) or words[-1] in _VAGUE | _COLOURS:
        return []
    return [CaptionQuestion("what", "what is this?", " ".join(words[1:]))]


def _counts(words: list[str]) -> list[CaptionQuestion]:
    found = []
    for at, word in enumerate(words):
        number = str(_NUMBERS.index(word) + 2) if word in _NUMBERS else word
        if not re.fullmatch(r"[2-9]|1\d|20", number) or (at and (_plain(words[at - 1]) or words[at - 1] in _ABOUT)):
            continue
        if at and not words[at - 1].isalpha() and words[at - 1] not in ",;:":
            continue
        end = _things(words, at + 1)
        if end is not None and words[end - 1] not in _UNITS and _once(words, words[end - 1]):
            things = " ".join(words[at + 1 : end])
            found.append(CaptionQuestion("count", f"how many {things} are there?", number))
    return found


def _things(words: list[str], start: int) -> int | None:
    """The end of a plural noun phrase of up to four words."""
    for end in range(start + 1, min(start + 4, len(words)) + 1):
        word = words[end - 1]
        if not _plain(word):
            return None
        # "sports cars": the last of two plurals is counted
        if _plural(word) and not (end < len(words) and _plain(words[end]) and _plural(words[end])):
            return end
    return None


def _colours(words: list[str]) -> list[CaptionQuestion]:
    found, at = [], 0
    while at < len(words):
        end = _colour_end(words, at)
        if end is None:
            at += 1
            continue
        # "in red" may have no noun; in "red, white and blue" this would be an incomplete colour
        noun = None if at and words[at - 1] in ("in", "wearing", ",", "or") else _noun(words, end, 2)
        if noun is not None and words[noun - 1] not in _VAGUE and _once(words, words[noun - 1]):
            thing, verb = " ".join(words[end:noun]), "are" if _plural(words[noun - 1]) else "is"
            # "the orange sits" has no colour
            if not (words[at] == "orange" and verb == "are"):
                found.append(CaptionQuestion("colour", f"which colour {verb} the {thing}?", " ".join(words[at:end])))
        at = end
    return found


def _colour_end(words: list[str], at: int) -> int | None:
    """The end of "red" or "black and white"; None where no colour begins."""
    if words[at] not in _COLOURS:
        return None
    end = at + 1
    while end + 1 < len(words) and words[end] == "and" and words[end + 1] in _COLOURS:
        end += 2
    return end


def _subject(words: list[str]) -> int | None:
    """The end of the subject with which a caption begins."""
    end = _noun(words, 1, 3) if words[0] in _ARTICLES else None
    return end if end is not None and words[end - 1] not in _VAGUE else None


def _actions(words: list[str]) -> list[CaptionQuestion]:
    """Questions for the action of the subject and for its object."""
    end = _subject(words)
    if end is None:
        return []
    subject = " ".join(words[1:end])
    at = end + 1 if words[end : end + 1] == ["is"] else end
    if at >= len(words) or not words[at].endswith("ing") or not (_plain(words[at]) and _verbal(words[at])):
        return []
    verb, after = words[at], at + 1
    article = after < len(words) and words[after] in _ARTICLES
    last = _noun(words, after + 1, 3) if article else None
    if article and last is None:
        return []
    if last is None:
        # "playing tennis", but not "looking" alone where an unknown word follows
        last = after if _ends(words, after) else _noun(words, after, 2)
    if last is None:
        return []
    found = [CaptionQuestion("doing", f"what is the {subject} doing?", " ".join(words[at:last]))]
    if article:
        thing = " ".join(words[after + 1 : last])
        found.append(CaptionQuestion("object", f"what is the {subject} {verb}?", thing))
    return found


def _where(words: list[str]) -> list[CaptionQuestion]:
    """The question for the place of the subject, from the end of a caption without other subjects."""
    end = _subject(words)
    if end is None or {"and", ",", ";", "with", "while", "that"} & set(words) or words[end : end + 1] == ["of"]:
        return []
    for place in _PLACES:
        parts = place.split()
        for at in range(len(words) - len(parts) - 2, end - 1, -1):
            start = at + len(parts)
            if words[at:start] != parts or words[start] not in _ARTICLES:
                continue
            if _noun(words, start + 1, 3) != len(words) or words[-1] in _NOT_PLACES:
                continue
            return [CaptionQuestion("where", f"where is the {' '.join(words[1:end])}?", " ".join(words[at:]))]
    return []


_SINGULARS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
}
_SINGULARS |= {
    "teeth": "tooth",
    "policemen": "policeman",
    "firemen": "fireman",
    "fishermen": "fisherman",
    "oxen": "ox",
}
_SINGULARS |= {"knives": "knife", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "wolves": "wolf"}
_SINGULARS |= {"potatoes": "potato", "tomatoes": "tomato", "buses": "bus", "movies": "movie", "cookies": "cookie"}
_ALWAYS_PLURAL = _set(
    "glasses sunglasses scissors jeans pants trousers shorts goggles binoculars pliers tongs clothes"
)
_DETERMINERS = _set("a an the this that these those some any each every several many his her its their my your our")
_BEFORE_BARE = _set(
    "and or of on in at with by from onto into under over beside near behind between inside above below"
)
_DESCRIBING = _set(
    "big small large little tiny huge old young new tall short long cute beautiful happy sunny dark bright"
)
_NO_THINGS = (
    _VAGUE
    | _COLOURS
    | _DESCRIBING
    | _UNITS
    | _set("morning evening day night time way middle end distance foreground front")
)
_NO_THINGS |= _set("air outdoors indoors left right center centre inside outside other another sale love")


def caption_things(caption: str) -> list[str]:
    """The things that an English caption names, each once, in the singular and without colours.

    Capitalised words are taken for names and left out. What is no thing after all is harmless where a detector looks
    for it.

    >>> caption_things("two dogs and a cat on a red sofa, in the morning")
    ['dog', 'cat', 'sofa']
    """
    words, found = _words(caption), []
    for at, word in enumerate(words):
        before = words[at - 1].lower() if at else ","
        numbered = before in _NUMBERS or before.isdigit()
        begins = numbered or before in _DETERMINERS | _BEFORE_BARE or not before[0].isalnum()
        if not _plain(word) or not (begins or _verbal(before)) or (_verbal(word) and before not in _DETERMINERS):
            continue
        # "wearing glasses", but not "playing tennis"
        end = _thing_end(words, at, before) if begins else _things(words, at)
        phrase = words[at:end] if end is not None else []
        while phrase and phrase[0] in _COLOURS | _DESCRIBING:
            phrase = phrase[1:]
        if phrase and phrase[-1] not in _NO_THINGS and len(phrase[-1]) > 1:
            found.append(" ".join([*phrase[:-1], _singular(phrase[-1])]))
    return list(dict.fromkeys(found))


def _thing_end(words: list[str], start: int, before: str) -> int | None:
    """The end of the noun phrase after a determiner, a preposition or nothing; None where it is not clear."""
    plural = _things(words, start)
    if before not in ("a", "an", "the", "this", "that", "each", "every"):
        return plural or _noun(words, start, 3)
    end = _noun(words, start, 3)
    # "a dog chases a ball"
    return plural - 1 if end is None and before in ("a", "an") and plural and plural - start > 1 else end


def _singular(word: str) -> str:
    """The singular of a noun, by its ending."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    if word in _ALWAYS_PLURAL or not _plural(word):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes")) else word.removesuffix("s")
