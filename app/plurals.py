"""Numbers with their noun in messages for people: "1 credit", "1,000 credits"."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with its noun. `plural` is the noun with an s unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
