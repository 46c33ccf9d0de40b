"""Normalisation and comparison of answers: VQAv2's rules, number words, edit distance."""

import re
from collections.abc import Iterable

WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
"""
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(WORDS.split())}}

# VQAv2's list, as normalised; the inputs lack one of the apostrophes
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
REPLACEMENTS = {
    form[:index] + form[index + 1 :]: form
    for form in CONTRACTIONS.split()
    for index, letter in enumerate(form)
    if letter == "'"
}
# the official list has this one reversed
REPLACEMENTS["somebody'd"] = "somebodyd"
# VQAv2 knows words up to ten only
REPLACEMENTS |= {word: digits for word, digits in DIGITS.items() if int(digits) <= 10}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def vqav2_space(text: str) -> str:
    """The text on one line, without surrounding space. Space inside stays, as in the official evaluation."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqav2_normalise(text: str) -> str:
    """Normalise an answer as the VQAv2 evaluation does (https://visualqa.org/evaluation.html).

    Lower case, no articles, no punctuation, apostrophes in contractions, digits for the words none … ten. Quirks
    of the official code are kept, since published numbers include them: a comma between two digits anywhere deletes
    all marks instead of replacing them by spaces, and so does, for each mark, a space beside it.
    """
    dropped = re.search(r"\d,\d", text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if dropped or beside_space else " ")
    # full stops, except before a digit
    words = re.sub(r"\.(?!\d)", "", out).lower().split()
    return " ".join(REPLACEMENTS.get(word, word) for word in words if word not in ARTICLES)


def to_digits(text: str) -> str:
    """Digits of a number word from none to twenty; any other text unchanged."""
    return DIGITS.get(text.lower(), text)


def fold(text: str, lower: bool, strip: bool) -> str:
    """Lower-case and strip the text, each where requested."""
    text = text.strip() if strip else text
    return text.lower() if lower else text


def anls(prediction: str, answers: Iterable[str], threshold: float = 0.5) -> float:
    """Similarity to the nearest answer: 1 - d where d < threshold, else 0 (ST-VQA, arXiv:1905.13648, section 4).

    d is the edit distance divided by the length of the longer text. Only an empty text matches an empty answer.
    """
    return max(similarity(prediction, answer, threshold) for answer in answers)


def similarity(prediction: str, answer: str, threshold: float) -> float:
    """ANLS of one prediction and one answer."""
    longer = max(len(prediction), len(answer))
    if longer == 0:
        return 1.0
    # a lower bound of the distance, which saves the comparison of long texts
    if abs(len(prediction) - len(answer)) / longer >= threshold:
        return 0.0
    distance = edit_distance(prediction, answer) / longer
    return 1 - distance if distance < threshold else 0.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance of two texts.

    Two integers hold a column of the usual table as bits, its steps up and its steps down (Myers 1999,
    "A fast bit-vector algorithm for approximate string matching"), so that long texts take milliseconds.
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for index, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << index
    every, last = (1 << len(a)) - 1, 1 << len(a) - 1
    up, down, distance = every, 0, len(a)
    for letter in b:
        equal = places.get(letter, 0)
        across = (((equal & up) + up) ^ up) | equal
        right_up, right_down = down | (every & ~(across | up)), up & across
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & every, right_down << 1 & every
        equal |= down
        up, down = right_down | (every & ~(equal | right_up)), right_up & equal
    return distance
