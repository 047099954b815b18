"""Scaling: spectra changed so that a model reads texts longer than those it was trained on.

Every function takes a spectrum and returns one, so they compose. NumPy in, NumPy float64 out; where the spectrum, a
factor or a length is a JAX array the result is float32 and everything may be traced: a new factor or length does not
recompile. Values on the host that make no sense (a factor below 1, a length that is not positive) are refused by a
ValueError that names them; traced values cannot be checked.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from roformer_jax.rope.spectra import Scalar, Spectrum, check_positive, on_host_or_traced

# A geometric spectrum has one ratio of neighbours. Powers computed in float32 are off by about ln(theta) / 2 + 2 eps,
# 12 eps at most, and two ratios are compared of two such numbers each.
GEOMETRIC_TOLERANCE = 48 * float(np.finfo(np.float32).eps)


def scale_linear(freqs: Spectrum, factor: Scalar) -> Spectrum:
    """Divides every frequency by `factor`, any positive number: positions are interpolated (arXiv 2306.15595)."""
    check_positive(factor=factor)
    _, freqs, factor = on_host_or_traced(freqs, factor)
    return freqs / factor


def scale_ntk(freqs: Spectrum, factor: Scalar) -> Spectrum:
    """Divides the slowest frequency by `factor`, the fastest by 1, and those between by `factor^(i / (F - 1))`.

    Static NTK-aware scaling: the same as the base `theta * factor^(dim / (dim - 2))`. The one frequency of F = 1 is the
    fastest and stays, as under any base.
    """
    check_positive(1, factor=factor)
    xp, freqs, factor = on_host_or_traced(freqs, factor)
    share = xp.arange(freqs.size, dtype=freqs.dtype) / max(freqs.size - 1, 1)
    return freqs * factor**-share


def scale_dynamic_ntk(freqs: Spectrum, factor: Scalar, *, length: Scalar, original_length: Scalar) -> Spectrum:
    """Applies `scale_ntk` with a factor that grows with the text: `1 + factor * (length / original_length - 1)`.

    Up to `original_length` nothing changes. Keys rotated at one length do not fit queries rotated at another: with a
    cache of rotated keys, choose one length for the whole text (transformers#25104).

    Args:
        freqs: radians per token [F].
        factor: growth per original length, at least 1.
        length: tokens of the current text.
        original_length: tokens the model was trained on.
    """
    check_positive(1, factor=factor)
    check_positive(length=length, original_length=original_length)
    xp, factor, length, original_length = on_host_or_traced(factor, length, original_length)
    growth = 1 + factor * (xp.maximum(length / original_length, 1.0) - 1)
    return scale_ntk(freqs, growth)


def scale_yarn(
    freqs: Spectrum,
    factor: Scalar,
    *,
    original_length: Scalar,
    beta_fast: Scalar = 32.0,
    beta_slow: Scalar = 1.0,
    truncate: bool = True,
) -> Spectrum:
    """Interpolates slow pairs only (YaRN, arXiv 2309.00071): a ramp over i from `freqs` to `freqs / factor`.

    It begins at the pair that makes `beta_fast` turns in `original_length` tokens and ends at the one that makes
    `beta_slow`, places that follow from the geometric series `freqs`. Its gain is `yarn_gain`.

    Args:
        freqs: radians per token [F], a falling geometric series, F >= 2 (`scale_linear` and `scale_ntk` keep it one).
        factor: new length over original length, at least 1.
        original_length: tokens the model was trained on.
        beta_fast: turns above which a pair is left alone, more than `beta_slow`.
        beta_slow: turns below which a pair is interpolated entirely.
        truncate: round the ends of the ramp outwards to whole pairs, as the paper's code does and gpt-oss does not;
            in float32 an end that is almost whole may round the other way.

    Raises:
        ValueError: also if `freqs` on the host is no falling geometric series.
    """
    check_positive(1, factor=factor)
    check_positive(original_length=original_length, beta_fast=beta_fast, beta_slow=beta_slow)
    _check_order(beta_slow=beta_slow, beta_fast=beta_fast)
    _check_geometric(freqs)
    xp, freqs, factor, length, *betas = on_host_or_traced(freqs, factor, original_length, beta_fast, beta_slow)
    ratio = xp.log(freqs[0] / freqs[1])
    begin, end = (xp.log(freqs[0] * length / (math.tau * turns)) / ratio for turns in betas)
    if truncate:
        begin, end = xp.floor(begin), xp.ceil(end)
    # The paper's code clips to channels, not pairs, and keeps a ramp of no width from dividing by zero by this much.
    begin, end = xp.maximum(begin, 0.0), xp.minimum(end, 2.0 * freqs.size - 1)
    width = xp.where(begin == end, 0.001, end - begin)
    ramp = xp.clip((xp.arange(freqs.size, dtype=freqs.dtype) - begin) / width, 0, 1)
    return freqs / factor * ramp + freqs * (1 - ramp)


def scale_llama3(
    freqs: Spectrum,
    factor: Scalar,
    *,
    original_length: Scalar,
    low_freq_factor: Scalar = 1.0,
    high_freq_factor: Scalar = 4.0,
) -> Spectrum:
    """Divides the frequencies of pairs that turn little in `original_length` tokens (Llama 3.1, `apply_scaling`).

    Pairs that make more than `high_freq_factor` turns stay, those that make fewer than `low_freq_factor` are divided by
    `factor`, and between them `1 / factor` goes to 1 linearly in the number of turns.

    Args:
        freqs: radians per token [F].
        factor: at least 1: 8 in Llama 3.1, 32 in Llama 3.2.
        original_length: tokens the model was trained on: 8192.
        low_freq_factor: turns.
        high_freq_factor: turns, more than `low_freq_factor`.
    """
    check_positive(1, factor=factor)
    check_positive(original_length=original_length, low_freq_factor=low_freq_factor, high_freq_factor=high_freq_factor)
    _check_order(low_freq_factor=low_freq_factor, high_freq_factor=high_freq_factor)
    xp, freqs, factor, *rest = on_host_or_traced(freqs, factor, original_length, low_freq_factor, high_freq_factor)
    length, low, high = rest
    kept = xp.clip((freqs * length / math.tau - low) / (high - low), 0, 1)
    return freqs * ((1 - kept) / factor + kept)


def scale_longrope(
    freqs: Spectrum,
    short_factors: Sequence[float | int] | Spectrum,
    long_factors: Sequence[float | int] | Spectrum,
    *,
    length: Scalar,
    original_length: Scalar,
) -> Spectrum:
    """Divides every frequency by a factor of its own (LongRoPE, arXiv 2402.13753), found by search for long texts.

    Its gain is `longrope_gain`. The switch at `original_length` concerns all positions of a text: with a cache of
    rotated keys, choose one length for the whole text (transformers#33129).

    Args:
        freqs: radians per token [F].
        short_factors: [F], for texts of up to `original_length` tokens.
        long_factors: [F], for longer ones.
        length: tokens of the current text.
        original_length: tokens the model was trained on.

    Raises:
        ValueError: also if there are not F factors.
    """
    check_positive(length=length, original_length=original_length)
    for name, factors in {"short_factors": short_factors, "long_factors": long_factors}.items():
        if np.shape(factors) != freqs.shape:
            raise ValueError(f"{name} must hold one factor per frequency, {freqs.shape}, got {np.shape(factors)}")
        if not isinstance(factors, jax.Array):
            check_positive(**{f"the smallest of {name}": float(np.min(factors))})
    xp, freqs, short, long, length, original_length = on_host_or_traced(
        freqs, short_factors, long_factors, length, original_length
    )
    return freqs / xp.where(length > original_length, long, short)


def yarn_gain(factor: Scalar, mscale: Scalar = 1.0, mscale_all_dim: Scalar = 0.0) -> Scalar:
    """Returns the factor on cos and sin that goes with `scale_yarn`: `(0.1 mscale ln factor + 1)` over the other one.

    The temperature of YaRN's equation 25 for the defaults. DeepSeek divides by the same form with `mscale_all_dim`, and
    multiplies the scale of its softmax by the square of that form, `yarn_gain(factor, mscale_all_dim) ** 2`, besides.
    """
    check_positive(1, factor=factor)
    xp, factor, mscale, mscale_all_dim = on_host_or_traced(factor, mscale, mscale_all_dim)
    return (0.1 * mscale * xp.log(factor) + 1) / (0.1 * mscale_all_dim * xp.log(factor) + 1)


def longrope_gain(factor: Scalar, original_length: Scalar) -> Scalar:
    """Returns the factor on cos and sin that goes with `scale_longrope`: `sqrt(1 + ln factor / ln original_length)`.

    Args:
        factor: longest length over `original_length`, at least 1.
        original_length: tokens the model was trained on, at least 2.
    """
    check_positive(1, factor=factor)
    check_positive(2, original_length=original_length)
    xp, factor, original_length = on_host_or_traced(factor, original_length)
    return xp.sqrt(1 + xp.log(factor) / xp.log(original_length))


def _check_order(**bounds: Scalar) -> None:
    """Raises a ValueError unless the first of two host values is below the second."""
    (low_name, low), (high_name, high) = bounds.items()
    if not any(isinstance(bound, jax.Array) for bound in (low, high)) and low >= high:
        raise ValueError(f"{high_name} must be above {low_name}, got {high_name}={high} and {low_name}={low}")


def _check_geometric(freqs: Spectrum) -> None:
    """Raises a ValueError unless there are two frequencies, and on the host unless they fall by one ratio."""
    if freqs.size < 2:
        raise ValueError(f"YaRN finds its ramp from the ratio of neighbouring frequencies, got {freqs.size} of them")
    if isinstance(freqs, jax.Array):
        return
    ratios = freqs[1:] / freqs[:-1] if freqs.min() > 0 else np.zeros(1)
    if not (0 < ratios[0] < 1 and np.allclose(ratios, ratios[0], rtol=GEOMETRIC_TOLERANCE, atol=0)):
        raise ValueError(
            "YaRN finds its ramp from a falling geometric series, as `frequencies` makes, "
            f"but neighbouring freqs have ratios from {ratios.min():g} to {ratios.max():g}"
        )
