"""The reward model: head, packed attention, adapters, what is saved."""

# Registers the model, and with it imports this folder in its own order: whichever part is asked for first, importing
# transformers' Auto classes halfway would import the others before that part is whole.
import transformers.models.auto.modeling_auto  # noqa: F401
