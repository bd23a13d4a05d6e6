"""Ids and keys: 1 to 255 visible characters."""

import pytest

from app.credits import check_key
from app.errors import InvalidInput


@pytest.mark.parametrize("key", ["a", "a" * 255, "user:42", "Zoë", "用户", "🙂"])
def test_a_visible_key_is_accepted(key: str) -> None:
    assert check_key(key, path="key") == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a" * 256,
        "al ice",
        "al\nice",
        "al\x00ice",
        "al\u00a0ice",  # no-break space
        "al\u200bice",  # zero-width space
        "al\u200dice",  # zero-width joiner
        "\ufeffalice",  # byte order mark
        "al\u00adice",  # soft hyphen
        "al\u3164ice",  # Hangul filler
        "al\u2800ice",  # blank Braille pattern
        "alice\ufe0f",  # variation selector
        "alice\U000e0100",  # variation selector
        "al\u202eice",  # right-to-left override
        "al\ud800ice",  # half of a surrogate pair
    ],
)
def test_a_key_with_invisible_characters_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_key(key, path="ownerId")

    assert refused.value.message == "ownerId must have 1 to 255 visible characters, without spaces."
