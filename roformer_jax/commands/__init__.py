"""The commands of the command line, each a function of its arguments; what it needs it imports when it runs."""
