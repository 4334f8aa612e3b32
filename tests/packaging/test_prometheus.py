"""The alert rules and the dashboard as Prometheus reads them. tests/daemon/test_metrics.py: carpd has their metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.conftest import need

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "carpd.rules.yml"
STORIES = Path(__file__).with_name("carpd.rules.test.yml")


def promtool(*arguments: object) -> str:
    """What it says; it must find nothing wrong."""
    need("promtool")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_rule_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    for file in (RULES, STORIES):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", tmp_path / STORIES.name)
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    untold = [alert for alert in alerts if not re.search(rf"\b{alert}\b", STORIES.read_text())]
    assert untold == []


def test_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """Prometheus can read each of them, once Grafana has put in what they leave open; no two panels have one number."""
    dashboard = json.loads((PACKAGING / "grafana" / "carpd.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(dashboard))) <= variables
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) > 20
    rules = [
        {"record": f"x:{number}", "expr": re.sub(r"\$\w+", "x", expression.replace("$__rate_interval", "1m"))}
        for number, expression in enumerate(expressions)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
