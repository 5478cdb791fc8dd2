"""How each row of the table answers questions; every method is one function over the same arguments."""
