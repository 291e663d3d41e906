"""Workers of the installation: which there are, on what machines, and what each is at."""
