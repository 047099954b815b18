"""Where model, data and loss meet: one file per task."""
