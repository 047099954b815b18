"""What needs no run: rope."""

from roformer_jax.commands.parsing import need, parse


def rope(arguments: list[str]) -> None:
    """Print a spectrum and its scaling; draw it into a folder."""
    need("tyro", extra="plots")
    from roformer_jax import spectrum

    options = parse(spectrum.Spectrum, arguments, prog="python -m roformer_jax rope")
    for line in spectrum.describe(options):
        print(line, flush=True)
    if options.output is None:
        return
    need("matplotlib", extra="plots")
    from roformer_jax.report.spectrum import draw

    for file in draw(options, options.output):
        print(f"wrote {file}")
