"""Whole runs as a user has them: a wheel in an environment of its own, QLoRA, and the page of a run in a browser."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from micro_run import MICRO, STAGES, Made, micro_run
from test_report_browser import Visit, browser  # noqa: F401 (a fixture is used by its name)

ROOT = Path(__file__).parents[2]
MICRO_4BIT = [setting for setting in MICRO if not setting.startswith("filter.")]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return micro_run(tmp_path_factory.getbasetemp())


def run(*arguments: object, cwd: Path | str = "/") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_runs_the_whole_recipe(tmp_path):
    source = tmp_path / "source"
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip())
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", own, wheel)
    assert installed.returncode == 0, installed.stderr
    # What tunewell depends on comes from this environment; its editable tunewell is not on a path without .pth files.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    assert str(own) in run(python, "-c", "import tunewell; print(tunewell.__file__)").stdout
    done = run(
        python, "-m", "tunewell.pipelines.cli", "run", *MICRO_4BIT, "filter.thresholds.contempt=5", "--json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert {"filter.precision", "reward.accuracy", "truthfulness.ppo", "toxicity.ppo"} <= results.keys()


@pytest.mark.slow
def test_qlora_trains_all_stages_on_a_4_bit_base(tmp_path):
    out = tmp_path / "run"
    done = run(
        sys.executable, "-m", "tunewell.pipelines.cli", "run", *MICRO_4BIT, "base.quantization=nf4",
        "filter.thresholds.contempt=5", "--json", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in sorted(out.glob("0*"))] == list(STAGES)
    results = json.loads(done.stdout)["results"]
    assert results["reward.sft"]["value"] is not None
    from safetensors.numpy import load_file

    for adapter in ("02-sft/policy", "03-reward/reward", "04-ppo/policy"):
        weights = load_file(out / adapter / "adapter_model.safetensors")
        lora_b = [value for name, value in weights.items() if "lora_B" in name]
        # B starts at zero: any other value was trained; bfloat16 would have lost most of these small updates.
        assert lora_b and all(value.dtype == "float32" for value in lora_b)
        assert any(abs(value).max() > 0 for value in lora_b)


@pytest.mark.browser
def test_the_page_of_a_run_opens_without_network_and_covers_what_is_toxic(made, browser):  # noqa: F811
    page_file = made.folder / "report.html"
    visit = Visit(browser, page_file.as_uri())
    assert visit.requests == [page_file.as_uri()]
    assert visit.complaints == []
    text = visit.page.inner_text("body")
    record = json.loads((made.folder / "run.json").read_text())
    assert f"{record['results']['reward.accuracy']['n']} held-out pairs" in text
    for name in ("Truthful answers (MC1)", "Toxicity probability", "Reward of an answer", "PPO: reward against KL"):
        assert name in text
    assert record["versions"]["torch"] in visit.page.content()
    visit.context.close()
