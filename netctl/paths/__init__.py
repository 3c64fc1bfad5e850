"""How a tunnel's packets travel just now, sans-IO (floor F2)."""
