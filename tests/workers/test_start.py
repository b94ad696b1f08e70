"""A worker that would de-identify with less than the operator listed does not start."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings

from retrieval.models import Stage
from workers import app as worker


@pytest.mark.parametrize("stage", [Stage.DEIDENTIFY, Stage.ENCODE])
def test_a_worker_does_not_start_with_a_detector_that_is_not_as_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    listed = tmp_path / "detectors.toml"
    listed.write_text("[[detector]]\nname = 'ward'\n", encoding="utf-8")
    monkeypatch.setattr(settings, "CLOISTER_DETECTORS", listed)
    queues = SimpleNamespace(consume_from={stage: None})
    monkeypatch.setattr(worker, "app", SimpleNamespace(amqp=SimpleNamespace(queues=queues)))

    with pytest.raises(SystemExit):
        worker.refuse_detectors_that_cannot_be_used()
