"""Files that a job has published."""
