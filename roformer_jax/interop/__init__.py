"""Other people's checkpoints, in and out, without their code."""
