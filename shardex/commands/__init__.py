"""One thin module for each command: arguments in, a call, words out. Heavy imports stand inside the functions."""
