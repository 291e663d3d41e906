from tests.tiny_models import make_model, tokenizer

__all__ = ["make_model", "tokenizer"]
