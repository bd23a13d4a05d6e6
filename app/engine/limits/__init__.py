"""What a caller may ask for: how large a document, how often, how much at once. What is refused costs little."""
