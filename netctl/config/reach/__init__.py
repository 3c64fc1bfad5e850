"""Who reaches whom by a document, and what of that changes between two."""
