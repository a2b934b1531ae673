"""How good a result is, in numbers; numpy only."""
