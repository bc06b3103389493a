"""What happens to a model: attach, train, merge, save and load; several adapters on one base."""
