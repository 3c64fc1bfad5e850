"""Writes the text of documents: new, edited and formatted ones, and excerpts for one member."""
