"""Documents written: new ones, edited ones, formatted ones, and excerpts for one member."""
