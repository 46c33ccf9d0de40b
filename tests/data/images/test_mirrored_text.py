import pytest

from openpali.data.images.mirrored_text import mirrored


@pytest.mark.parametrize(
    ("language", "text", "other"),
    [
        ("en", "the dog on the left", "the dog on the right"),
        ("en", "Left-hand cup, 2nd from RIGHT", "Right-hand cup, 2nd from LEFT"),
        ("en", "from left to right, the rightmost one", "from right to left, the leftmost one"),
        ("en", "a bright dog upright", "a bright dog upright"),
        ("de", "der linke Hund, rechts von der Katze", "der rechte Hund, links von der Katze"),
        ("de", "Links ein linker Schuh", "Rechts ein rechter Schuh"),
        ("es", "el gato a la izquierda del perro", "el gato a la derecha del perro"),
        ("es", "el brazo derecho", "el brazo izquierdo"),
        ("pt", "à esquerda, o braço direito", "à direita, o braço esquerdo"),
        ("it", "a sinistra, la mano destra", "a destra, la mano sinistra"),
        ("id", "anjing di kiri", "anjing di kanan"),
        ("zh", "左边的狗", "右边的狗"),
        ("ja", "右の犬", "左の犬"),
        ("ko", "왼쪽에 있는 개", "오른쪽에 있는 개"),
        ("fr", "un chien et un chat", "un chien et un chat"),
        ("ru", "собака и лев", "собака и лев"),
    ],
)
def test_sides_are_exchanged(language, text, other):
    assert mirrored(text, language) == other
    assert mirrored(other, language) == text


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "the cup right next to the plate"),
        ("en", "the man right behind her"),
        ("en", "the only cookie that is left"),
        ("en", "the woman left alone"),
        ("en", "all right"),
        ("en", "the glass at 3 o'clock"),
        ("en", "the dog clockwise from the cat"),
        ("en", "r dog"),
        ("en", "guy on lft"),
        ("en", "player 12"),
        ("en", 'the sign that says "stop"'),
        ("de", "der Hund um 3 Uhr"),
        ("es", "todo derecho"),
        ("zh", "大约十左右"),
        ("fr", "le chien à gauche"),
        ("ru", "собака слева"),
        ("tr", "soldaki köpek"),
        ("fa", "سمت چپ"),
        ("ar", "على اليسار"),
        ("xx", "anything"),
    ],
)
def test_what_is_ambiguous_is_refused(language, text):
    assert mirrored(text, language) is None
