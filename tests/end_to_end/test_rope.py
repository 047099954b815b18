"""`python -m roformer_jax rope` as a person calls it."""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

SCALED = ["rope", "--scaling", "yarn", "--factor", "4", "--original-length", "256", "--head-size", "32"]
TRAINING_INSTALL = ("flax", "optax", "orbax", "grain", "tensorflow_datasets", "tokenizers", "chex", "rich", "sklearn")


def test_the_command_prints_a_table_and_draws_nothing_by_itself(here):
    outcome = here(*SCALED)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("RoPE: head size 32, theta 10,000, yarn by 4 from 256 tokens\n")
    assert "wrote" not in outcome.out


def test_help_names_the_command_and_its_flags(here):
    assert "\n  rope " in here("--help").out
    outcome = here("rope", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    for flag in ("head-size", "theta", "scaling", "factor", "original-length", "context", "output"):
        assert f"--{flag} " in outcome.text


def test_figures_are_drawn_as_svg_and_png_the_same_every_time(here, files, tmp_path):
    outcome = here(*SCALED, "--output", str(tmp_path / "new" / "folder"))
    assert (outcome.code, outcome.err) == (0, "")
    drawn = files(tmp_path / "new" / "folder")
    names = {f"rope-{name}.{kind}" for name in ("decay", "wavelengths", "scalings") for kind in ("svg", "png")}
    assert set(drawn) == names
    assert all(f"wrote {tmp_path / 'new' / 'folder' / name}\n" in outcome.out for name in names)
    for name, content in drawn.items():
        if name.endswith("svg"):
            assert "head size 32, theta 10,000, yarn by 4" in "".join(ElementTree.fromstring(content).itertext())
        else:
            assert content.startswith(b"\x89PNG")
    here(*SCALED, "--output", str(tmp_path / "new" / "folder"))
    assert files(tmp_path / "new" / "folder") == drawn


def test_no_scaling_has_no_figure_of_scalings(here, files, tmp_path):
    assert here("rope", "--original-length", "64", "--output", str(tmp_path)).code == 0
    assert {name.split(".")[0] for name in files(tmp_path)} == {"rope-decay", "rope-wavelengths"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--factor", "8"], "--factor 8 scales nothing"),
        (["--scaling", "yarn"], "--scaling yarn needs --factor"),
        (["--scaling", "yam", "--factor", "8"], "invalid choice 'yam' for argument '--scaling'"),
        (["--head-size", "7"], "--head-size must be even"),
        (["--original-lenght", "9"], "Perhaps you meant: --original-length"),
    ],
)
def test_bad_values_end_with_code_2_and_write_nothing(here, files, tmp_path, flags, message):
    outcome = here("rope", *flags, "--output", str(tmp_path))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.text
    assert "Traceback" not in outcome.err
    assert files(tmp_path) == {}


def test_a_file_in_place_of_the_folder_is_refused(here, tmp_path):
    (tmp_path / "taken").write_text("mine")
    outcome = here("rope", "--output", str(tmp_path / "taken"))
    assert (outcome.code, outcome.out) == (2, "")
    assert "taken is a file; name a folder for the figures" in outcome.text
    assert (tmp_path / "taken").read_text() == "mine"


def test_without_matplotlib_the_table_is_printed_and_the_message_says_what_to_install(here, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = here(*SCALED, "--output", str(tmp_path / "figures"))
    assert outcome.code == 2
    assert outcome.out.startswith("RoPE: head size 32")
    assert outcome.err == 'error: this needs matplotlib, which is not installed: pip install "roformer-jax[plots]"\n'
    assert not (tmp_path / "figures").exists()


def test_without_tyro_the_message_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    outcome = here(*SCALED)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == 'error: this needs tyro, which is not installed: pip install "roformer-jax[plots]"\n'


def test_nothing_of_the_training_install_is_needed(process, tmp_path):
    hidden = f"sys.modules.update(dict.fromkeys({TRAINING_INSTALL}))"
    command = [*SCALED, "--output", str(tmp_path)]
    outcome = process("-c", f"import sys; {hidden}; from roformer_jax.cli import main; sys.exit(main({command}))")
    assert (outcome.code, outcome.err) == (0, "")
