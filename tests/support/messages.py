"""Compare what a message names and counts, whatever its wording."""


def words(message: str) -> set[str]:
    """Return the words, names and numbers of a message, without the quotes and punctuation around them."""
    return {word.strip("\"'`.,:;!?…()[]") for word in message.split()}
