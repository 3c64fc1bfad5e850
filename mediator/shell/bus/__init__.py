"""The bus between the mediators of one store: one seam, three implementations."""
