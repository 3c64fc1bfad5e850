"""Loads a document's text: parse, check by the schema, build, check the meaning; and finds places in the text."""
