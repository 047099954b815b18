"""The parts of the site that no package brings: Sphinx extensions, and helpers of its notebooks."""
