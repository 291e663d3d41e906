"""Files that users upload: models and texts for their jobs."""
