"""Text to Document: parse, check by the schema, build, check the meaning; and back to the place in the text."""
