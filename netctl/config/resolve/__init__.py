"""Document and view to what one host should have, less what it refuses."""
