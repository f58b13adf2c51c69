"""The reward model: head, packed attention, adapters, what is saved."""
