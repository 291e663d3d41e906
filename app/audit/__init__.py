"""Who did what: one entry for every change that a person or a program asked for."""
