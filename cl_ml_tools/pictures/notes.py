"""What a user is told of what was given up."""


class Notes(list[str]):
    """Sentences, each once."""

    def add(self, sentence: str) -> None:
        """Take a sentence that is not there yet."""
        if sentence not in self:
            self.append(sentence)
