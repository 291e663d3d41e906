"""What this installation offers: methods and models."""
